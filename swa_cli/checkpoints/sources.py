"""Resolving the files, directories and patterns that the user names to checkpoint paths."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from swa_cli.checkpoints.directories import checkpoints_in
from swa_cli.checkpoints.selection import Selection, is_meant, is_of
from swa_cli.errors import SourceError, option, shortened
from swa_cli.formats import natural_key


def named_paths(sources: Sequence[Path], selection: Selection, notices: list[str]) -> list[Path]:
    """Return the checkpoints that ``sources`` name and that ``include`` and ``exclude`` select.

    Raises:
        SourceError: a source does not exist or has no checkpoints, or none is left.
    """
    alone = len(sources) == 1
    found = [(path, below) for source in sources for path, below in _named(source, selection, notices, alone=alone)]
    left = [path for path, below in found if is_meant(path, below, selection)]
    idle = [pattern for pattern in selection.exclude if not any(is_of(path, below, pattern) for path, below in found)]
    notices += [f"{option('exclude', pattern)} matches none of the {len(found)} files." for pattern in idle]
    if not left:
        msg = (
            f"none of the {len(found)} files in {shortened([str(source) for source in sources])} is left after "
            f"{selection.in_words('include', 'exclude')}. The first is {found[0][1]}."
        )
        raise SourceError(msg)
    return left


def _named(source: Path, selection: Selection, notices: list[str], *, alone: bool) -> Iterator[tuple[Path, PurePath]]:
    """Yield each checkpoint with its path relative to the source, or to its parent if there are several sources."""
    if source.is_dir():
        yield from _in_folder(source, PurePath() if alone else PurePath(source.absolute().name), selection, notices)
    elif source.is_file():
        yield source, PurePath(*source.absolute().parts[-2:])  # with its folder: checkpoint-500/model.safetensors
    elif source.exists():
        msg = f"{source} is neither a file nor a directory. Name a checkpoint, a directory of them, or a pattern."
        raise SourceError(msg)
    elif glob.has_magic(str(source)):
        found = [Path(match) for match in glob.glob(str(source), recursive=True)]  # noqa: PTH207
        there = [match for match in found if match.is_dir() or match.is_file()]
        if not there:
            msg = f"no file matches {source}. Check the pattern, and that the shell left it as it is."
            raise SourceError(msg)
        for match in sorted(there, key=natural_key):
            if match.is_dir():
                yield from _in_folder(match, PurePath(match.name), selection, notices)
            else:
                yield match, PurePath(match.name)
    else:
        msg = f"no such file or directory: {source}. Name a checkpoint, a directory of them, or a pattern."
        raise SourceError(msg)


def _in_folder(
    folder: Path, below: PurePath, selection: Selection, notices: list[str]
) -> Iterator[tuple[Path, PurePath]]:
    def seen(path: Path) -> PurePath:
        return below / path.relative_to(folder) if folder in path.parents else PurePath(path.name)

    for path in checkpoints_in(folder, notices, lambda path: is_meant(path, seen(path), selection)):
        yield path, seen(path)
