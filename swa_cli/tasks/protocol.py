"""The interface of a task: what evaluation, ensembles and comparisons need."""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from swa_cli.tasks.metrics import Metric
from swa_cli.tasks.records import Records
from swa_cli.user.batch import Batch


class Mixture(Protocol):
    """The ensemble of several members' predictions for one batch, which are added one after the other."""

    def add(self, prediction: Any) -> None:
        """Add a member's prediction."""
        ...

    def arithmetic(self) -> Any:
        """Return the mean prediction: of probabilities (FGE), or of values."""
        ...

    def geometric(self) -> Any:
        """Return the prediction of the mean logits, or None without logits."""
        ...

    def agreement(self, prediction: Any) -> Records | None:
        """Return how close a prediction is to the ensemble's: ``count``, ``agreement``, ``squared_distance``.

        None if that is not defined.
        """
        ...

    def diversity(self) -> Records | None:
        """Return the mean of `agreement` over the members."""
        ...


class Task(Protocol):
    """A frozen description of a task; only the task itself interprets what `output`, `target` and `predict` return.

    Attributes:
        name: the name in the configuration.
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
        """Return the part of a model's output that is evaluated, unchanged.

        Raises:
            DataError: it is not what the task expects; the caller adds the model and the batch to the message.
        """
        ...

    def sanity_warning(self, output: Any) -> str | None:
        """Return a warning to show if it holds for all outputs of a candidate, or None."""
        ...

    def target(self, example: Batch, output: Any) -> Any:
        """Return the batch's target on the device of ``output``.

        Raises:
            DataError: it does not fit the output; the caller adds the batch to the message.
        """
        ...

    def scored_indices(self, target: Any) -> torch.Tensor | None:
        """Return the indices of the batch's units that are scored, int64; None for all."""
        ...

    def predict(self, output: Any, target: Any) -> Any:
        """Return the prediction for the elements that have a target; tensors are float64."""
        ...

    def ensemble_accumulator(self, target: Any) -> Mixture | None:
        """Return an empty ensemble; None if the task has no ensembles."""
        ...

    def score_batch(self, prediction: Any, target: Any, *, full: bool) -> Records:
        """Return the records of the batch.

        Args:
            full: include the columns of all scores; False for one of many prefixes of an ensemble.
        """
        ...

    def finish(self, records: Records, groups: NDArray[np.int64] | None) -> Records:
        """Complete the records of all batches with what needs all of them; ``groups`` has the group of each unit."""
        ...

    def warnings(self, records: Records) -> tuple[str, ...]:
        """Return warnings about the targets of all batches."""
        ...

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """Return the metrics that can be computed from the records, the primary one first."""
        ...

    def for_torchmetrics(self, prediction: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``preds`` and ``target`` in the form that torchmetrics expects."""
        ...
