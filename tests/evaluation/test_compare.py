"""SWA against others on the same units, and what the comparisons decide: by hand, against scipy, and in simulations."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from support.references import expanded_level
from swa_cli.evaluation import bootstrap
from swa_cli.evaluation.compare import Other, compare
from swa_cli.evaluation.decide import INCUMBENTS, decide
from swa_cli.evaluation.result import Comparison, Kind
from swa_cli.tasks import Records
from swa_cli.tasks.metrics import from_parts, ratio
from swa_cli.tasks.scores import ACCURACY, BRIER, NLL, share_right

BOTH = (ACCURACY, NLL)


def records(correct, nll=None, weight=None):
    correct = np.asarray(correct, dtype=np.float64)
    ones = np.ones(len(correct))
    columns = {
        "correct": correct,
        "count": ones,
        "nll": np.where(correct > 0, 0.1, 2.0) if nll is None else np.asarray(nll, dtype=np.float64),
        "weight": ones if weight is None else np.asarray(weight, dtype=np.float64),
    }
    return Records(columns=columns, tallies={})


def random_records(seed, n, weight=None):
    rng = np.random.default_rng(seed)
    return records(rng.random(n) < 0.7, rng.exponential(size=n), weight)


def pair(gained, lost, shared):
    """Records of SWA and of another: right where only it is, where only the other is, and where both are."""
    ours = np.repeat([1.0, 0.0, 1.0], [gained, lost, shared])
    theirs = np.repeat([0.0, 1.0, 1.0], [gained, lost, shared])
    return records(ours), records(theirs)


def with_nll_added(to, added):
    return records(to.columns["correct"], to.columns["nll"] + added)


def against(*members, name="the last checkpoint", kind: Kind = "last"):
    return Other(name=name, kind=kind, records=members)


def compared(swa, *members, metrics=BOTH, kind: Kind = "last", **options):
    """By metric, against one other."""
    return {one.metric: one for one in compare(swa, [against(*members, kind=kind)], metrics, **options)}


def figures(comparison):
    return (
        comparison.difference,
        comparison.ci_low,
        comparison.ci_high,
        comparison.p_value,
        comparison.standard_error,
        comparison.smallest_resolvable,
    )


# Differences and intervals


def test_differences_are_of_the_scores_of_all_units():
    swa = records([1, 1, 1, 0, 1, 1, 0, 1], nll=[1, 2, 3, 4, 1, 2, 3, 4], weight=[1, 1, 1, 1, 2, 2, 2, 2])
    other = records([1, 0, 1, 0, 0, 0, 1, 1], nll=[2, 2, 3, 4, 2, 3, 3, 5], weight=[1, 1, 1, 1, 2, 2, 2, 2])

    found = compared(swa, other)

    assert found["accuracy"].difference == pytest.approx(6 / 8 - 4 / 8)
    assert found["nll"].difference == pytest.approx(20 / 12 - 24 / 12)


def test_comparisons_come_by_metric_then_in_the_order_of_the_others():
    swa, first, second = (random_records(seed, 20) for seed in range(3))
    others = [against(first), against(second, name="the ensemble", kind="ensemble")]

    found = compare(swa, others, (ACCURACY, BRIER, NLL))

    assert [(one.metric, one.other, one.kind) for one in found] == [
        ("accuracy", "the last checkpoint", "last"),
        ("accuracy", "the ensemble", "ensemble"),
        ("nll", "the last checkpoint", "last"),
        ("nll", "the ensemble", "ensemble"),
    ]


def test_where_no_metric_is_compared_there_is_nothing():
    assert compare(random_records(0, 20), [against(random_records(1, 20))], (BRIER,)) == ()


def scipy_interval(n, difference):
    """Of ``difference``, a function of indices; from the same resamples."""
    return stats.bootstrap(
        (np.arange(n),),
        lambda indices, axis: np.apply_along_axis(difference, axis, indices),
        n_resamples=9_999,
        method="BCa",
        confidence_level=expanded_level(0.95, n),
        rng=np.random.default_rng(0),
    )


@pytest.mark.parametrize("n_members", [1, 3])
def test_the_interval_is_scipy_s_of_the_difference_from_the_mean_of_the_members_scores_or_student_s(n_members):
    """The wider of both at each end; Student's with the standard error of the members in SWA's place, if it is larger.

    That counts by 10 / (effective number of units), at most in full.
    """
    n = 40
    weight = np.random.default_rng(9).integers(1, 5, size=n)
    swa, *members = everybody = [random_records(seed, n, weight) for seed in range(1 + n_members)]

    found = compared(swa, *members, kind="mean" if n_members > 1 else "last", metrics=(NLL,))["nll"]

    def score(one, indices):
        return one.columns["nll"][indices].sum() / one.columns["weight"][indices].sum()

    def difference(indices, ours=swa):
        others = [one for one in everybody if one is not ours]
        return score(ours, indices) - sum(score(one, indices) for one in others) / n_members

    def deviations(ours):
        without = np.array([difference(np.delete(np.arange(n), one), ours) for one in range(n)])
        return without - without.mean()

    def variance(ours):
        return (n - 1) / n * (deviations(ours) ** 2).sum()

    def sums(power):
        return sum((deviations(one) ** power).sum() for one in members) / n_members

    effective = (deviations(swa) ** 2).sum() ** 2 / (deviations(swa) ** 4).sum()
    weighing = min(1, 10 / min(effective, sums(2) ** 2 / sums(4)))
    more = max(0, np.mean([variance(one) for one in members]) - variance(swa))
    expected = scipy_interval(n, difference)
    error = math.sqrt(variance(swa) + weighing * more)
    student = stats.t.interval(0.95, n - 1, loc=difference(np.arange(n)), scale=error)
    low, high = expected.confidence_interval
    assert found.difference == pytest.approx(difference(np.arange(n)))
    assert (found.ci_low, found.ci_high) == pytest.approx((min(low, student[0]), max(high, student[1])), abs=1e-12)
    assert found.standard_error == pytest.approx(float(expected.standard_error), abs=1e-12)
    assert found.effective_n == pytest.approx(effective)
    assert (found.p_value < 0.05) == (found.ci_low > 0 or found.ci_high < 0)


def test_exchanging_the_two_mirrors_the_comparison():
    first, second = random_records(0, 50), random_records(1, 50)

    there, back = compared(first, second), compared(second, first)

    for metric in ("accuracy", "nll"):
        one, other = there[metric], back[metric]
        assert figures(other) == pytest.approx(
            (-one.difference, -one.ci_high, -one.ci_low, one.p_value, one.standard_error, one.smallest_resolvable)
        )


def test_members_that_stand_for_several_others_count_in_each():
    swa, first, second = (random_records(seed, 30) for seed in range(3))
    mean = against(first, second, name="the mean over checkpoints", kind="mean")

    together = compare(swa, [against(second), mean], (NLL,))

    alone = [*compare(swa, [against(second)], (NLL,)), *compare(swa, [mean], (NLL,))]
    assert [figures(one) for one in together] == [pytest.approx(figures(one)) for one in alone]


@pytest.mark.parametrize(("n_gained", "n_lost"), [(1, 0), (3, 1), (2, 2)])
def test_few_discordant_examples_resolve_no_difference_that_takes_more_of_them(n_gained, n_lost):
    found = compared(*pair(n_gained, n_lost, 200))["accuracy"]

    resolvable = round(200 * found.smallest_resolvable)
    assert stats.binomtest(resolvable, resolvable, 0.5).pvalue <= 0.05
    assert 6 <= resolvable <= 8


def test_what_can_be_resolved_follows_from_the_standard_error():
    found = compared(random_records(0, 50), random_records(1, 50))["nll"]

    deviation = found.standard_error * math.sqrt(50 * 50 / 49)
    critical = stats.t.ppf(0.975, 49)
    power = stats.nct.sf(critical, 49, found.smallest_resolvable / deviation * math.sqrt(50))
    assert power == pytest.approx(0.8, abs=1e-6)
    needed = found.units_needed
    assert needed is not None
    powers = [
        stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, abs(found.difference) / deviation * math.sqrt(n))
        for n in (needed - 1, needed)
    ]
    assert powers[0] < 0.8 <= powers[1]


# P-values


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (9, 0), (5, 2), (20, 30)])
def test_the_p_value_of_one_other_by_accuracy_is_mcnemar_s(gained, lost):
    """The mid-p-value, where each of them is right alone at least once."""
    swa, other = pair(gained, lost, 40)

    found = compared(swa, other)["accuracy"]

    both, fewer = gained + lost, min(gained, lost)
    half = stats.binom.pmf(fewer, both, 0.5) if fewer else 0.0
    assert found.p_value == pytest.approx(stats.binomtest(gained, both).pvalue - half)


@pytest.mark.parametrize("case", ["groups", "not right or wrong", "both"])
def test_elsewhere_the_p_value_is_the_bootstrap_s_or_student_s(case):
    """The larger of both."""
    swa, other = pair(9, 1, 40)
    groups = None if case == "not right or wrong" else np.arange(50)
    metrics = (ACCURACY,) if case == "groups" else (share_right("node"),)

    found = compared(swa, other, metrics=metrics, groups=groups)["accuracy"]

    hits = swa.columns["correct"] - other.columns["correct"]
    resamples = hits[np.random.default_rng(0).integers(0, 50, size=(9_999, 50))].mean(axis=1)
    jackknife = (hits.sum() - hits) / 49
    student: Any = stats.ttest_1samp(hits, 0)
    of_bootstrap = bootstrap.bca(hits.mean(), resamples, jackknife, scale=0.98).p_value
    assert found.p_value == pytest.approx(max(of_bootstrap, student.pvalue))
    assert found.p_value != pytest.approx(stats.binomtest(9, 10).pvalue, rel=0.05)


def test_holm_adjusts_over_the_comparisons_of_one_metric_that_do_not_decide():
    """By hand: 2 × the least, then 1 × the largest, never falling; what decides stands on its own p-value."""
    n = 60
    swa = records(np.ones(n), nll=np.zeros(n))
    kinds: dict[Kind, int] = {"last": 6, "mean": 10, "ensemble": 5}
    others = [
        against(records(np.repeat([0, 1], [lost, n - lost]), nll=np.linspace(0, 1, n)), name=kind, kind=kind)
        for kind, lost in kinds.items()
    ]

    found = compare(swa, others, BOTH)

    smallest = 2 / 10_000
    assert [one.p_value for one in found] == pytest.approx([2 / 2**6, 2 / 2**10, 2 / 2**5, *[smallest] * 3])
    assert [one.p_adjusted for one in found] == pytest.approx(
        [2 / 2**6, 4 / 2**10, 2 / 2**5, *[smallest, *[2 * smallest] * 2]]
    )
    assert [one.corrected_for for one in found] == [1, 2, 2] * 2


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"last": 9}, {"last": (1, 1)}),
        ({"last": 9, "best": 10}, {"last": (1, 2), "best": (2, 2)}),
        ({"last": 9, "control": 9}, {"last": (1, 1), "control": (2, 2)}),
        ({"last": 9, "best": -9, "control": 9}, {"last": (2, 2), "best": (1, 1), "control": (3, 3)}),
    ],
)
def test_a_loss_against_any_of_those_that_decide_is_corrected_and_a_gain_over_all_is_not(kinds, expected):
    """Losses of as many examples, or gains, where it is negative; the factor of the p-value, and over how many."""
    swa = records(np.repeat([1, 0, 1], [20, 20, 20]))
    others = [
        against(
            records(np.repeat([1, 0, 1], [20 + min(0, lost), 20 - max(0, lost) - min(0, lost), 20 + max(0, lost)])),
            kind=kind,
        )
        for kind, lost in kinds.items()
    ]

    found = {one.kind: one for one in compare(swa, others, (ACCURACY,))}

    assert {kind: one.corrected_for for kind, one in found.items()} == {
        kind: over for kind, (_, over) in expected.items()
    }
    for kind, (factor, _) in expected.items():
        assert found[kind].p_adjusted == pytest.approx(factor * found[kind].p_value)
        assert found[kind].verdict == ("better" if kinds[kind] < 0 else "worse")


def test_the_verdict_is_on_the_adjusted_p_value():
    swa, other = pair(9, 1, 60)
    kinds: tuple[Kind, ...] = ("window", "greedy", "mean", "ensemble", "geometric")
    others = [against(other, name=kind, kind=kind) for kind in kinds]

    (alone,), together = compare(swa, others[:1], (ACCURACY,)), compare(swa, others, (ACCURACY,))

    mid_p = 2 * (1 + 10 / 2) / 2**10
    assert (alone.verdict, alone.p_adjusted) == ("better", pytest.approx(mid_p))
    assert {(one.verdict, round(one.p_adjusted, 6)) for one in together} == {("inconclusive", round(5 * mid_p, 6))}


@pytest.mark.parametrize("asked", [("mean",), ("mean", "ensemble"), ("mean", "control", "ensemble")])
@pytest.mark.parametrize("better", [0.0, 0.01, 0.04])
def test_what_decides_does_not_depend_on_which_rows_were_asked_for(asked, better):
    rng = np.random.default_rng(3)
    hard = rng.normal(size=400)
    last, best, *more = (of_margins(1.2 + hard + 0.3 * rng.normal(size=400)) for _ in range(5))
    swa = of_margins(1.2 + 8 * better + hard + 0.3 * rng.normal(size=400))
    incumbents = [against(last), against(best, name="the best by validation", kind="best")]
    further = [against(one, name=kind, kind=kind) for kind, one in zip(asked, more, strict=False)]

    alone, together = compare(swa, incumbents, BOTH), compare(swa, incumbents + further, BOTH)

    assert [one for one in together if one.kind in INCUMBENTS] == list(alone)
    decisions = [decide(found, primary="accuracy", secondary="nll") for found in (alone, together)]
    assert decisions[0] == decisions[1]


# Groups


def test_groups_are_resampled_as_units_of_their_sums():
    weight = np.random.default_rng(9).integers(1, 5, size=60)
    swa, first, second = (random_records(seed, 60, weight) for seed in range(3))
    groups = np.random.default_rng(4).permutation(np.repeat(np.arange(8), [1, 2, 4, 6, 8, 11, 13, 15]))

    def by_group(one):
        sums = {
            name: np.array([sum(column[place] for place in range(60) if groups[place] == group) for group in range(8)])
            for name, column in one.columns.items()
        }
        return Records(columns=sums, tallies={})

    metrics = (share_right("node"), NLL)
    found = compared(swa, first, second, metrics=metrics, groups=groups)

    expected = compared(*(by_group(one) for one in (swa, first, second)), metrics=metrics)
    for metric in ("accuracy", "nll"):
        assert figures(found[metric]) == pytest.approx(figures(expected[metric]))
    needed, needed_groups = found["nll"].units_needed, expected["nll"].units_needed
    assert needed_groups is not None
    assert needed == needed_groups  # in groups: more examples of the same ones would not do


@pytest.mark.parametrize(("margin", "below"), [(0.3, False), (0.02, True)])
def test_with_a_margin_it_is_the_loss_of_as_much_that_is_to_be_ruled_out(margin, below):
    swa, other = random_records(0, 200), random_records(1, 200)
    plain = compared(swa, other)["nll"]
    found = compared(swa, other, margins={"nll": margin})["nll"]

    loss = found.difference  # lower is better
    assert loss == plain.difference
    distance = margin - loss
    assert (distance < 0) == (below and loss > margin)
    expected = None if distance <= 0 else 200**2 / 199 * (2.8015852 * found.standard_error / distance) ** 2
    assert found.units_needed == (expected if expected is None else pytest.approx(expected, rel=0.003))


@pytest.mark.parametrize("n_groups", [1, 5])
def test_many_units_in_few_groups_tell_nothing(n_groups):
    swa, other = random_records(0, 60), random_records(1, 60)

    found = compared(swa, other, groups=np.arange(60) % n_groups, margins={"accuracy": 1.0, "nll": 9.0})

    for one in found.values():
        assert (one.ci_low, one.ci_high, one.p_value, one.units_needed) == (-math.inf, math.inf, 1.0, None)
        assert one.verdict == "inconclusive"
    assert found["nll"].difference == pytest.approx(swa.columns["nll"].mean() - other.columns["nll"].mean())


# Margins


def test_margins_are_those_of_their_metric():
    swa, other = pair(4, 4, 100)

    without, generous, strict = (
        compared(swa, other, margins=margins) for margins in (None, {"accuracy": 0.2}, {"accuracy": 0.001})
    )

    assert [one["accuracy"].margin for one in (without, generous, strict)] == [None, 0.2, 0.001]
    assert [one["nll"].margin for one in (without, generous, strict)] == [None] * 3
    verdicts = [one["accuracy"].verdict for one in (without, generous, strict)]
    assert verdicts == ["inconclusive", "non-inferior", "inconclusive"]


@pytest.mark.parametrize(("share", "expected"), [(1.01, "non-inferior"), (0.99, "worse")])
def test_a_margin_is_held_to_the_bad_end_of_the_interval(share, expected):
    """The NLL is worse where it is higher."""
    other = random_records(1, 50)
    swa = with_nll_added(other, np.linspace(0.1, 0.9, 50))
    end = compared(swa, other)["nll"].ci_high

    found = compared(swa, other, margins={"nll": share * end})["nll"]

    assert 0 < found.ci_low < found.ci_high < 1
    assert found.verdict == expected


# Little or nothing to tell them apart


def test_right_on_the_same_examples_leaves_open_what_clopper_and_pearson_do():
    first = records(np.repeat([1, 0], [55, 5]), nll=np.linspace(0, 1, 60))
    second = with_nll_added(first, np.linspace(0, 0.2, 60))

    found = compared(first, second)

    bound = stats.binomtest(0, 60).proportion_ci(0.95, method="exact").high
    accuracy = found["accuracy"]
    assert (accuracy.ci_low, accuracy.ci_high) == pytest.approx((-bound, bound))
    assert (accuracy.difference, accuracy.p_value, accuracy.verdict) == (0.0, 1.0, "inconclusive")
    assert found["nll"].verdict == "better"


@pytest.mark.parametrize(("margin", "expected"), [(0.059, "inconclusive"), (0.061, "non-inferior")])
def test_right_on_the_same_examples_is_non_inferior_by_what_that_leaves_open(margin, expected):
    first, second = records(np.ones(60)), records(np.ones(60), nll=np.linspace(0, 1, 60))

    assert compared(first, second, margins={"accuracy": margin})["accuracy"].verdict == expected


@pytest.mark.parametrize("n_members", [1, 2])
@pytest.mark.parametrize(("margins", "verdict"), [(None, "inconclusive"), ({"accuracy": 0.01}, "non-inferior")])
def test_the_same_model_differs_by_nothing(n_members, margins, verdict):
    swa, *members = (random_records(0, 30) for _ in range(1 + n_members))

    found = compared(swa, *members, margins=margins)

    for one in found.values():
        assert figures(one) == (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
        assert one.units_needed is None
    assert (found["accuracy"].verdict, found["nll"].verdict) == (verdict, "inconclusive")


@pytest.mark.parametrize(("gained", "lost", "shared"), [(1, 0, 0), (0, 0, 1), (5, 0, 0), (2, 2, 1)])
def test_up_to_five_examples_tell_nothing(gained, lost, shared):
    n = gained + lost + shared
    swa, other = pair(gained, lost, shared)

    found = compared(with_nll_added(swa, 0.5), other, margins={"accuracy": 1.0, "nll": 9.0})

    for one in found.values():
        assert (one.ci_low, one.ci_high, one.standard_error) == (-math.inf, math.inf, math.inf)
        assert (one.units_needed, one.verdict) == (None, "inconclusive")
    assert found["accuracy"].difference == pytest.approx((gained - lost) / n)


def test_six_examples_all_on_one_side_are_enough():
    swa, other = pair(6, 0, 0)

    found = compared(swa, other)["accuracy"]

    assert (found.p_value, found.verdict) == (pytest.approx(2 / 2**6), "better")


@pytest.mark.parametrize("added", [0.5, -0.1, 1e-3])
@pytest.mark.parametrize("n", [6, 200])
def test_losses_that_all_differ_by_as_much_show_no_spread_and_tell_nothing(n, added):
    other = records(np.arange(n) % 2, nll=np.arange(n) % 2 + 1.0)

    found = compared(with_nll_added(other, added), other, margins={"nll": 1.0})["nll"]

    assert (found.ci_low, found.ci_high, found.p_value, found.verdict) == (-math.inf, math.inf, 1.0, "inconclusive")
    assert found.difference == pytest.approx(added)


@pytest.mark.parametrize("metric", [ACCURACY, share_right("node")], ids=["examples", "sums over nodes"])
@pytest.mark.parametrize(("gained", "verdict"), [(6, "better"), (0, "inconclusive")])
def test_shares_that_all_differ_by_as_much_leave_room_for_the_unseen(metric, gained, verdict):
    swa, other = pair(gained, 0, 6 - gained)
    other = with_nll_added(other, np.arange(6.0))

    found = compared(swa, other, metrics=(metric, NLL))["accuracy"]

    assert found.ci_low < found.ci_high
    assert (found.ci_high, found.verdict) == (pytest.approx(1.0 if gained else 0.459, abs=1e-3), verdict)


@pytest.mark.parametrize("case", ["examples", "nodes", "groups"])
def test_an_interval_of_a_share_stays_within_100_points(case):
    swa, other = pair(9, 1, 0)
    metric = share_right("node") if case == "nodes" else ACCURACY

    found = compared(swa, other, metrics=(metric,), groups=np.arange(10) if case == "groups" else None)["accuracy"]

    assert -1 <= found.ci_low < 0.8 < found.ci_high <= 1


# A few examples that make the difference


def rare_losses(n, rare, *, bulk):
    """A little better on all but a few examples, and much worse on those."""
    rng = np.random.default_rng([n, rare])
    other = records(np.ones(n), nll=rng.exponential(0.1, n))
    losses = np.repeat([50.0, -bulk], [rare, n - rare]) * rng.uniform(0.5, 1.5, n)
    return with_nll_added(other, losses), other


@pytest.mark.parametrize("margins", [None, {"nll": 100.0}])
@pytest.mark.parametrize(("n", "rare", "sign"), [(300, 1, -1), (1_000, 2, 1), (1_000, 4, -1)])
def test_what_a_few_examples_make_is_inconclusive_whatever_the_interval(n, rare, sign, margins):
    swa, other = rare_losses(n, rare, bulk=0.0 if sign < 0 else 5.0)
    swa, other = (swa, other) if sign > 0 else (other, swa)

    found = compared(swa, other, margins=margins)["nll"]

    assert found.dominated
    assert found.effective_n is not None
    assert found.effective_n < 5
    assert found.top_share is not None
    assert found.verdict == "inconclusive"


@pytest.mark.parametrize(("n", "rare"), [(300, 30), (1_000, 0), (1_000, 40)])
def test_what_many_examples_make_stands(n, rare):
    swa, other = rare_losses(n, rare, bulk=0.1)

    found = compared(swa, other)["nll"]

    assert not found.dominated
    assert found.verdict == ("worse" if rare else "better")


def test_right_or_wrong_is_not_dominated_however_few_examples_differ():
    swa, other = pair(6, 0, 994)

    found = compared(swa, other)["accuracy"]

    assert (found.dominated, found.verdict) == (False, "better")


def test_a_score_that_is_not_defined_tells_nothing():
    first, second = records([1] * 10, weight=np.zeros(10)), records([1] * 10, nll=np.ones(10), weight=np.zeros(10))

    found = compared(first, second)["nll"]

    assert math.isnan(found.difference)
    assert (found.ci_low, found.ci_high, found.p_value, found.verdict) == (-math.inf, math.inf, 1.0, "inconclusive")


def test_a_score_where_higher_is_better_is_judged_so():
    gain = from_parts("gain", "gain", ratio("nll", "weight"), higher_is_better=True, compared=True)
    first = random_records(0, 50)
    second = with_nll_added(first, np.linspace(0.1, 0.9, 50))

    assert compared(second, first, metrics=(gain,))["gain"].verdict == "better"
    assert compared(second, first, metrics=(NLL,))["nll"].verdict == "worse"


# What they decide


def judged(metric, kind, verdict):
    return Comparison(
        metric=metric,
        other=kind,
        kind=kind,
        difference=0.0,
        ci_low=0.0,
        ci_high=0.0,
        p_value=1.0,
        p_adjusted=1.0,
        standard_error=0.0,
        smallest_resolvable=0.0,
        units_needed=None,
        margin=None,
        verdict=verdict,
    )


def decided(**pairs):
    """From the verdicts (accuracy, NLL) of each kind; None where there is no such comparison."""
    comparisons = [
        judged(metric, kind, verdict)
        for kind, verdicts in pairs.items()
        for metric, verdict in zip(("accuracy", "nll"), verdicts, strict=True)
        if verdict
    ]
    return decide(comparisons, primary="accuracy", secondary="nll")


TABLE = [
    # accuracy, NLL, verdict
    ("better", "better", "better"),
    ("better", "non-inferior", "better"),
    ("better", "inconclusive", "better"),
    ("better", "worse", "inconclusive"),
    ("better", None, "better"),
    ("non-inferior", "better", "better"),
    ("non-inferior", "non-inferior", "non-inferior"),
    ("non-inferior", "inconclusive", "non-inferior"),
    ("non-inferior", "worse", "worse"),
    ("non-inferior", None, "non-inferior"),
    ("inconclusive", "better", "inconclusive"),
    ("inconclusive", "non-inferior", "inconclusive"),
    ("inconclusive", "inconclusive", "inconclusive"),
    ("inconclusive", "worse", "worse"),
    ("inconclusive", None, "inconclusive"),
    ("worse", "better", "worse"),
    ("worse", "non-inferior", "worse"),
    ("worse", "inconclusive", "worse"),
    ("worse", "worse", "worse"),
    ("worse", None, "worse"),
]


@pytest.mark.parametrize("kind", ["last", "best"])
@pytest.mark.parametrize(("primary", "secondary", "expected"), TABLE)
def test_both_metrics_decide_against_one(kind, primary, secondary, expected):
    decision = decided(**{kind: (primary, secondary)})

    assert decision.verdict == expected
    assert decision.mixed == ((primary, secondary) == ("better", "worse"))


@pytest.mark.parametrize(
    ("last", "best", "expected"),
    [
        ("better", "better", "better"),
        ("better", "non-inferior", "non-inferior"),
        ("better", "inconclusive", "inconclusive"),
        ("better", "worse", "worse"),
        ("non-inferior", "non-inferior", "non-inferior"),
        ("non-inferior", "inconclusive", "inconclusive"),
        ("non-inferior", "worse", "worse"),
        ("inconclusive", "inconclusive", "inconclusive"),
        ("inconclusive", "worse", "worse"),
        ("worse", "worse", "worse"),
    ],
)
def test_the_worse_of_both_incumbents_decides(last, best, expected):
    assert decided(last=(last, None), best=(best, None)).verdict == expected
    assert decided(last=(best, None), best=(last, None)).verdict == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [(("better", "better"), "inconclusive"), (("inconclusive", None), "inconclusive"), (("worse", None), "worse")],
)
def test_better_by_one_metric_and_worse_by_the_other_stays_mixed_beside_another_incumbent(other, expected):
    decision = decided(last=("better", "worse"), best=other)

    assert (decision.verdict, decision.mixed) == (expected, True)


def test_better_by_one_metric_against_one_and_worse_by_the_other_against_the_other_is_not_mixed():
    decision = decided(last=("better", "inconclusive"), best=("inconclusive", "worse"))

    assert (decision.verdict, decision.mixed) == ("worse", False)


def test_only_incumbents_decide():
    bad = ("worse", "worse")

    assert decided(last=("better", None), mean=bad, ensemble=bad).verdict == "better"


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (("worse", None), "worse"),
        (("worse", "better"), "worse"),
        (("inconclusive", "worse"), "worse"),
        (("inconclusive", None), "better"),
        (("better", "worse"), "better"),
        (("non-inferior", "inconclusive"), "better"),
    ],
)
def test_the_control_counts_where_it_is_better(control, expected):
    assert decided(last=("better", None), control=control).verdict == expected


@pytest.mark.parametrize("pairs", [{}, {"ensemble": ("better", "better")}, {"last": (None, "better")}])
def test_without_an_incumbent_nothing_is_decided(pairs):
    assert decided(**pairs).verdict == "inconclusive"


def test_a_second_metric_that_is_not_named_does_not_count():
    comparisons = [judged("accuracy", "last", "better"), judged("nll", "last", "worse")]

    decision = decide(comparisons, primary="accuracy", secondary=None)

    assert (decision.verdict, decision.primary, decision.secondary) == ("better", "accuracy", None)


# How often they are right: margins of examples of two classes, which share the examples' difficulty

N_SETS, N_EXAMPLES, OWN = 500, 300, 0.5


def of_margins(margins):
    return records(margins > 0, nll=np.logaddexp(0, -margins))


def population_nll(mean):
    """By Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(weights @ np.logaddexp(0, -(mean + math.hypot(1, OWN) * nodes)) / weights.sum())


@pytest.fixture(scope="module")
def simulated():
    """Of each data set the comparisons with a weaker model, and with one that is as good."""
    found = []
    for seed in range(N_SETS):
        rng = np.random.default_rng([seed, 2])
        shared = rng.standard_normal(N_EXAMPLES)
        swa, weaker, equal = shared + OWN * rng.standard_normal((3, N_EXAMPLES))
        ours = of_margins(swa + 1.2)
        found.append(
            [compared(ours, of_margins(other), n_resamples=499, seed=seed) for other in (weaker + 1.0, equal + 1.2)],
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_the_interval_covers_a_known_difference_as_often_as_it_says(simulated, metric):
    true = {
        "accuracy": stats.norm.cdf(1.2 / math.hypot(1, OWN)) - stats.norm.cdf(1.0 / math.hypot(1, OWN)),
        "nll": population_nll(1.2) - population_nll(1.0),
    }[metric]

    covered = [one[metric].ci_low <= true <= one[metric].ci_high for one, _ in simulated]

    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_a_known_difference_is_called_better_far_more_often_than_worse(simulated, metric):
    verdicts = [one[metric].verdict for one, _ in simulated]

    assert verdicts.count("better") > 0.3 * N_SETS
    assert verdicts.count("worse") == 0


def test_an_equal_is_seldom_called_better_or_worse(simulated):
    """By either metric better in at most 5 % of data sets."""
    better = [any(one.verdict == "better" for one in equal.values()) for _, equal in simulated]

    assert 0 < np.mean(better) <= 0.05
    for metric in ("accuracy", "nll"):
        called = [equal[metric].verdict in {"better", "worse"} for _, equal in simulated]
        assert 0 < np.mean(called) <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize(("accuracy", "n", "members"), [(0.99, 100, 10), (0.98, 300, 5), (0.998, 1_000, 20)])
def test_an_equal_of_nearly_perfect_checkpoints_is_seldom_called_better_than_their_mean(accuracy, n, members):
    rng = np.random.default_rng(members)
    verdicts: dict[str, list[str]] = {"accuracy": [], "nll": []}
    covered: dict[str, list[bool]] = {"accuracy": [], "nll": []}
    for _ in range(150):
        margins = rng.standard_normal(n) + 0.5 * rng.standard_normal((members + 1, n))
        swa, *others = (of_margins(4 * (one + stats.norm.ppf(accuracy) * math.hypot(1, 0.5))) for one in margins)
        for name, one in compared(swa, *others, kind="mean", n_resamples=299).items():
            verdicts[name].append(one.verdict)
            covered[name].append(one.ci_low <= 0 <= one.ci_high)

    for name, found in verdicts.items():
        assert found.count("better") <= 0.03 * 150
        assert found.count("worse") <= 0.03 * 150
        assert np.mean(covered[name]) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("accuracy", "n"), [(0.986, 200), (0.998, 500)])
def test_of_two_nearly_perfect_equals_one_is_seldom_called_better_or_worse(accuracy, n):
    """Their NLL is that of a few examples, which the bootstrap alone takes for a difference in 17 to 23 % of sets."""
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(300):
        wrong = rng.random(n) < 1 - accuracy
        hard = np.where(wrong, rng.exponential(3.0, n), 0.0)
        ours, theirs = (records(~wrong, nll=0.01 * rng.random(n) + hard * rng.uniform(0.5, 1.5, n)) for _ in range(2))
        called += compared(ours, theirs, n_resamples=499)["nll"].verdict != "inconclusive"

    assert called / 300 <= 0.05


# Scores of any size


@pytest.mark.parametrize("exponent", [-300, 125, 330])
def test_the_unit_of_a_score_makes_no_difference(exponent):
    first, second = random_records(1, 40), random_records(2, 40)
    unit = 2.0**exponent
    large = [records(one.columns["correct"], one.columns["nll"] * unit) for one in (first, second)]

    found, expected = compared(*large)["nll"], compared(first, second)["nll"]

    assert figures(found)[:3] == pytest.approx([unit * value for value in figures(expected)[:3]], rel=1e-9)
    assert found.p_value == pytest.approx(expected.p_value)
    assert (found.effective_n, found.units_needed) == pytest.approx((expected.effective_n, expected.units_needed))


def percentage(values):
    return Records(columns={"mape": np.asarray(values, dtype=np.float64), "count": np.ones(len(values))}, tallies={})


MAPE = from_parts("mape", "MAPE", ratio("mape", "count"), higher_is_better=False, percent=True, compared=True)


@pytest.mark.parametrize("scale", [3.0, 10.0, 1e4])
def test_a_percentage_that_is_no_share_has_no_bounds(scale):
    rng = np.random.default_rng(0)
    ours, theirs = scale * rng.exponential(size=12), scale * (1 + rng.exponential(size=12))

    found = compared(percentage(ours), percentage(theirs), metrics=(MAPE,))["mape"]

    assert found.ci_low < -1 - (found.ci_high - found.ci_low) / 10
    constant = compared(percentage(np.zeros(12)), percentage(np.full(12, scale)), metrics=(MAPE,))["mape"]
    assert (constant.ci_low, constant.ci_high) == (-math.inf, math.inf)


def test_a_percentage_that_is_a_share_has_bounds():
    rng = np.random.default_rng(0)
    ours, theirs = (rng.random(6) < 0.1).astype(float), (rng.random(6) < 0.9).astype(float)

    found = compared(percentage(ours), percentage(theirs), metrics=(MAPE,))["mape"]

    assert found.difference < 0
    assert found.ci_low >= -1
