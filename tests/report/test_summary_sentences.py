"""The sentences below the table."""

import math
from dataclasses import replace

import pytest

from support.results import (
    BN,
    CANDIDATES,
    CLOSE,
    CURVE,
    FULL,
    KEPT,
    LOST,
    OF_RMSE,
    RESULT,
    RMSE,
    SAME,
    SCORES,
    compared,
    judged,
)
from swa_cli.evaluation.result import (
    Decision,
)
from swa_cli.report.summary_sentences import sentences
from swa_cli.report.verdict_sentence import final_sentence


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
