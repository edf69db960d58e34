"""The state that the workers of one average share."""

from dataclasses import dataclass
from typing import Protocol

from swa_cli.averaging.chunks import Piece, Write
from swa_cli.averaging.fingerprints import Fingerprints
from swa_cli.averaging.plan import AveragePlan
from swa_cli.formats import OpenFiles


@dataclass(frozen=True, kw_only=True)
class AverageContext:
    """An average in progress: its plan, its open sources, its output and its fingerprints."""

    plan: AveragePlan
    files: OpenFiles
    write: Write
    fingerprints: Fingerprints

    @property
    def allow_nonfinite(self) -> bool:
        """Whether NaN and infinity are averaged like any number."""
        return self.plan.allow_nonfinite


class NotFiniteError(Exception):
    """The result of a piece holds NaN or infinity; the caller finds out why."""

    def __init__(self, piece: Piece) -> None:
        super().__init__(f"piece {piece.index} is not finite")
        self.piece = piece


class Worker(Protocol):
    """Processes pieces one after the other in one thread; `finish` completes those in progress."""

    def submit(self, piece: Piece) -> None:
        """Read, average and write a piece, or start to.

        Raises:
            NotFiniteError: this piece or an earlier one is not finite.
            CheckpointError: a file ends early or cannot be read.
            MismatchError: an integer tensor differs between sources.
            OSError: the output cannot be written.
        """
        ...

    def finish(self) -> None:
        """Wait until every submitted piece is written; raises as `submit`."""
        ...
