"""The renderings of one frozen result."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swa_cli import __version__
from swa_cli.cli.save_report import save
from swa_cli.cli.terminal import VisibleConsole
from swa_cli.errors import OutputError
from swa_cli.evaluation.result import (
    BnRecord,
    Candidate,
    Comparison,
    Curve,
    Decision,
    EvaluationResult,
    Score,
)
from swa_cli.report.csv_report import to_csv
from swa_cli.report.json_report import to_json
from swa_cli.report.markdown import to_markdown
from swa_cli.report.summary_sentences import sentences
from swa_cli.report.table import evaluation_table, further_tables, warning_panels
from swa_cli.report.verdict_sentence import final_sentence

SCORES = (
    Score(name="accuracy", label="accuracy", higher_is_better=True, percent=True, shown=True, right_or_wrong=True),
    Score(name="nll", label="NLL", higher_is_better=False, percent=False, shown=True),
    Score(name="calibrated_nll", label="cal. NLL", higher_is_better=False, percent=False, shown=True),
    Score(name="brier", label="Brier", higher_is_better=False, percent=False, shown=True),
    Score(name="ece", label="ECE", higher_is_better=False, percent=True, shown=True),
    Score(name="ece_floor", label="ECE if calibrated", higher_is_better=False, percent=True, shown=False),
    Score(
        name="ensemble_agreement", label="agreement with the ensemble", higher_is_better=True, percent=True, shown=False
    ),
    Score(
        name="ensemble_distance", label="distance from the ensemble", higher_is_better=False, percent=False, shown=False
    ),
)
RMSE = Score(name="rmse", label="RMSE", higher_is_better=False, percent=False, shown=True)
OTHERS = {
    "last": "the last checkpoint",
    "best": "the best by validation",
    "mean": "the mean over checkpoints",
    "control": "the last checkpoint with BatchNorm recomputed",
    "ensemble": "the ensemble",
}


def compared(metric, kind, numbers, verdict: Any = "better", **fields: Any):
    difference, low, high = numbers
    defaults: dict[str, Any] = {
        "p_value": 0.0002,
        "p_adjusted": 0.0004 if kind in {"mean", "ensemble"} else 0.0002,
        "corrected_for": 2 if kind in {"mean", "ensemble"} else 1,
        "standard_error": 0.00325,
        "smallest_resolvable": 0.0091,
        "units_needed": 270,
        "margin": None,
    }
    return Comparison(
        metric=metric,
        other=OTHERS[kind],
        kind=kind,
        difference=difference,
        ci_low=low,
        ci_high=high,
        verdict=verdict,
        **{**defaults, **fields},
    )


def candidate(name, kind, *numbers, more=None, **fields):
    names = ("accuracy", "nll", "calibrated_nll", "brier", "ece")
    return Candidate(name=name, kind=kind, scores={**dict(zip(names, numbers, strict=False)), **(more or {})}, **fields)


LIKE_SWA = {"ensemble_agreement": 0.9712, "ensemble_distance": 0.0581}
LIKE_ONE = {"ensemble_agreement": 0.9229, "ensemble_distance": 0.1134}
CANDIDATES = (
    candidate("swa.safetensors", "swa", 0.91, 0.2562, 0.2551, 0.1323, 0.0069, more={"ece_floor": 0.0075, **LIKE_SWA}),
    candidate("epoch-6.pt", "checkpoint", 0.8663, 0.3559, 0.3551, 0.1867, 0.01, step=6, more=LIKE_ONE),
    candidate("epoch-8.pt", "checkpoint", 0.9012, 0.2873, 0.2865, 0.1468, 0.0125, step=8, more=LIKE_ONE),
    candidate("epoch-17.pt", "checkpoint", 0.8576, 0.4169, 0.4110, 0.2052, 0.0288, step=17, more=LIKE_ONE),
    candidate("mean over checkpoints", "mean", 0.8718, 0.3712, 0.3670, 0.1856, 0.0214, members=12, more=LIKE_ONE),
    candidate("last (epoch-17.pt)", "last", 0.8576, 0.4169, 0.4110, 0.2052, 0.0288, step=17),
    candidate(
        "best by validation (epoch-8.pt)", "best", 0.9012, 0.2873, 0.2865, 0.1468, 0.0125, step=8, chosen_on="val"
    ),
    candidate("last, BatchNorm recomputed", "control", 0.9054, 0.268, math.nan, 0.1386, 0.0081, step=17),
    candidate("ensemble", "ensemble", 0.9067, 0.285, 0.2601, 0.141, 0.0478, members=12, forward_passes=12),
    candidate("geometric", "geometric", 0.9071, 0.271, members=12, forward_passes=12),
)
COMPARISONS = (
    compared("accuracy", "last", (0.0524, 0.0460, 0.0588)),
    compared("nll", "last", (-0.1607, -0.1738, -0.1477), smallest_resolvable=0.0187),
    compared("accuracy", "best", (0.0088, 0.0051, 0.0125)),
    compared("nll", "best", (-0.0311, -0.0344, -0.0279)),
    compared("accuracy", "mean", (0.0382, 0.0353, 0.0412)),
    compared("nll", "mean", (-0.1150, -0.1185, -0.1115)),
    compared("accuracy", "control", (0.0046, -0.0007, 0.0085), "inconclusive", p_value=0.12, p_adjusted=0.12),
    compared("nll", "control", (-0.0118, -0.0139, -0.0097)),
    compared("accuracy", "ensemble", (0.0033, 0.0009, 0.0057)),
    compared("nll", "ensemble", (-0.0288, -0.0326, -0.0250)),
)
CURVE = Curve(
    split="val",
    points=tuple(
        candidate(f"last {k}", "window", accuracy, nll, members=k)
        for k, accuracy, nll in ((1, 0.9010, 0.271), (2, 0.9055, 0.2633), (8, 0.9110, 0.2555), (12, 0.9102, 0.2560))
    ),
    chosen=8,
)
PREFIXES = tuple(candidate(f"first {k}", "ensemble", 0.86 + k / 300, 0.36 - k / 200, members=k) for k in range(1, 13))
BN = BnRecord(
    file="swa.safetensors",
    estimator="population",
    model="train.py:Net",
    model_args={},
    data="data.py:Data",
    data_args={"root": "my_data"},
    n_samples=55_000,
    n_batches=215,
    batch_size=None,
    seed=0,
    eval_transforms=False,
    amp=None,
    standard_error=0.003,
    partial=False,
    kept={},
    unreached=(),
)
RESULT = EvaluationResult(
    split="test",
    task="classification",
    unit="example",
    n_examples=10_000,
    scores=SCORES,
    candidates=CANDIDATES,
    comparisons=COMPARISONS,
    decision=Decision(verdict="better", mixed=False, primary="accuracy", secondary="nll"),
)
FULL = replace(
    RESULT,
    prefixes=PREFIXES,
    curve=CURVE,
    bn_update=BN,
    warnings=("these are not the members of the average.",),
    notes=("Two checkpoints hold the same weights.",),
    plan="All 13 models were in memory at once: one pass.",
)


def judged(
    *comparisons,
    mixed=False,
    verdict: Any = "inconclusive",
    secondary: str | None = "nll",
    units_needed: int | None = None,
    **fields: Any,
):
    decision = Decision(
        verdict=verdict, mixed=mixed, primary=comparisons[0].metric, secondary=secondary, units_needed=units_needed
    )
    return replace(RESULT, comparisons=comparisons, decision=decision, **fields)


def drawn(*what, width=120):
    stream = io.StringIO()
    console = VisibleConsole(width=width, file=stream, color_system=None, _environ={})
    for one in what:
        console.print(one)
    return stream.getvalue()


CLOSE = compared(
    "accuracy",
    "last",
    (0.003, -0.004, 0.010),
    "inconclusive",
    p_adjusted=0.4,
    smallest_resolvable=0.01,
    units_needed=7643,
)
GAINED = compared("accuracy", "last", (0.0052, 0.0046, 0.0058))
LOST = compared("accuracy", "last", (-0.0032, -0.0065, -0.0001), "worse")
NLL_BETTER = compared("nll", "last", (-0.01, -0.02, -0.005))
NLL_WORSE = compared("nll", "last", (0.0005, 0.0002, 0.0008), "worse")
KEPT = compared("accuracy", "last", (0.001, -0.001, 0.003), "non-inferior", margin=0.002)
SAME = compared("accuracy", "last", (0.0, 0.0, 0.0), "inconclusive", smallest_resolvable=0.0, units_needed=None)
OF_RMSE: dict[str, Any] = {
    "scores": (RMSE,),
    "secondary": None,
    "candidates": tuple(replace(row, scores={"rmse": 0.5}) for row in CANDIDATES),
}


def first_line(*comparisons, **fields):
    return next(iter(sentences(judged(*comparisons, **fields))))


def test_each_other_has_a_line_with_difference_interval_and_verdict():
    first, *_ = sentences(RESULT)

    assert first == (
        "SWA against the last checkpoint: accuracy +5.24 points (+4.60 to +5.88): better; NLL -0.1607 (-0.1738 to "
        "-0.1477): better."
    )


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (CLOSE, "+0.30 points (-0.40 to +1.00): inconclusive."),
        (LOST, "-0.32 points (-0.65 to -0.01): worse."),
        (KEPT, "+0.10 points (-0.10 to +0.30): not worse by more than the margin of 0.2 points."),
        (
            compared("accuracy", "last", (-0.002, -0.003, -0.001), "non-inferior", margin=0.005),
            "-0.20 points (-0.30 to -0.10): worse, but by less than the margin of 0.5 points.",
        ),
        (SAME, "the same on every example."),
    ],
)
def test_each_verdict_has_its_words(comparison, expected):
    assert first_line(comparison) == f"SWA against the last checkpoint: accuracy {expected}"


def test_an_interval_without_zero_that_holm_does_not_accept_says_why():
    numbers = 0.0046, 0.0007, 0.0085
    of_mcnemar = compared("accuracy", "last", numbers, "inconclusive", p_value=0.0523, p_adjusted=0.0523)
    of_holm = compared("accuracy", "mean", numbers, "inconclusive", p_value=0.03, p_adjusted=0.06, corrected_for=2)

    assert first_line(of_holm).endswith("inconclusive (p = 0.03, with Holm over 2 comparisons 0.06).")
    assert first_line(of_mcnemar).endswith("inconclusive (p = 0.052).")
    assert "(95 % CI +0.07 to +0.85) (p = 0.052); these data" in final_sentence(judged(of_mcnemar))


@pytest.mark.parametrize(
    ("n_groups", "effective_n", "few"),
    [(None, 3.4, "about 3 examples"), (None, 1.2, "about 1 example"), (50, 2.0, "about 2 groups")],
)
def test_a_difference_that_rests_on_a_few_examples_says_so(n_groups, effective_n, few):
    numbers = -0.0118, -0.0139, -0.0097
    dominated = compared("nll", "last", numbers, "inconclusive", dominated=True, effective_n=effective_n)
    because = f" (the interval is not reliable: the difference rests on {few})"
    alone = judged(dominated, secondary=None, n_groups=n_groups)

    assert next(iter(sentences(alone))).endswith(f"NLL -0.0118 (-0.0139 to -0.0097): inconclusive{because}.")
    assert final_sentence(alone).endswith(f"NLL -0.0118 (95 % CI -0.0139 to -0.0097){because}.")
    assert not [line for line in sentences(alone) if "can resolve" in line]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.00005, 0.00002, 0.00008), "+0.000050 (+0.000020 to +0.000080)"),
        ((0.00005, -0.000001, 0.0001), "+0.0000500 (-0.0000010 to +0.0001000)"),
        ((-0.0, -0.01, 0.01), "+0.0000 (-0.0100 to +0.0100)"),
        ((123.456789, 45.6, 345.0), "+123.457 (+45.600 to +345.000)"),
        ((0.1, -math.inf, math.inf), "+0.1000 (no interval)"),
        ((0.1, math.nan, math.nan), "+0.1000 (no interval)"),
        ((math.nan, -math.inf, math.inf), "n/a (no interval)"),
        ((math.inf, -math.inf, math.inf), "infinitely higher (no interval)"),
        ((0.05, 1e-15, 0.1), "+0.050000 (+0.000001 to +0.100000)"),
        ((0.05, -1e-17, 0.1), "+0.050000 (-0.000001 to +0.100000)"),
        ((1e20, 5e19, 2e20), "+1.000e+20 (+5.000e+19 to +2.000e+20)"),
        ((-1e-9, -2e-9, 0.0), "-1.000e-09 (-2.000e-09 to +0)"),
    ],
)
def test_no_bound_but_zero_is_shown_as_zero(numbers, expected):
    assert f"NLL {expected}: better" in first_line(compared("nll", "last", numbers))


def test_the_background_says_how_sure_the_numbers_are_and_how_they_came_about():
    assert "\n".join(list(sentences(FULL))[5:]) == (
        "Higher is better for accuracy, lower is better for NLL, cal. NLL, Brier and ECE; passes: the forward passes "
        "that one prediction costs.\n"
        "Intervals: 95 %, paired (right or wrong answers: Gaffke's bound; other scores: BCa bootstrap, never narrower "
        "than Student's), over the 10,000 examples of the test split, taken as independent: where several belong "
        "together (one patient, one video), let split_batch give their groups.\n"
        "These data can resolve differences of 0.91 points in accuracy and 0.019 in NLL from the last checkpoint, with "
        "80 % power for one comparison alone.\n"
        "No test set shows the variance of training: with another seed the differences may change by more than the "
        "intervals say.\n"
        "ECE is biased upwards: a perfectly calibrated model with the confidences of SWA would show 0.75 % on 10,000 "
        "examples.\n"
        "SWA predicts what the ensemble predicts in 97.12 % of cases (a checkpoint: 92.29 % on average), and its "
        "probabilities are 0.058 away from the ensemble's (a checkpoint's: 0.11; root mean square).\n"
        "Average of the last k on the validation split: best k = 8, accuracy 91.10 % (91.02 % at k = 12).\n"
        "BatchNorm statistics of swa.safetensors: population estimator, 55,000 samples in 215 batches of data.py:Data "
        "(root='my_data'), seed 0, standard errors up to 0.3 %.\n"
        "All 13 models were in memory at once: one pass.\n"
        "Two checkpoints hold the same weights."
    )


@pytest.mark.parametrize(
    ("changed", "right_or_wrong", "methods"),
    [
        ({}, True, " (right or wrong answers: Gaffke's bound; other scores: BCa bootstrap, never narrower"),
        ({}, False, " BCa bootstrap, never narrower"),
        ({"n_groups": 12}, True, " BCa bootstrap, never narrower"),
    ],
    ids=["an accuracy", "a percentage of another kind", "an accuracy of groups"],
)
def test_gaffke_s_bound_is_named_where_it_was_taken(changed, right_or_wrong, methods):
    scores = (replace(SCORES[0], right_or_wrong=right_or_wrong), *SCORES[1:])

    (said,) = (one for one in sentences(replace(FULL, scores=scores, **changed)) if one.startswith("Intervals"))

    assert said.startswith(f"Intervals: 95 %, paired{methods} than Student's")


def test_predicted_numbers_have_a_distance_from_the_ensemble_s_but_no_agreement():
    near = {"swa": 0.0712, "mean": 0.213}
    rows = tuple(
        replace(row, scores={"rmse": 0.3, "ensemble_distance": near[row.kind]} if row.kind in near else {"rmse": 0.3})
        for row in CANDIDATES
    )
    scores = (RMSE, *(score for score in SCORES if score.name == "ensemble_distance"))
    decision = Decision(verdict="inconclusive", mixed=False, primary="rmse", secondary=None)
    result = replace(RESULT, scores=scores, candidates=rows, comparisons=(), decision=decision)

    assert (
        "The predictions of SWA are 0.071 away from the ensemble's (a checkpoint's: 0.21; root mean square)."
        in sentences(result)
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"eval_transforms": True}, "(root='my_data'), transformed as for evaluation, seed 0, standard errors"),
        ({"batch_size": 512, "amp": "bf16"}, "(root='my_data'), batch size 512, bf16, seed 0, standard errors"),
        ({"seed": None, "standard_error": 0.0004, "data_args": {}}, "of data.py:Data, standard errors below 0.1 %."),
        (
            {"standard_error": None, "kept": {"bn1": "frozen", "bn2": "frozen"}},
            "seed 0, 2 layers left alone (frozen).",
        ),
    ],
)
def test_the_origin_of_the_statistics_is_told(changed, expected):
    *_, line = sentences(replace(RESULT, bn_update=replace(BN, **changed)))

    assert expected in line


def test_the_curve_names_no_other_k_where_the_longest_is_best():
    *_, line = sentences(replace(RESULT, curve=replace(CURVE, chosen=12)))

    assert line == "Average of the last k on the validation split: best k = 12, accuracy 91.02 %."


def test_what_is_not_known_is_not_said():
    unknown = compared("rmse", "last", (0.1, math.nan, math.nan), "inconclusive", smallest_resolvable=math.nan)

    lines = sentences(judged(unknown, n_examples=1, **OF_RMSE))

    assert "\n".join(list(lines)[1:]) == (
        "Lower is better for RMSE; passes: the forward passes that one prediction costs.\n"
        "No interval can be computed from the 1 example of the test split.\n"
        "No test set shows the variance of training: with another seed the differences may change by more than the "
        "intervals say."
    )


def test_groups_are_what_is_resampled():
    grouped = judged(CLOSE, n_groups=35, n_examples=700, unit="image", split="val", units_needed=7643)

    assert (
        "Intervals: 95 %, paired BCa bootstrap, never narrower than Student's, over the 700 images of the validation "
        "split, in 35 groups."
    ) in sentences(grouped)
    assert "700 images in 35 groups are too few to tell" in final_sentence(grouped)
    assert "about 7,700 groups would be needed" in final_sentence(grouped)


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
        f"{told}{needed}{better}, and --margin sets the loss of accuracy that you accept."
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


def test_the_table_at_a_wide_terminal():
    lines = drawn(evaluation_table(RESULT)).splitlines()

    assert [line.split("│")[1].strip() for line in lines if line.startswith("│")] == [
        "epoch-6.pt",
        "epoch-8.pt",
        "epoch-17.pt",
        "mean over checkpoints",
        "last (epoch-17.pt)",
        "best by validation (epoch-8.pt)",
        "last, BatchNorm recomputed",
        "SWA (swa.safetensors)",
        "ensemble of 12",
        "geometric ensemble of 12",
    ]
    assert lines[0] == "10,000 examples of the test split"
    assert lines[2] == (
        "┃ candidate                       ┃ step ┃ passes ┃ accuracy % ┃    NLL ┃ cal. NLL ┃  Brier ┃ ECE % ┃"
    )
    assert (
        "│ last, BatchNorm recomputed      │   17 │      1 │      90.54 │ 0.2680 │      n/a │ 0.1386 │  0.81 │" in lines
    )
    assert (
        "│ geometric ensemble of 12        │      │     12 │      90.71 │ 0.2710 │          │        │       │" in lines
    )


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_still_has_every_number_whole(width):
    name = "checkpoint-500/pytorch_model-of-a-long-name.safetensors"
    result = replace(RESULT, candidates=(replace(CANDIDATES[1], name=name), *CANDIDATES))

    lines = drawn(evaluation_table(result), width=width).splitlines()

    assert max(map(len, lines)) <= width
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert "".join(row[0] for row in cells[: next(i for i, row in enumerate(cells) if row[0] == "epoch-6.pt")]) == name
    assert ["SWA (swa.safetensors)", "", "1", "91.00", "0.2562", "0.2551", "0.1323", "0.69"] in cells


def test_markup_in_a_name_is_text():
    row = replace(CANDIDATES[1], name="[bold]a[/bold].pt")

    assert "[bold]a[/bold].pt" in drawn(evaluation_table(replace(RESULT, candidates=(row, *CANDIDATES))))


def test_small_tables_show_the_curve_and_the_powers_of_two():
    text = drawn(*further_tables(FULL))

    ks = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert ks == ["1", "2", "8, chosen", "12", "1", "2", "4", "8", "12"]
    assert "averages of the last k on the validation split" in text
    assert "│ 4  │      87.33 │ 0.3400 │" in text
    assert drawn(*further_tables(RESULT)) == ""


def test_a_warning_stands_in_a_panel():
    assert "these are not the members of the average." in drawn(*warning_panels(FULL), width=80)


def test_scores_that_are_small_large_or_nearly_perfect_are_not_rounded_away():
    rows = (
        candidate("swa", "swa", 0.99999, 0.0001234),
        candidate("a", "checkpoint", 1.0, 0.0),
        candidate("b", "checkpoint", 0.00001, 0.000000001),
    )
    large = (
        Candidate(name="a", kind="checkpoint", scores={"rmse": 12345.678}),
        Candidate(name="b", kind="swa", scores={"rmse": 9}),
    )

    text = drawn(evaluation_table(replace(RESULT, candidates=rows)))

    assert [text.count(figure) for figure in ("100.00", " 99.99", " 0.01")] == [1, 1, 1]
    assert [text.count(figure) for figure in ("0.0001234", "0.0000000", "0.0000001")] == [1, 1, 1]
    text = drawn(evaluation_table(replace(RESULT, candidates=large, scores=(RMSE,))))
    assert [figure in text for figure in (" 12345.7 ", " 9.0 ")] == [True, True]


def test_json_has_the_whole_result():
    report = json.loads(to_json(FULL))

    assert report["schema_version"] == 1
    assert (report["task"], report["split"], report["n_examples"], report["n_groups"]) == (
        "classification",
        "test",
        10_000,
        None,
    )
    assert report["decision"] == {
        "verdict": "better",
        "mixed": False,
        "primary": "accuracy",
        "secondary": "nll",
        "units_needed": None,
        "sentence": final_sentence(FULL),
    }
    assert [score["name"] for score in report["scores"]] == [score.name for score in SCORES]
    assert report["candidates"][6] == {
        "name": "best by validation (epoch-8.pt)",
        "kind": "best",
        "step": 8,
        "chosen_on": "val",
        "forward_passes": 1,
        "metrics": {"accuracy": 0.9012, "nll": 0.2873, "calibrated_nll": 0.2865, "brier": 0.1468, "ece": 0.0125},
    }
    assert report["candidates"][7]["metrics"]["calibrated_nll"] is None
    assert report["comparisons"][1]["candidate"] == "swa"
    assert report["comparisons"][1]["ci_low"] == -0.1738
    assert [row["members"] for row in report["prefixes"]] == list(range(1, 13))
    assert (report["curve"]["chosen"], len(report["curve"]["points"])) == (8, 4)
    assert report["bn_update"]["data_args"] == {"root": "my_data"}
    assert (report["plan"], report["warnings"], report["notes"]) == (FULL.plan, [*FULL.warnings], [*FULL.notes])


def test_json_has_null_for_what_is_not_finite():
    unknown = compared("accuracy", "last", (1.0, -math.inf, math.nan), "inconclusive")

    (comparison,) = json.loads(to_json(judged(unknown)))["comparisons"]

    assert (comparison["difference"], comparison["ci_low"], comparison["ci_high"]) == (1.0, None, None)


def test_csv_gives_every_score_back_in_full():
    third = candidate('a "b", c.pt', "checkpoint", 1 / 3, math.nan, step=3)

    header, *rows = csv.reader(io.StringIO(to_csv(replace(FULL, candidates=(third, *CANDIDATES)))))

    assert header == [
        *("name", "kind", "step", "members", "forward_passes", "chosen_on"),
        *(score.name for score in SCORES),
    ]
    assert rows[0] == ['a "b", c.pt', "checkpoint", "3", "", "1", "", repr(1 / 3), "nan", "", "", "", "", "", ""]
    assert len(rows) == 1 + len(CANDIDATES)
    swa = dict(zip(header, rows[1], strict=True))
    assert {name: float(swa[name]) for name in CANDIDATES[0].scores} == CANDIDATES[0].scores


def test_markdown_has_tables_sentences_and_the_last_word():
    lines = to_markdown(FULL).splitlines()

    assert lines[:5] == [
        "## swa.safetensors beside 3 checkpoints",
        "",
        "> **Warning:** these are not the members of the average.",
        "",
        f"**{final_sentence(FULL)}**",
    ]
    assert lines[-1] == f"Made by swa-cli {__version__}: task classification, 10,000 examples of the test split."
    for expected in (
        "| candidate | step | passes | accuracy % | NLL | cal. NLL | Brier | ECE % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| epoch-6.pt | 6 | 1 | 86.63 | 0.3559 | 0.3551 | 0.1867 | 1.00 |",
        "| **SWA (swa.safetensors)** |  | **1** | **91.00** | **0.2562** | **0.2551** | **0.1323** | **0.69** |",
        "| other | metric | difference | 95 % CI | p | verdict |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        "| the last checkpoint | NLL | -0.1607 | -0.1738 to -0.1477 | 0.0002 | better |",
        "| the ensemble | NLL | -0.0288 | -0.0326 to -0.0250 | 0.0004 (Holm) | better |",
        "| **8, chosen** | **91.10** | **0.2555** |",
        "- Two checkpoints hold the same weights.",
    ):
        assert expected in lines
    assert "| the last checkpoint | accuracy | 0 | 0 | 1 | inconclusive |" in to_markdown(
        judged(replace(SAME, p_adjusted=1.0))
    )


def test_markdown_tables_keep_their_columns_whatever_the_names():
    name = "a|b_c_*_d_<i>`\\|\n.pt"
    lines = to_markdown(replace(RESULT, candidates=(replace(CANDIDATES[1], name=name), *CANDIDATES))).splitlines()

    (row,) = [line for line in lines if line.startswith("| a")]

    assert row.split(" | ")[0] == "| a\\|b_c\\_\\*\\_d\\_\\<i>\\`\\\\\\|\\\\n.pt"
    assert len(row.split(" | ")) == 8


def test_a_report_is_published_whole_or_printed(tmp_path, capsys):
    target = tmp_path / "report.md"
    target.write_text("old")

    save(target, lambda: "σ and \udcff\n")
    save(None, lambda: pytest.fail("nobody asked for it"))
    assert target.read_bytes() == "σ and \\udcff\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert capsys.readouterr().out == ""

    save(type(target)("-"), lambda: "alone\n")
    assert capsys.readouterr().out == "alone\n"


def test_a_report_that_cannot_be_written_says_what_there_is_all_the_same(tmp_path):
    with pytest.raises(OutputError, match=r"there is no directory .* The table stands above\.$"):
        save(tmp_path / "gone" / "report.md", lambda: "", otherwise="The table stands above.")
