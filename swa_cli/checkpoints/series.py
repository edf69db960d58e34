"""The checkpoints of a run, each with its place among the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from swa_cli.formats import Checkpoint


@dataclass(frozen=True, kw_only=True)
class SeriesMember:
    """A checkpoint and its place in a run."""

    checkpoint: Checkpoint
    link: PurePath | None = None
    """The path of the link under which the file was found; None if it is the file itself."""
    step: int | None = None
    """The step by which the run is ordered; None if unknown."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """The metrics in the file's contents or in any of its names."""

    @property
    def path(self) -> PurePath:
        """The path under which the file was found."""
        return self.link or self.checkpoint.path


@dataclass(frozen=True, kw_only=True)
class CheckpointSeries:
    """The checkpoints of a run, oldest first, how they were ordered, and notices for the user."""

    members: tuple[SeriesMember, ...]
    ordered_by: str
    notices: tuple[str, ...]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints, oldest first."""
        return tuple(member.checkpoint for member in self.members)

    @property
    def steps(self) -> tuple[int | None, ...]:
        """The step of each checkpoint."""
        return tuple(member.step for member in self.members)
