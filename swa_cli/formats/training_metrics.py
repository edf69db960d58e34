"""What a file says of how good it is: metrics from its contents, or from its name."""

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import PurePath
from typing import Any

from swa_cli.formats.torch.pickled_scalars import ReadTensor, entries_of, numbers_in, read_number
from swa_cli.formats.training_step import COUNTERS, SUFFIX

_NESTED = ("metrics", "metric", "scores", "results", "logs", "log", "stats", "eval_metrics", "val_metrics")
_NO_METRICS = {
    *COUNTERS,
    *("epochs", "max_epochs", "start_epoch", "batch_idx", "batch_idx_train", "total_flos"),
    *("version", "seed", "lr", "learning_rate", "grad_norm", "n_averaged", "world_size", "batch_size"),
}
_TIMINGS = ("_runtime", "_per_second", "_time")
_MOST_CALLBACKS = 100
_MOST_FILES = 1000
_LONGEST = 40
_LONGEST_NAME = 1000

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf)"
_PAIR = re.compile(rf"(?<![A-Za-z\d_])([A-Za-z][\w/]*)=({_NUMBER})(?![A-Za-z\d])", flags=re.IGNORECASE)
_FAIRSEQ = re.compile(rf"\bbest_([A-Za-z]\w*?)_({_NUMBER})$", flags=re.IGNORECASE)
_TEXT = re.compile(_NUMBER, flags=re.IGNORECASE)


def metrics_of(contents: Mapping[Any, Any], read: ReadTensor | None, path: PurePath) -> dict[str, float]:
    """Metrics in the contents of a torch file.

    They are the numbers at the top that count nothing, those of a mapping called ``metrics``, ``logs`` or the like, and
    what Lightning's ModelCheckpoint monitors. A best value so far (``best_acc1``) is not this file's.

    Args:
        contents: the mapping at the top.
        read: reads a tensor of one element; None where the tensors at the top are the weights.
        path: of the file, by whose name a callback knows it.
    """
    found: dict[str, float] = {}
    for name in _NESTED:
        found |= metrics_among(numbers_in(entries_of(contents.get(name)), read))
    found |= metrics_among(numbers_in(contents, read))
    return found | (_of_lightning(contents.get("callbacks"), read, path) if read else {})


def metrics_of_text(metadata: Mapping[str, str]) -> dict[str, float]:
    """Metrics in the metadata of a safetensors file, where all values are text."""
    numbers = {
        name: float(text)
        for name, text in metadata.items()
        if len(text) < _LONGEST and _TEXT.fullmatch(text.strip()) and "." not in name
    }
    return metrics_among(numbers)


def metrics_in_name(path: PurePath) -> dict[str, float]:
    """Metrics in a file's name, as Lightning and fairseq write them.

    >>> metrics_in_name(PurePath("epoch=3-val_loss=0.21.ckpt"))
    {'val_loss': 0.21}
    >>> metrics_in_name(PurePath("checkpoint.best_loss_3.21.pt"))
    {'loss': 3.21}
    """
    stem = SUFFIX.sub("", path.name)
    return metrics_among({name: float(value) for name, value in _PAIR.findall(stem) + _FAIRSEQ.findall(stem)})


def metrics_among(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those of ``numbers`` that by their names can be metrics of one file."""
    return {
        name: float(value)
        for name, value in numbers.items()
        if len(name) <= _LONGEST_NAME
        and name.lower() not in _NO_METRICS
        and not name.lower().startswith("best")
        and not name.endswith(_TIMINGS)
    }


def _of_lightning(callbacks: object, read: ReadTensor, path: PurePath) -> dict[str, float]:
    """The monitored score of each ModelCheckpoint.

    Where there are several, ``current_score`` may be that of an earlier file, which another of them has not replaced
    yet; then only what a callback says of this file by its name is believed.
    """
    states = [
        state
        for value in islice(entries_of(callbacks).values(), _MOST_CALLBACKS)
        if "current_score" in (state := entries_of(value))  # by any name: a user's class may be derived from it
    ]
    found: dict[str, float] = {}
    for state in states:
        monitor = state.get("monitor")
        of_this = [
            score
            for name, score in islice(reversed(entries_of(state.get("best_k_models")).items()), _MOST_FILES)
            if type(name) is str and name.endswith(path.name) and PurePath(name).name == path.name
        ]
        score = of_this[0] if of_this else state.get("current_score") if len(states) == 1 else None
        number = read_number(score, read)
        if type(monitor) is str and len(monitor) <= _LONGEST_NAME and number is not None:
            found[monitor] = float(number)
    return found
