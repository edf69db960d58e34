"""Metrics that several tasks share."""

from dataclasses import replace

import numpy as np

from swa_cli.tasks.metrics import Metric, from_parts, ratio

ACCURACY = from_parts(
    "accuracy",
    "accuracy",
    ratio("correct", "count"),
    higher_is_better=True,
    percent=True,
    compared=True,
    right_or_wrong="correct",
)


def share_right(element: str) -> Metric:
    """Return the accuracy of units with several elements, which its label names: "pixel accuracy"."""
    return replace(ACCURACY, label=f"{element} accuracy", right_or_wrong=None)


NLL = from_parts("nll", "NLL", ratio("nll", "weight"), higher_is_better=False, compared=True)
BRIER = from_parts("brier", "Brier", ratio("brier", "count"), higher_is_better=False)
LIKENESS = (
    from_parts(
        "ensemble_agreement",
        "agreement with the ensemble",
        ratio("agreement", "count"),
        higher_is_better=True,
        percent=True,
        shown=False,
    ),
    from_parts(
        "ensemble_distance",
        "distance from the ensemble",
        ratio("squared_distance", "count", then=np.sqrt),
        higher_is_better=False,
        shown=False,
    ),
)
"""Closeness to the ensemble: how often both predict the same class, and the root mean square of ‖p − p̄‖."""
