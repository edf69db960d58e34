"""The result of an evaluation, of which every report is a rendering."""

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
"""``last``, ``best`` (by validation) and ``mean`` summarise the checkpoints. ``swa-averaged-bn`` is the average with
averaged BatchNorm statistics, ``control`` the last checkpoint with recomputed ones. ``window`` is the average of the
last k, with k chosen on validation data; ``greedy`` is the greedy soup. ``ensemble`` is the mean of probabilities,
``geometric`` that of logits."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Description of a number in ``Candidate.scores``; ``percent`` means that it is a fraction, shown in percent.

    ``higher_is_better`` is None if unknown.
    """

    name: str
    label: str
    higher_is_better: bool | None
    percent: bool
    shown: bool
    """Whether the terminal's table shows it; files contain every score."""
    right_or_wrong: bool = False
    """Whether it is a mean of zeros and ones per unit, as accuracy is."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of the report.

    ``forward_passes`` is the cost of one prediction. ``members`` is the number of checkpoints in an average, an
    ensemble, or the mean over checkpoints (whose scores are means of scores). ``chosen_on`` is the split on which the
    row was selected. ``scores`` lacks the scores that do not apply to the row; one that is undefined for these data is
    NaN.
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
    """The difference between SWA and another candidate (SWA minus other), on the same units.

    The 95 % interval covers the choice of the test data, not the randomness of training (`swa_cli.evaluation.compare`).

    Attributes:
        other: name of the other candidate in a sentence: "the last checkpoint".
        kind: kind of the other candidate.
        p_value: two-sided p-value of no difference. For an accuracy of independent units it is McNemar's, or comes from
            the same draws as the interval; otherwise it is the larger of the bootstrap's and Student's.
        p_adjusted: ``p_value`` corrected for ``corrected_for`` comparisons of this metric. A gain over a deciding
            candidate (last checkpoint, best by validation, control) is not corrected, as an average has to beat all of
            them; a loss is, as one loss forbids shipping.
        standard_error: standard error of the difference.
        smallest_resolvable: the difference that a test of this comparison alone finds in 80 % of such data sets.
        units_needed: how many units (or groups) would show the difference that was found, or with a margin rule out a
            loss of that size, in 80 % of data sets, in this comparison alone; None if the difference is 0.
        margin: the accepted loss, if one was given, in the score's own unit (a fraction, say).
        effective_n: how many equally weighted units would make the spread as certain: (Σu²)² / Σu⁴ of the units'
            influences u; None if there is no spread, or it is not finite.
        top_share: the share of Σ|u| of the 1 % of units (at least one) with the largest influence; None as above.
        dominated: whether so few units make the difference that its interval is unreliable. The verdict is then
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
        """Whether both candidates have the same score, on every resample too."""
        return self.difference == self.ci_low == self.ci_high == 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to ship the average, judged against the last checkpoint and the best by validation.

    An average that is worse than the control, the last checkpoint with recomputed BatchNorm statistics, is not shipped.
    Other rows have no influence.

    Attributes:
        verdict: the worst combined verdict of the two deciding metrics over these candidates.
        mixed: whether, against one of them, the primary metric is better and the secondary worse.
        primary: the metric that decides.
        secondary: the metric that must not be worse, if there is one.
        units_needed: if the verdict is inconclusive, how many units (or groups) would give the expected one in 80 % of
            data sets, if the true differences equal the estimates: "better", or "worse" if the primary metric is lower
            than one of them; with a margin, "non-inferior" or "better". None if no number would.
    """

    verdict: Verdict
    mixed: bool
    primary: str
    secondary: str | None
    units_needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Averages of the last k checkpoints, scored on ``split``; ``chosen`` is the k with the best primary score."""

    split: str
    points: tuple[Candidate, ...]
    chosen: int


@dataclass(frozen=True, kw_only=True)
class BnRecord:
    """How the BatchNorm statistics of the average were recomputed, according to its file; unknown fields are None.

    ``standard_error`` is the largest of all layers: of the means in standard deviations, or of the variances, relative.
    ``partial`` means that only part of the data was used. ``kept`` maps the layers that were left alone to the reason,
    ``unreached`` lists those that no batch reached. ``batch_size`` is None if it was the loader's own.
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
    """The scores of all candidates, the comparisons with SWA, and the decision.

    Attributes:
        split: name of the split.
        task: name of the task.
        unit: what is counted and resampled: "example", "image", …
        n_examples: number of units.
        n_groups: number of groups that were resampled; None without groups, when units count as independent.
        scores: descriptions of the candidates' scores, the primary one first.
        candidates: SWA, the checkpoints, and the others; tables sort them in their own order.
        prefixes: ensembles of the first k checkpoints, k = 1…K, if ensembles were asked for.
        curve: averages of the last k checkpoints, if they were asked for.
        warnings: must be read before the numbers.
        notes: further remarks.
        plan: how the members were run on the data.
        bn_update: how BatchNorm statistics were recomputed; None if unknown.
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
        """Return the rows of one kind, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.kind == kind)

    def score(self, name: str) -> Score:
        """Return the description of one score."""
        return next(score for score in self.scores if score.name == name)

    def compared(self, metric: str, kind: Kind) -> Comparison | None:
        """Return the comparison of SWA with the candidate of that kind, or None."""
        found = (one for one in self.comparisons if (one.metric, one.kind) == (metric, kind))
        return next(found, None)
