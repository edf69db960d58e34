"""Method implementations that several tasks share."""

import numpy as np
import torch
from numpy.typing import NDArray

from swa_cli.tasks.labels import Labels
from swa_cli.tasks.records import Records


def all_units(target: object) -> None:
    """Score every unit of a batch, also those without an element to score."""
    del target


def nothing_odd(output: object) -> None:
    """Accept any output."""
    del output


def as_recorded(records: Records, groups: NDArray[np.int64] | None) -> Records:
    """Return the records of the batches as they are."""
    del groups
    return records


def no_warnings(records: Records) -> tuple[str, ...]:
    """Return no warnings about the targets."""
    del records
    return ()


def probabilities_and_classes(prediction: torch.Tensor, target: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities (m, C) and class indices (m,)."""
    return prediction.exp(), target.index
