"""What the Hugging Face Trainer writes of a checkpoint beside its weights."""

from dataclasses import replace
from fnmatch import fnmatch
from typing import Any, cast

from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.training_metrics import metrics_among
from swa_cli.system.checked_json import parse_json
from swa_cli.system.storage import read_file

FILE = "trainer_state.json"
_WEIGHTS = ("model.*", "model-*", "pytorch_model.*", "pytorch_model-*", "adapter_model.*")
_LARGEST = 1 << 28
_LARGEST_NUMBER = 1 << 63


def with_trainer_state(checkpoint: Checkpoint) -> Checkpoint:
    """Add the step and what was logged at it; the checkpoint as it is where there is no such file, or no whole one."""
    if not any(fnmatch(checkpoint.path.name, pattern) for pattern in _WEIGHTS):
        return checkpoint
    beside = checkpoint.path.with_name(FILE)
    try:
        state = parse_json(read_file(beside, most=_LARGEST))
    except (OSError, ValueError):
        return checkpoint
    step = _entries(state).get("global_step")
    if type(step) is not int or abs(step) >= _LARGEST_NUMBER:
        return checkpoint
    logged: dict[str, float] = {}
    history = _entries(state).get("log_history")
    for entry in cast("list[Any]", history) if isinstance(history, list) else []:
        if _entries(entry).get("step") == step:
            numbers = {name: value for name, value in _entries(entry).items() if _is_number(value)}
            logged |= metrics_among(numbers)
    return replace(
        checkpoint,
        counters={"global_step": step, **checkpoint.counters},
        metrics={**checkpoint.metrics, **logged},
    )


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST_NUMBER)


def _entries(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
