"""A task put through what an evaluation does with it."""

import numpy as np
import torch

from swa_cli.tasks import Records, join
from swa_cli.user.batch import Batch


def example(target, *args, **kwargs) -> Batch:
    return Batch(args, kwargs, target)


def predicted(task, batch: Batch, raw):
    """Prediction and target."""
    output = task.output(raw)
    target = task.target(batch, output)
    return task.predict(output, target), target


def records_of(task, batches) -> Records:
    """Of batches (example, what the model returned)."""
    parts = [task.score_batch(*predicted(task, batch, raw), full=True) for batch, raw in batches]
    return task.finish(join(parts), None)


def scores(task, batches) -> dict[str, float]:
    return scores_of(task, records_of(task, batches))


def scores_of(task, records: Records) -> dict[str, float]:
    return {metric.name: metric.of(records) for metric in task.metrics(records)}


def score_of_units(task, records: Records, name: str, units: list[int]) -> float:
    """The score of a few of the units, from its parts, as a bootstrap has it."""
    metric = next(metric for metric in task.metrics(records) if metric.name == name)
    return float(metric.parts.value(metric.parts.sums(records)[units].sum(axis=0)))


def together(task, batch: Batch, raws):
    """The mixture of several members' outputs, their predictions, and the target."""
    both = [predicted(task, batch, raw) for raw in raws]
    predictions, target = [prediction for prediction, _ in both], both[-1][1]
    mixture = task.ensemble_accumulator(target)
    assert mixture is not None
    for prediction in predictions:
        mixture.add(prediction)
    return mixture, predictions, target


def scores_together(task, batch: Batch, raws, kind: str = "arithmetic") -> dict[str, float]:
    mixture, _, target = together(task, batch, raws)
    records = task.score_batch(getattr(mixture, kind)(), target, full=True)
    return scores_of(task, task.finish(records, None))


def mean_scores(task, batch: Batch, raws) -> dict[str, float]:
    each = [scores(task, [(batch, raw)]) for raw in raws]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def nearness(task, batch: Batch, raws) -> tuple[dict[str, float], dict[str, float]]:
    """The mean over the members of how near each is to the ensemble (squared for the distance), in both ways."""
    mixture, predictions, _ = together(task, batch, raws)
    near = [scores_of(task, mixture.agreement(prediction)) for prediction in predictions]
    distances = [one["ensemble_distance"] ** 2 for one in near]
    one_by_one = {"ensemble_distance": float(np.mean(distances))}
    if "ensemble_agreement" in near[0]:
        one_by_one["ensemble_agreement"] = float(np.mean([one["ensemble_agreement"] for one in near]))
    at_once = scores_of(task, mixture.diversity())
    at_once["ensemble_distance"] **= 2
    return one_by_one, at_once


def log_softmax(logits) -> np.ndarray:
    """Slow and obvious, over the last dimension."""
    wide = np.asarray(torch.as_tensor(logits).double())
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
