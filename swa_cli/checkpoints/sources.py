"""The files that the user means by files, directories and patterns."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from swa_cli.checkpoints.folders import checkpoints_in
from swa_cli.checkpoints.selection import Selection, is_meant, is_of
from swa_cli.checkpoints.steps import natural_key
from swa_cli.errors import SourceError, shortened


def named_paths(sources: Sequence[Path], selection: Selection, notices: list[str]) -> list[Path]:
    """The checkpoints that ``sources`` name, as far as ``include`` and ``exclude`` let them pass.

    Raises:
        SourceError: a source does not exist, holds none, or none is left.
    """
    found = [(path, below) for source in sources for path, below in _named(source, notices, alone=len(sources) == 1)]
    left = [path for path, below in found if is_meant(path, below, selection)]
    idle = [pattern for pattern in selection.exclude if not any(is_of(path, below, pattern) for path, below in found)]
    notices += [f"--exclude {pattern} matches none of the {len(found)} files." for pattern in idle]
    if not left:
        msg = (
            f"none of the {len(found)} files in {shortened([str(source) for source in sources])} is left after "
            f"{selection.in_words('include', 'exclude')}. The first is {found[0][1]}."
        )
        raise SourceError(msg)
    return left


def _named(source: Path, notices: list[str], *, alone: bool) -> Iterator[tuple[Path, PurePath]]:
    """Each checkpoint, with its path from the source on; from the folder above where there are other sources."""
    if source.is_dir():
        for path in checkpoints_in(source, notices):
            below = path.relative_to(source)
            yield path, below if alone else source.absolute().name / below
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
            for path in checkpoints_in(match, notices) if match.is_dir() else [match]:
                yield path, path.relative_to(match.parent)
    else:
        msg = f"no such file or directory: {source}. Name a checkpoint, a directory of them, or a pattern."
        raise SourceError(msg)
