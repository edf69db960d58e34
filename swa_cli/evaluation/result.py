"""The one value that an evaluation gives; every report is a rendering of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from swa_cli.evaluation.verdict import Verdict

Kind = Literal[
    "checkpoint",
    "last",
    "best",
    "mean",
    "swa",
    "swa-averaged-bn",
    "control",
    "window",
    "greedy",
    "ensemble",
    "geometric",
]
"""``last``, ``best`` (by validation) and ``mean`` sum the checkpoints up; ``swa-averaged-bn`` is the average with
averaged BatchNorm statistics, ``control`` the last checkpoint with recomputed ones; ``window`` is the average of the
last k, k chosen on validation data, ``greedy`` the greedy soup; ``ensemble`` is the mean of probabilities,
``geometric`` that of logits."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a number in ``Candidate.scores`` is; ``percent`` says that it is a fraction, shown in percent.

    ``higher_is_better`` is None where that is not known.
    """

    name: str
    label: str
    higher_is_better: bool | None
    percent: bool
    shown: bool
    """Whether the table at the terminal has it; the files have all."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the report.

    ``forward_passes`` is what one prediction costs. ``members`` is how many checkpoints stand behind the row: for
    the mean over checkpoints (whose scores are means of scores), averages and ensembles. ``chosen_on`` is the split
    by which the row was chosen among others. A score that a row does not have is not in ``scores``; one that is not
    defined for these data is NaN.
    """

    name: str
    kind: Kind
    scores: Mapping[str, float]
    forward_passes: int = 1
    step: int | None = None
    members: int | None = None
    chosen_on: str | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """SWA minus another candidate, on the same units.

    The interval, of 95 %, is the paired BCa bootstrap's or Student's, whichever reaches further. ``p_value`` is that of
    McNemar's exact test for a 0/1 score, and otherwise the larger of the bootstrap's and of Student's; ``p_adjusted``
    the same after Holm, over the comparisons of this metric. They cover the choice of the test data, not the
    randomness of training.

    Attributes:
        other: what it is compared with, as a sentence names it: "the last checkpoint".
        kind: of the other.
        standard_error: of the difference.
        smallest_resolvable: the difference that these data would show in 80 % of cases, were it the only comparison.
        units_needed: how many units (groups, where there are groups) would resolve the difference that was found, or
            with a margin its distance from a loss of as much; None where that is 0.
        margin: the loss that is put up with, if one was given, in the score's own unit (a fraction, say).
    """

    metric: str
    other: str
    kind: Kind
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_adjusted: float
    standard_error: float
    smallest_resolvable: float
    units_needed: int | None
    margin: float | None
    verdict: Verdict

    @property
    def is_nothing(self) -> bool:
        """Whether both came out the same, on every resample too."""
        return self.difference == self.ci_low == self.ci_high == 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the average is to be shipped, judged against the last checkpoint and the best by validation.

    Where it is worse than the control, the last checkpoint with recomputed statistics, it is not.

    Attributes:
        verdict: the worst over these of what the two deciding metrics say together.
        mixed: whether the primary metric is better, and the other one worse, against one of them.
        primary: the metric that decides.
        secondary: the one that must not be worse, if there is one.
    """

    verdict: Verdict
    mixed: bool
    primary: str
    secondary: str | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Averages of the last k checkpoints on ``split``; ``chosen`` is the k of the best primary score there."""

    split: str
    points: tuple[Candidate, ...]
    chosen: int


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
    """The scores of all candidates, and SWA against the rest.

    Attributes:
        split: which data were used.
        task: its name.
        unit: what is counted and resampled: "example", "image", …
        n_examples: how many units there are.
        n_groups: in how many groups they were resampled, where groups were given.
        scores: what the candidates' scores are, the primary one first.
        candidates: SWA, the checkpoints, and the others; tables sort them in an order of their own.
        prefixes: ensembles of the first k checkpoints, k = 1…K, where ensembles were asked for.
        curve: averages of the last k checkpoints, where they were asked for.
        warnings: what the reader must know before the numbers.
        notes: what else there is to know.
        plan: how the members went through the data.
        bn_update: None where nothing is known of it.
    """

    split: str
    task: str
    unit: str
    n_examples: int
    n_groups: int | None = None
    scores: tuple[Score, ...]
    candidates: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...]
    decision: Decision
    prefixes: tuple[Candidate, ...] = ()
    curve: Curve | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    plan: str = ""
    bn_update: BnRecord | None = None

    def of_kind(self, kind: Kind) -> tuple[Candidate, ...]:
        """The rows of one kind, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.kind == kind)

    def score(self, name: str) -> Score:
        """The description of one score."""
        return next(score for score in self.scores if score.name == name)

    def compared(self, metric: str, kind: Kind) -> Comparison | None:
        """SWA against the candidate of that kind, if they were compared."""
        found = (one for one in self.comparisons if (one.metric, one.kind) == (metric, kind))
        return next(found, None)
