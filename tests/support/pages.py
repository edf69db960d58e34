"""Pages of the documentation, run as a reader would: their files written, their commands executed in order."""

import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(<!-- not run[^\n]*-->\n)?^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")


class Block(NamedTuple):
    """A fenced block; ``file`` is the name in its first line, if there is one."""

    language: str
    text: str
    file: str | None


def blocks(page: str, *, start: str = "") -> list[Block]:
    """The blocks of a page from ``start`` on, but for those that say that they are not run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = _BLOCK.findall(text[text.index(start) :])
    files = [_FILE.match(body) for _, _, body in found]
    return [
        Block(language, body, file[1] if file else None)
        for (skipped, language, body), file in zip(found, files, strict=True)
        if not skipped
    ]


def block(page: str, language: str, *, start: str = "") -> str:
    """The first block of a language."""
    return next(one.text for one in blocks(page, start=start) if one.language == language)


def write_files(page: str, folder: Path) -> None:
    """Write the blocks that are files."""
    for one in blocks(page):
        if one.file:
            (folder / one.file).write_text(one.text)


def run_page(page: str, folder: Path, *, codes: Collection[int] = (0,)) -> str:
    """Write a page's files, run its commands and snippets in order, and return what they print."""
    write_files(page, folder)
    done = [one for one in blocks(page) if not one.file and one.language in {"sh", "python"}]
    return "".join(run(one, folder, codes=codes) for one in done)


def run(one: Block, folder: Path, *, codes: Collection[int] = (0,)) -> str:
    """Run a block of commands, or a snippet of Python.

    Args:
        codes: exit codes that are as they should be.

    Raises:
        AssertionError: one of them failed; with what it printed.
    """
    shell = ["bash", "-euo", "pipefail", "-c"] if one.language == "sh" else [sys.executable, "-c"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    paths = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*shell, one.text],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": paths, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode in codes, f"{one.text}\n{done.stdout}"
    return done.stdout
