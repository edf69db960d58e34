"""The last sentence: ship or not, and why."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from support.results import CANDIDATES, CLOSE, KEPT, LOST, OF_RMSE, OTHERS, RESULT, SAME, candidate, compared, judged
from swa_cli.evaluation.result import (
    Comparison,
)
from swa_cli.report.summary_sentences import sentences
from swa_cli.report.verdict_sentence import final_sentence

GAINED = compared("accuracy", "last", (0.0052, 0.0046, 0.0058))


NLL_BETTER = compared("nll", "last", (-0.01, -0.02, -0.005))


NLL_WORSE = compared("nll", "last", (0.0005, 0.0002, 0.0008), "worse")


def test_better_is_shipped_with_its_gain_and_what_it_saves():
    assert final_sentence(RESULT) == (
        "Ship swa.safetensors: +5.24 points of accuracy over the last checkpoint (95 % CI +4.60 to +5.88) and +0.88 "
        "over the best by validation (+0.51 to +1.25), and +0.33 points over the ensemble of 12 at a twelfth of its "
        "cost; averaging alone, against the last checkpoint with recomputed BatchNorm statistics: accuracy +0.46 "
        "points (95 % CI -0.07 to +0.85), inconclusive, and NLL -0.0118 (95 % CI -0.0139 to -0.0097), better."
    )


def test_the_sentence_in_the_readme_is_that_of_its_numbers():
    text = (Path(__file__).parents[2] / "README.md").read_text()
    number = r"([+-][\d.]+)"
    shown = rf"{number}(?: points)? \({number} to {number}\): (\w+)"
    comparisons: list[Comparison] = []
    for kind, other in OTHERS.items():
        lines = re.findall(rf"SWA against {other}: accuracy {shown}; NLL {shown}\.", text)
        if kind == "best" and "│ best by validation (epoch-17.pt) │" in text:  # which is the last checkpoint
            assert lines == []
            continue
        (line,) = lines
        for metric, scale, (*numbers, verdict) in (("accuracy", 100, line[:4]), ("nll", 1, line[4:])):
            comparisons.append(compared(metric, kind, [float(one) / scale for one in numbers], verdict))

    assert f"\n{final_sentence(replace(RESULT, comparisons=tuple(comparisons)))}\n" in text


def test_what_averaging_alone_gains_is_said_where_there_is_a_control():
    control = compared("accuracy", "control", (0.0046, 0.0007, 0.0085), "better")

    assert final_sentence(judged(GAINED, control, verdict="better")) == (
        "Ship swa.safetensors: +0.52 points of accuracy over the last checkpoint (95 % CI +0.46 to +0.58); "
        "averaging alone, against the last checkpoint with recomputed BatchNorm statistics: accuracy +0.46 points (95 "
        "% CI +0.07 to +0.85), better."
    )


def test_averaging_alone_that_is_better_by_neither_metric_is_not_shown_to_be_of_use():
    controls = (
        compared("accuracy", "control", (0.0016, -0.0018, 0.0051), "inconclusive"),
        compared("nll", "control", (-0.001, -0.003, 0.0012), "inconclusive"),
    )

    assert final_sentence(judged(GAINED, *controls, verdict="better")).partition("; ")[2] == (
        "averaging alone is not shown to help, against the last checkpoint with recomputed BatchNorm statistics: "
        "accuracy +0.16 points (95 % CI -0.18 to +0.51), inconclusive."
    )


def test_what_averaging_alone_loses_in_nll_is_said():
    controls = (
        compared("accuracy", "control", (0.08, 0.056, 0.108)),
        compared("nll", "control", (0.115, 0.097, 0.133), "worse"),
    )

    assert final_sentence(judged(GAINED, *controls, verdict="better")).partition("; ")[2] == (
        "averaging alone, against the last checkpoint with recomputed BatchNorm statistics: accuracy +8.00 points "
        "(95 % CI +5.60 to +10.80), better, and NLL +0.1150 (95 % CI +0.0970 to +0.1330), worse."
    )


@pytest.mark.parametrize(("primary", "verdict"), [(GAINED, "better"), (KEPT, "non-inferior")])
def test_a_loss_within_its_margin_is_said(primary, verdict):
    lost = compared("nll", "last", (0.0172, 0.0126, 0.0218), "non-inferior", margin=0.05)

    assert final_sentence(judged(primary, lost, verdict=verdict)).partition("; ")[2] == (
        "NLL +0.0172 (95 % CI +0.0126 to +0.0218) against the last checkpoint is worse, but by less than the margin of "
        "0.05."
    )
    kept = compared("nll", "last", (0.001, -0.004, 0.006), "non-inferior", margin=0.05, p_adjusted=0.7)
    assert ";" not in final_sentence(judged(primary, kept, verdict=verdict))


def test_a_margin_asks_how_many_examples_would_rule_it_out():
    told = final_sentence(judged(replace(CLOSE, margin=0.002), units_needed=61_200))

    assert told.endswith(
        ", and about 62,000 examples would be needed to tell in 80 % of cases if all differences are as large as they "
        "look."
    )


def test_where_both_metrics_disagree_the_other_incumbent_is_not_forgotten():
    best = compared("accuracy", "best", (0.004, -0.0084, 0.018), "inconclusive")

    assert final_sentence(judged(GAINED, NLL_WORSE, best, mixed=True)).endswith(
        "; against the best by validation: accuracy +0.40 points (95 % CI -0.84 to +1.80), inconclusive."
    )
    assert final_sentence(judged(GAINED, NLL_WORSE, mixed=True)).endswith("(95 % CI +0.0002 to +0.0008).")


@pytest.mark.parametrize(
    ("ensemble", "passes", "expected"),
    [
        ((-0.0011, -0.00241, 0.0002), 10, ", at most 0.25 points below the ensemble of 10 at a tenth of its cost."),
        ((-0.0011, -0.002, 0.0002), 2, ", at most 0.20 points below the ensemble of 2 at half of its cost."),
        ((0.0011, 0.0001, 0.002), 17, ", and +0.11 points over the ensemble of 17 at 1/17 of its cost."),
        ((0.0011, 0.0, 0.002), 17, ", no worse than the ensemble of 17 at 1/17 of its cost."),
        ((0.0, 0.0, 0.0), 3, ", no different from the ensemble of 3 at a third of its cost."),
        ((0.0067, -0.00075, 0.014), 6, ", at most 0.075 points below the ensemble of 6 at a sixth of its cost."),
        ((0.1, -math.inf, math.inf), 3, "."),
        ((0.0011, 0.0001, 0.002), 1, "."),
        ((-0.08, -0.11, -0.05), 6, ", but -8.00 points against the ensemble of 6 at a sixth of its cost."),
        (None, 3, "."),
    ],
)
def test_the_ensemble_is_named_where_there_is_one(ensemble, passes, expected):
    row = candidate("ensemble", "ensemble", 0.9, members=passes, forward_passes=passes)
    verdict = "better" if ensemble and ensemble[1] > 0 else "worse" if ensemble and ensemble[2] < 0 else "inconclusive"
    compared_with = [compared("accuracy", "ensemble", ensemble, verdict)] if ensemble else []

    result = judged(GAINED, *compared_with, verdict="better", candidates=(CANDIDATES[0], row))

    assert final_sentence(result) == (
        f"Ship swa.safetensors: +0.52 points of accuracy over the last checkpoint (95 % CI +0.46 to +0.58){expected}"
    )


@pytest.mark.parametrize(
    ("ensemble", "expected"),
    [
        ((0.01, -0.01, 0.03), ", at most 0.030 above the ensemble of 12 at a twelfth of its cost."),
        ((-0.01, -0.03, -0.005), ", and 0.0100 lower than the ensemble of 12 at a twelfth of its cost."),
        ((0.01, 0.005, 0.03), ", but 0.0100 higher than the ensemble of 12 at a twelfth of its cost."),
    ],
)
def test_where_lower_is_better_a_gain_is_lower(ensemble, expected):
    result = judged(
        compared("rmse", "last", (-0.12, -0.2, -0.05)),
        compared("rmse", "best", (-0.1, -0.18, -0.02)),
        compared(
            "rmse",
            "ensemble",
            ensemble,
            "better" if ensemble[2] < 0 else "worse" if ensemble[1] > 0 else "inconclusive",
        ),
        verdict="better",
        **OF_RMSE,
    )

    assert final_sentence(result) == (
        "Ship swa.safetensors: RMSE 0.1200 lower than that of the last checkpoint (95 % CI 0.0500 to 0.2000) and "
        f"0.1000 lower than that of the best by validation (0.0200 to 0.1800){expected}"
    )


def test_worse_is_not_shipped():
    assert final_sentence(judged(LOST, NLL_WORSE, verdict="worse")) == (
        "Do not ship swa.safetensors: -0.32 points of accuracy against the last checkpoint (95 % CI -0.65 to -0.01)."
    )
    assert final_sentence(judged(LOST, NLL_BETTER, verdict="worse")).endswith(
        "; NLL is better than that of the last checkpoint (-0.0100, 95 % CI -0.0200 to -0.0050)."
    )
    assert final_sentence(judged(CLOSE, NLL_WORSE, verdict="worse")) == (
        "Do not ship swa.safetensors: NLL 0.0005 higher than that of the last checkpoint (95 % CI +0.0002 to +0.0008)."
    )


def of_best(comparison):
    return replace(comparison, kind="best", other=OTHERS["best"])


TOLD_OF_LAST = "; against the last checkpoint: accuracy +0.52 points (95 % CI +0.46 to +0.58), better"


@pytest.mark.parametrize(
    ("last", "best", "loss", "beside"),
    [
        (
            (GAINED, NLL_WORSE),
            (LOST,),
            "-0.32 points of accuracy against the best by validation (95 % CI -0.65 to -0.01)",
            f"{TOLD_OF_LAST}, and NLL +0.0005 (95 % CI +0.0002 to +0.0008), worse",
        ),
        (
            (GAINED, NLL_BETTER),
            (CLOSE, NLL_WORSE),
            "NLL 0.0005 higher than that of the best by validation (95 % CI +0.0002 to +0.0008)",
            f"{TOLD_OF_LAST}, and NLL -0.0100 (95 % CI -0.0200 to -0.0050), better",
        ),
        (
            (GAINED, NLL_WORSE),
            (CLOSE, replace(NLL_WORSE, difference=0.0004)),
            "NLL 0.0004 higher than that of the best by validation (95 % CI +0.0002 to +0.0008)",
            f"{TOLD_OF_LAST}, and NLL +0.0005 (95 % CI +0.0002 to +0.0008), worse",
        ),
        (
            (CLOSE, NLL_WORSE),
            (LOST, NLL_BETTER),
            "-0.32 points of accuracy against the best by validation (95 % CI -0.65 to -0.01)",
            "; NLL is better than that of the best by validation (-0.0100, 95 % CI -0.0200 to -0.0050)",
        ),
        (
            (LOST,),
            (replace(LOST, difference=-0.002),),
            "-0.32 points of accuracy against the last checkpoint (95 % CI -0.65 to -0.01)",
            "",
        ),
    ],
)
def test_what_decided_is_named_and_a_gain_over_the_other_does_not_go_unsaid(last, best, loss, beside):
    result = judged(*last, *map(of_best, best), verdict="worse", mixed=NLL_WORSE in last and GAINED in last)

    assert final_sentence(result) == f"Do not ship swa.safetensors: {loss}{beside}."


def test_a_loss_against_the_control_leaves_the_gain_over_the_last_said():
    control = replace(LOST, kind="control", other=OTHERS["control"])

    assert final_sentence(judged(GAINED, control, verdict="worse")) == (
        "Do not ship swa.safetensors: -0.32 points of accuracy against the last checkpoint with BatchNorm recomputed "
        f"(95 % CI -0.65 to -0.01){TOLD_OF_LAST}."
    )


def test_mixed_is_the_readers_choice():
    assert final_sentence(judged(GAINED, NLL_WORSE, mixed=True)) == (
        "Whether to ship swa.safetensors is your choice: against the last checkpoint it is better by one metric, "
        "accuracy +0.52 points (95 % CI +0.46 to +0.58), and worse by the other, NLL +0.0005 (95 % CI +0.0002 to "
        "+0.0008)."
    )


def test_non_inferior_may_be_shipped():
    best = replace(KEPT, kind="best", other=OTHERS["best"])

    assert final_sentence(judged(KEPT, best, verdict="non-inferior")) == (
        "You may ship swa.safetensors: +0.10 points of accuracy over the last checkpoint (95 % CI -0.10 to +0.30) and "
        "+0.10 over the best by validation (-0.10 to +0.30), so not worse by more than the margin of 0.2 points."
    )


def test_better_by_the_secondary_metric_and_non_inferior_by_the_primary_is_shipped():
    assert final_sentence(judged(KEPT, NLL_BETTER, verdict="better")) == (
        "Ship swa.safetensors: +0.10 points of accuracy over the last checkpoint (95 % CI -0.10 to +0.30), so not "
        "worse by more than the margin of 0.2 points; NLL is better than that of the last checkpoint (-0.0100, 95 % CI "
        "-0.0200 to -0.0050)."
    )


def test_too_few_examples_says_how_many_would_do():
    told = (
        "700 examples are too few to tell whether swa.safetensors is better or worse than the last checkpoint: "
        "accuracy +0.30 points (95 % CI -0.40 to +1.00); these data can resolve differences of 1.0 points"
    )
    needed = (
        ", and about 7,700 examples would be needed to tell in 80 % of cases if all differences are as large as they "
        "look"
    )
    better = "; NLL is better than that of the last checkpoint (-0.0100, 95 % CI -0.0200 to -0.0050)"

    assert final_sentence(judged(CLOSE, n_examples=700, units_needed=7643)) == f"{told}{needed}."
    assert final_sentence(judged(CLOSE, n_examples=700, units_needed=600)) == f"{told}."
    assert final_sentence(judged(CLOSE, n_examples=700)) == f"{told}."
    assert final_sentence(judged(CLOSE, NLL_BETTER, n_examples=700, units_needed=7643)) == (
        f"{told}{needed}{better}, and `margin` sets the loss of accuracy that you accept."
    )
    with_margin = final_sentence(judged(replace(CLOSE, margin=0.01), NLL_BETTER))
    assert with_margin.startswith(
        "10,000 examples are too few to tell whether swa.safetensors is worse than the last checkpoint by more than "
        "the margin of 1 point: accuracy +0.30 points"
    )
    assert with_margin.endswith(f"{better}.")


@pytest.mark.parametrize(
    ("difference", "n", "expected"),
    [
        (1.0, 1, "1 example cannot show whether {}: accuracy +100.00 points (no interval)."),
        (math.nan, 60, "60 examples cannot show whether {}: accuracy n/a (no interval)."),
        (math.inf, 60, "60 examples cannot show whether {}: accuracy infinitely higher (no interval)."),
        (-math.inf, 60, "60 examples cannot show whether {}: accuracy infinitely lower (no interval)."),
    ],
)
def test_without_an_interval_nothing_is_told(difference, n, expected):
    unknown = compared(
        "accuracy", "last", (difference, -math.inf, math.inf), "inconclusive", smallest_resolvable=math.nan
    )

    assert final_sentence(judged(unknown, n_examples=n, units_needed=n + 1)) == expected.format(
        "swa.safetensors is better or worse than the last checkpoint"
    )


def test_the_same_on_every_example_is_neither_gain_nor_loss():
    told = (
        "Shipping swa.safetensors in place of the last checkpoint changes no accuracy: it is the same on every example"
    )

    assert final_sentence(judged(SAME)) == f"{told}."
    assert final_sentence(judged(SAME, of_best(CLOSE))) == (
        f"{told}; against the best by validation: accuracy +0.30 points (95 % CI -0.40 to +1.00), inconclusive."
    )
    assert final_sentence(judged(SAME, of_best(SAME))) == (
        f"{told}; against the best by validation: the same accuracy on every example."
    )
    assert final_sentence(judged(SAME, of_best(GAINED), of_best(NLL_WORSE), mixed=True)).endswith(
        "NLL +0.0005 (95 % CI +0.0002 to +0.0008); against the last checkpoint: the same accuracy on every example."
    )


@pytest.mark.parametrize("smallest", [0.0, 1.38, math.inf, math.nan])
def test_what_cannot_be_resolved_is_not_said_to_be(smallest):
    result = judged(replace(CLOSE, smallest_resolvable=smallest))

    assert not [line for line in (*sentences(result), final_sentence(result)) if "can resolve" in line]


def test_without_a_comparison_nothing_is_judged():
    result = replace(RESULT, comparisons=())

    assert final_sentence(result) == "There is nothing to compare swa.safetensors with."
    assert not [line for line in sentences(result) if "Intervals" in line]
