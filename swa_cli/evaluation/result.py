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
    right_or_wrong: bool = False
    """Whether it is the mean of what is 0 or 1 for each unit, as an accuracy is."""


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

    The interval is of 95 % (`swa_cli.evaluation.compare`). It covers the choice of the test data, not the randomness of
    training.

    Attributes:
        other: what it is compared with, as a sentence names it: "the last checkpoint".
        kind: of the other.
        p_value: two-sided, of no difference. For an accuracy of independent units McNemar's, or from the same draws as
            the interval; else the larger of the bootstrap's and Student's.
        p_adjusted: the same after correction over ``corrected_for`` comparisons of this metric. A gain over what
            decides (the last checkpoint, the best by validation, the control) is not corrected, as an average has to
            beat all of them; a loss is, as one forbids it.
        standard_error: of the difference.
        smallest_resolvable: the difference that a test of this comparison alone would show in 80 % of such data sets.
        units_needed: how many units (groups, where there are groups) would show the difference that was found, or with
            a margin rule out a loss of as much, in 80 % of data sets, in this comparison alone; None if it is 0.
        margin: the loss that is accepted, if one was given, in the score's own unit (a fraction, say).
        effective_n: how many units of the same weight have as certain a spread as this difference has: (Σu²)² / Σu⁴ of
            the units' influences u; None if there is no spread, or it is not finite.
        top_share: of Σ|u|, what the 1 % of units (at least one) with the largest influence have; None likewise.
        dominated: whether so few units make the difference that its interval cannot be relied on. The verdict is then
            "inconclusive" for any interval and p-value.
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
    corrected_for: int = 1
    effective_n: float | None = None
    top_share: float | None = None
    dominated: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether both came out the same, on every resample too."""
        return self.difference == self.ci_low == self.ci_high == 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the average is to be shipped, judged against the last checkpoint and the best by validation.

    Where it is worse than the control, the last checkpoint with recomputed statistics, it is not. The rows that were
    asked for have no other influence on it.

    Attributes:
        verdict: the worst over these of what the two deciding metrics say together.
        mixed: whether the primary metric is better, and the other one worse, against one of them.
        primary: the metric that decides.
        secondary: the one that must not be worse, if there is one.
        units_needed: for an inconclusive one, how many units (groups, where there are groups) would lead to "better"
            in 80 % of data sets, if all differences are as large as they look. If the primary metric looks worse than
            one of them: to "worse"; with a margin: to "non-inferior" or "better". None if no number would.
    """

    verdict: Verdict
    mixed: bool
    primary: str
    secondary: str | None
    units_needed: int | None = None


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
    n_samples: int | None
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
        n_groups: in how many groups they were resampled. None: no groups were given, and the units are taken as
            independent of each other.
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
