"""At which step a checkpoint was saved, from what it holds or from its name."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swa_cli.checkpoints.checkpoint import Checkpoint

COUNTERS = ("global_step", "step", "iteration", "epoch")

# In the order in which they are believed: `epoch=3-step=1200.ckpt` was saved at step 1200.
_LABELS = (r"(?:global_?)?step", r"iter(?:ation)?|it", r"checkpoint|ckpt|chkpt", r"ep(?:och)?")
_DECIMAL = re.compile(r"\d+\.\d+")
_DIGITS = 20  # a longer number is no step
_SUFFIX = re.compile(r"(\.(safetensors|pt|pth|ckpt|tar|bin))+$")


def counters_of(contents: Mapping[Any, Any]) -> dict[str, int]:
    """The known counters among ``contents``: integers, or the same as text (safetensors metadata)."""
    found: dict[str, int] = {}
    for name in COUNTERS:
        value = contents.get(name)
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < _DIGITS:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
    return found


def step_in_name(path: Path) -> int | None:
    """The step that a path tells: a labelled number of the name, its last number, or a labelled one of the folder.

    >>> step_in_name(Path("epoch=3-step=1200.ckpt"))
    1200
    >>> step_in_name(Path("epoch=7-val_loss=0.21.ckpt"))
    7
    >>> step_in_name(Path("run/checkpoint-500/model.safetensors"))
    500
    """
    stem = _DECIMAL.sub(" ", _SUFFIX.sub("", path.name))
    labelled = _labelled(stem)
    if labelled is not None:
        return labelled
    # A number glued to letters names an architecture (`resnet50.pt`) only when a free-standing one is there too.
    numbers = re.findall(r"(?<![A-Za-z\d])\d+", stem) or re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else _labelled(path.parent.name)


def _labelled(text: str) -> int | None:
    for label in _LABELS:
        match = re.search(rf"(?<![a-z])(?:{label})[-_=. ]?(\d+)", text, flags=re.IGNORECASE)
        if match:
            return int(match.group(1))
    return None


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts `epoch-9` before `epoch-10`."""
    absolute = os.path.abspath(path)  # noqa: PTH100  # however it was spelt; Path.absolute keeps ".."
    parts = re.split(r"(\d+)", absolute)
    numbers = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    return [*numbers, (2, 0, absolute)]  # `ck-1` and `ck-01` have the same numbers


def in_order_of_steps(checkpoints: Sequence[Checkpoint]) -> tuple[tuple[Checkpoint, ...], str]:
    """Sort by step, oldest first, and say by what.

    The first of the counters that every file holds and that tells them apart is the step; else the number in
    the names, if every name has one and they differ; else there are no steps and the order is that of the names,
    with numbers read as numbers. The result does not depend on the order of ``checkpoints``.
    """
    by_name = sorted(checkpoints, key=lambda checkpoint: natural_key(checkpoint.path))
    for origin, step_of in _readings():
        steps = [step_of(checkpoint) for checkpoint in by_name]
        known = [step for step in steps if step is not None]
        if len(set(known)) == len(by_name):
            pairs = sorted(zip(known, by_name, strict=True), key=lambda pair: pair[0])
            return tuple(replace(checkpoint, step=step) for step, checkpoint in pairs), origin
    return tuple(by_name), "name"


def _readings() -> Iterator[tuple[str, Callable[[Checkpoint], int | None]]]:
    for counter in COUNTERS:
        yield counter, lambda checkpoint, counter=counter: checkpoint.counters.get(counter)
    yield "number in the name", lambda checkpoint: step_in_name(checkpoint.path)
