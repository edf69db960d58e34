"""Results of an evaluation for the reports to render."""

import math
from dataclasses import replace
from typing import Any

from swa_cli.evaluation.result import (
    BnRecord,
    Candidate,
    Comparison,
    Curve,
    Decision,
    EvaluationResult,
    Score,
)

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


CLOSE = compared(
    "accuracy",
    "last",
    (0.003, -0.004, 0.010),
    "inconclusive",
    p_adjusted=0.4,
    smallest_resolvable=0.01,
    units_needed=7643,
)


LOST = compared("accuracy", "last", (-0.0032, -0.0065, -0.0001), "worse")


KEPT = compared("accuracy", "last", (0.001, -0.001, 0.003), "non-inferior", margin=0.002)


SAME = compared("accuracy", "last", (0.0, 0.0, 0.0), "inconclusive", smallest_resolvable=0.0, units_needed=None)


OF_RMSE: dict[str, Any] = {
    "scores": (RMSE,),
    "secondary": None,
    "candidates": tuple(replace(row, scores={"rmse": 0.5}) for row in CANDIDATES),
}
