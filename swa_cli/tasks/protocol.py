"""What a task must offer, so that models of it can be evaluated, mixed and compared."""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from swa_cli.tasks.metrics import Metric
from swa_cli.tasks.records import Records
from swa_cli.user.batch import Batch


class Mixture(Protocol):
    """Predictions of several members for one batch, added one after the other, and their ensemble."""

    def add(self, prediction: Any) -> None:
        """One more member's."""
        ...

    def arithmetic(self) -> Any:
        """The mean of what the members predict, as a prediction: of probabilities (FGE), or of values."""
        ...

    def geometric(self) -> Any:
        """What the mean of the members' logits predicts; None where there are no logits."""
        ...

    def agreement(self, prediction: Any) -> Records | None:
        """How near a prediction is to the ensemble's: columns ``count``, ``agreement``, ``squared_distance``.

        None where that is not defined.
        """
        ...

    def diversity(self) -> Records | None:
        """The same of the members, the mean over them."""
        ...


class Task(Protocol):
    """Frozen; what `output`, `target` and `predict` give is known to no one else: tensors, or what a user's task has.

    Attributes:
        name: as ``--task`` has it.
        unit: what is resampled: "example", "image", …
        primary: name of the metric that decides.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def primary(self) -> str: ...  # noqa: D102

    def output(self, output: Any) -> Any:
        """The part of a model's output that is evaluated, as the model gives it.

        Raises:
            DataError: it is not what the task expects; the message does not say whose output and which batch.
        """
        ...

    def sanity_warning(self, output: Any) -> str | None:
        """What is to be said if all outputs of a candidate are like this one; None where it is as it should be."""
        ...

    def target(self, example: Batch, output: Any) -> Any:
        """The example's target, on the device of ``output``.

        Raises:
            DataError: it does not fit the output; the message does not say which batch.
        """
        ...

    def scored_indices(self, target: Any) -> torch.Tensor | None:
        """Places of the batch's units that are scored, int64; None where all are."""
        ...

    def predict(self, output: Any, target: Any) -> Any:
        """What is measured and mixed, float64 where it is a tensor: of the elements that have a target only."""
        ...

    def ensemble_accumulator(self, target: Any) -> Mixture | None:
        """A mixture of no member yet; None where predictions cannot be mixed, so that there is no ensemble."""
        ...

    def score_batch(self, prediction: Any, target: Any, *, full: bool) -> Records:
        """The batch's records.

        Args:
            full: with what only `Metric.shown` or compared scores need; False for one of many prefixes of an ensemble.
        """
        ...

    def finish(self, records: Records, groups: NDArray[np.int64] | None) -> Records:
        """The records of all batches with what can be known only now; ``groups`` has the group of each unit."""
        ...

    def warnings(self, records: Records) -> tuple[str, ...]:
        """What is odd about the targets of all batches."""
        ...

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """The scores that records have, the primary one first."""
        ...

    def for_torchmetrics(self, prediction: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """``preds`` and ``target`` as torchmetrics' objects for the task take them."""
        ...
