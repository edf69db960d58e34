"""The one value that an evaluation gives; every report is a rendering of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
class BnRecord:
    """How the BatchNorm statistics of the average were recomputed, as far as its file says; else None.

    ``standard_error`` is the largest of all layers: of their means in standard deviations, or of their variances
    relative to these; ``partial`` says that less than all data were asked for. ``kept`` says of layers that were left
    alone why they were, ``unreached`` are those that no batch reached. ``batch_size`` is None where it was the loader's
    own.
    """

    file: str
    estimator: str
    model: str
    model_args: Mapping[str, Any]
    data: str
    data_args: Mapping[str, Any]
    n_samples: int
    n_batches: int
    batch_size: int | None
    seed: int | None
    eval_transforms: bool
    amp: str | None
    standard_error: float | None
    partial: bool
    kept: Mapping[str, str]
    unreached: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Candidates in the order of the report, and SWA against the rest. ``split`` says which data were used."""

    split: str
    n_examples: int
    candidates: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...] = ()
    bn_update: BnRecord | None = None
    """None where nothing is known of it."""
    task: Literal["classification"] = "classification"

    def of_kind(self, kind: Kind) -> tuple[Candidate, ...]:
        """The rows of one kind, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.kind == kind)
