"""The evaluation as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from swa_cli import __version__
from swa_cli.evaluation import Candidate, Curve, EvaluationResult
from swa_cli.report.verdict_sentence import final_sentence

# 1: the first. Fields may be added within a version; none is renamed or removed.
SCHEMA_VERSION = 1


def to_json(result: EvaluationResult) -> str:
    """Return one JSON object, indented, ending in a newline."""
    return json.dumps(_finite(as_mapping(result)), indent=2, allow_nan=False) + "\n"


def as_mapping(result: EvaluationResult) -> dict[str, Any]:
    """Return the JSON object: percentages are fractions, nll is in nats, brier is not halved."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "task": result.task,
        "split": result.split,
        "unit": result.unit,
        "n_examples": result.n_examples,
        "n_groups": result.n_groups,
        "decision": {**asdict(result.decision), "sentence": final_sentence(result)},
        "scores": [asdict(score) for score in result.scores],
        "candidates": [_candidate(candidate) for candidate in result.candidates],
        "comparisons": [{**asdict(comparison), "candidate": "swa"} for comparison in result.comparisons],
        "prefixes": [_candidate(candidate) for candidate in result.prefixes],
        "curve": _curve(result.curve) if result.curve else None,
        "bn_update": asdict(result.bn_update) if result.bn_update else None,
        "plan": result.plan,
        "warnings": list(result.warnings),
        "notes": list(result.notes),
    }


def _finite(value: Any) -> Any:
    """Replace infinity and NaN, which JSON lacks, by null, and −0 by 0."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(entry) for entry in cast("Sequence[Any]", value)]
    return value


def _curve(curve: Curve) -> dict[str, Any]:
    return {"split": curve.split, "chosen": curve.chosen, "points": [_candidate(point) for point in curve.points]}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    """Return the row, without the entries that do not apply to it."""
    about = {"step": candidate.step, "members": candidate.members, "chosen_on": candidate.chosen_on}
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        **{name: value for name, value in about.items() if value is not None},
        "forward_passes": candidate.forward_passes,
        "metrics": dict(candidate.scores),
    }
