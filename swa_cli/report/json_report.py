"""The evaluation as JSON."""

import json
import math
from dataclasses import asdict
from typing import Any, cast

from swa_cli import __version__
from swa_cli.evaluation import Candidate, EvaluationResult

# 1: the first. Fields may be added within a version; none is renamed or removed.
SCHEMA_VERSION = 1


def to_json(result: EvaluationResult) -> str:
    """One JSON object, indented, ending in a newline."""
    return json.dumps(_finite(as_mapping(result)), indent=2, allow_nan=False) + "\n"


def as_mapping(result: EvaluationResult) -> dict[str, Any]:
    """The JSON object: accuracy and ece are fractions, nll is in nats, brier is not halved."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "task": result.task,
        "split": result.split,
        "n_examples": result.n_examples,
        "candidates": [_candidate(candidate) for candidate in result.candidates],
        "comparisons": [
            {**asdict(comparison), "candidate": "swa", "verdict": comparison.verdict}
            for comparison in result.comparisons
        ],
        "bn_update": asdict(result.bn_update) if result.bn_update else None,
        "warnings": list(result.warnings),
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: an interval from one example, say, has null for its bounds."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in cast("list[Any]", value)]
    return value


def _candidate(candidate: Candidate) -> dict[str, Any]:
    row: dict[str, Any] = {"name": candidate.name, "kind": candidate.kind}
    if candidate.step is not None:
        row["step"] = candidate.step
    if candidate.members is not None:
        row["members"] = candidate.members
    return {**row, "forward_passes": candidate.forward_passes, "metrics": asdict(candidate.scores)}
