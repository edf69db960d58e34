"""Detecting EMA copies beside the raw weights of the same steps, by their names.

Averaging both would count each step twice, and mix averaged with raw weights.
"""

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from swa_cli.errors import option, shortened
from swa_cli.formats import Checkpoint

_EMA = re.compile(r"(?<![A-Za-z\d])ema(?![A-Za-z\d])", re.IGNORECASE)
_WITH_SEPARATOR = re.compile(r"(?<=/)ema[-_./]|[-_.]ema(?![A-Za-z\d])", re.IGNORECASE)


def about_ema(files: Sequence[Checkpoint]) -> str | None:
    """Return why not to average these files, or None: some paths differ only in the word "ema", with equal counters."""
    paths = {os.path.abspath(file.path): file for file in files}  # noqa: PTH100  # Path.absolute keeps ".."
    pairs = [
        (paths[raw], file)
        for path, file in paths.items()
        for raw in {path[: word.start()] + path[word.end() :] for word in _WITH_SEPARATOR.finditer(path)}
        if raw in paths and _may_be_of_one_step(paths[raw], file)
    ]
    if not pairs:
        return None
    above = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    pattern = _pattern([Path(path).relative_to(above) for path in paths])
    choice = "Name the files of one of the two."
    if pattern:
        choice = (
            f"Average one of the two: {option('exclude', pattern)} for the raw weights, {option('include', pattern)} "
            "for the EMA."
        )
    shown = shortened([str(file.path) for pair in pairs for file in pair])
    return f"by their names, these files are raw weights and an EMA of the same step: {shown}. {choice}"


def _may_be_of_one_step(first: Checkpoint, second: Checkpoint) -> bool:
    common = first.counters.keys() & second.counters.keys()
    return all(first.counters[name] == second.counters[name] for name in common)


def _pattern(paths: Sequence[Path]) -> str | None:
    """Return a pattern that matches every EMA file and no other, or None."""
    for name in dict.fromkeys(name for path in paths for name in reversed(path.parts)):
        for word in _EMA.finditer(name):
            before, after = name[: word.start()][-1:], name[word.end() :][:1]
            starred = f"{'*' if before else ''}{before}{word[0]}{after}{'*' if after else ''}"
            for pattern in (starred, f"*{word[0]}*"):
                if all(_is_of(path, pattern) == bool(_EMA.search(str(path))) for path in paths):
                    return pattern
    return None


def _is_of(path: Path, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in path.parts)
