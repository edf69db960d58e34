"""The one value that an evaluation gives; every report is a rendering of it."""

from dataclasses import dataclass
from typing import Literal

from swa_cli.evaluation.compare import Comparison
from swa_cli.evaluation.records import Scores

Kind = Literal["checkpoint", "last", "mean", "swa", "ensemble"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the report.

    ``forward_passes`` is what one prediction costs. ``members`` is how many checkpoints stand behind the row, for
    the mean over checkpoints (whose scores are means of scores) and for the ensemble.
    """

    name: str
    kind: Kind
    scores: Scores
    forward_passes: int = 1
    step: int | None = None
    members: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Candidates in the order of the report, and SWA against the rest. ``split`` says which data were used."""

    split: str
    n_examples: int
    candidates: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...] = ()
    task: Literal["classification"] = "classification"

    def of_kind(self, kind: Kind) -> tuple[Candidate, ...]:
        """The rows of one kind, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.kind == kind)
