"""At which step a checkpoint was saved, from what it holds or from its name."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from swa_cli.formats.suffixes import SAFETENSORS, TORCH

OF_THE_WHOLE_RUN = ("global_step", "global_steps", "num_updates")
"""Counters that by their names never start anew."""
COUNTERS = (*OF_THE_WHOLE_RUN, "step", "steps", "iteration", "iter", "iter_num", "epoch")
"""In the order in which they are believed."""

# In the order in which they are believed: `epoch=3-step=1200.ckpt` was saved at step 1200.
_LABELS = (r"(?:global_?)?step", r"iter(?:ation)?|it", r"checkpoint|ckpt|chkpt", r"ep(?:och)?")
_DECIMAL = re.compile(r"\d+\.\d+")
_RANK = re.compile(r"(?<![a-z])(?:world_size|rank)[-_.=]?\d+", re.IGNORECASE)
_DIGITS = 20  # a longer number is no step
_LARGEST = 1 << 53
SUFFIX = re.compile(rf"({'|'.join(map(re.escape, (*SAFETENSORS, *TORCH, '.tar')))})+$")


def counters_of(contents: Mapping[Any, Any]) -> dict[str, int]:
    """The known counters among ``contents``: whole numbers, or the same as text (safetensors metadata)."""
    numbers = {name: _whole(contents[name]) for name in COUNTERS if name in contents}
    return {name: number for name, number in numbers.items() if number is not None}


def _whole(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() and len(value) < _DIGITS else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _LARGEST else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def step_in_name(path: PurePath) -> int | None:
    """The step in a path: a labelled number of the name, the last that is no rank, or one of the folder.

    >>> step_in_name(Path("epoch=3-step=1200.ckpt"))
    1200
    >>> step_in_name(Path("epoch=7-val_loss=0.21.ckpt"))
    7
    >>> step_in_name(Path("run/checkpoint-500/model.safetensors"))
    500
    >>> step_in_name(Path("run/step_500/rank0.pt"))
    500
    """
    stem = _RANK.sub(" ", _DECIMAL.sub(" ", SUFFIX.sub("", path.name)))
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


def natural_key(path: PurePath) -> list[tuple[int, int, str]]:
    """Sorts `epoch-9` before `epoch-10`."""
    absolute = os.path.abspath(path) if isinstance(path, Path) else str(path)  # noqa: PTH100  # Path.absolute keeps ".."
    parts = re.split(r"(\d+)", absolute)
    numbers = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    return [*numbers, (2, 0, absolute)]  # `ck-1` and `ck-01` have the same numbers


def numbers_in_name(path: PurePath) -> list[int]:
    """All whole numbers in the name of the file.

    >>> numbers_in_name(Path("epoch=3-step=1200-v1.ckpt"))
    [3, 1200, 1]
    """
    return [int(digits) for digits in re.findall(r"\d+", _DECIMAL.sub(" ", SUFFIX.sub("", path.name)))]
