"""The records of all candidates from one pass over a split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swa_cli.evaluation.members import MemberKind
from swa_cli.tasks import Records, Task

RowKind = MemberKind | Literal["members", "ensemble", "geometric", "prefix"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A candidate and its records.

    The kind ``members`` holds how close the checkpoints are to their ensemble, as a mean over them; ``prefix`` is the
    ensemble of the first ``members`` checkpoints. ``extra`` holds the values of torchmetrics objects.
    """

    name: str
    kind: RowKind
    records: Records
    step: int | None = None
    members: int | None = None
    chosen_on: str | None = None
    extra: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class SplitRecords:
    """The rows of a split, on the same units: members in the order given, with prefixes between, then ensembles.

    ``groups`` is the number of each unit's group, int64; None without groups.
    """

    split: str
    task: Task
    rows: tuple[Row, ...]
    groups: NDArray[np.int64] | None
    warnings: tuple[str, ...] = ()

    def of_kind(self, *kinds: RowKind) -> tuple[Row, ...]:
        """Return the rows of these kinds, in order."""
        return tuple(row for row in self.rows if row.kind in kinds)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.rows[0].records.n_units
