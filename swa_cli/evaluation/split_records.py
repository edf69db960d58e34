"""What one pass over a split gave, of each candidate that went through it."""

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

    ``members`` is the kind of what the checkpoints have in common with their ensemble, the mean over them; ``prefix``
    is the ensemble of the first ``members`` checkpoints. ``extra`` has the scores that torchmetrics' objects gave.
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
    """The rows of a split, on the same units: members in the order given, prefixes among them, then ensembles.

    ``groups`` numbers the group of each unit, int64, where groups were given.
    """

    split: str
    task: Task
    rows: tuple[Row, ...]
    groups: NDArray[np.int64] | None
    warnings: tuple[str, ...] = ()

    def of_kind(self, *kinds: RowKind) -> tuple[Row, ...]:
        """The rows of these kinds, in order."""
        return tuple(row for row in self.rows if row.kind in kinds)

    @property
    def n_units(self) -> int:
        """How many there are."""
        return self.rows[0].records.n_units
