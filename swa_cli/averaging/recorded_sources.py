"""Opening the sources that the provenance of an average names.

A provenance may come from an untrusted file. Its names are followed below the directory of the average and below the
working directory; the user must name any other directory. A file is opened only if it is a regular file of the
recorded size, and no contents of a file that is not a checkpoint get into a message.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NoReturn

from swa_cli.averaging.provenance import folder_of
from swa_cli.errors import CheckpointError, SourceError, option
from swa_cli.formats import (
    INDEX_SUFFIX,
    Checkpoint,
    Provenance,
    Source,
    checkpoints_among,
    open_checkpoint,
    unescape_surrogates,
)
from swa_cli.system.storage import Url, is_there, locate, open_file, storage_of


def open_sources(
    average: Checkpoint, record: Provenance, *, folder: PurePath | None
) -> tuple[PurePath, list[Checkpoint]]:
    """Return the directory of the sources, and the sources in the order of the provenance.

    Args:
        folder: the directory that the user names; the sources may lie anywhere below it.

    Raises:
        SourceError: a source does not exist, has another size, or is not a checkpoint; or the provenance names a
            directory that only the user may name.
    """
    names = [unescape_surrogates(source.name) for source in record.sources]
    if folder is None:
        folder = _recorded_folder(average, record)
        paths = [folder / name for name in _inside(average, names)]
    else:
        paths = _found_below(folder, names)
    sources = [*zip(paths, record.sources, strict=True)]
    if len({_file_at(average.path, path, said) for path, said in sources}) < len(sources):
        msg = f"{average.path}: its record names a source twice: it is damaged or forged. Average anew."
        raise SourceError(msg)
    key = record.options.key if record.options else None
    opened = [_open(average.path, path, said, key) for path, said in sources]
    return folder, opened


def _recorded_folder(average: Checkpoint, record: Provenance) -> PurePath:
    folder = folder_of(average.path, record)
    own = average.path.parent if isinstance(average.path, Url) else Path(os.path.realpath(average.path)).parent
    around = [own.parent if record.files else own]  # what is a folder lies beside its sources
    with suppress(OSError):
        around.append(Path.cwd())
    is_near = any(folder.is_relative_to(near) for near in around if len(near.parts) > 1)
    if is_near or _is_below(unescape_surrogates(record.folder or "")):
        return folder
    msg = (
        f"{average.path}: its record says that the sources are in {folder}, which is neither below {around[0]} nor "
        f"below the directory that the command runs in. If they are there, say so: {option('sources', folder)}."
    )
    raise SourceError(msg)


def _inside(average: Checkpoint, names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if not _is_below(name):
            msg = (
                f"{average.path}: its record names the source {name}, which is not below the folder of the sources. If "
                f"you know it, say with {option('sources')} where it is."
            )
            raise SourceError(msg)
        yield name


def _is_below(name: str) -> bool:
    path = locate(name)
    return not isinstance(path, Url) and not path.is_absolute() and ".." not in path.parts


def _found_below(folder: PurePath, names: Sequence[str]) -> list[PurePath]:
    """Return the files of these names in a directory, or else the only ones below it."""
    below = [PurePath(*(part for part in PurePath(name).parts if part not in {"..", os.sep})) for name in names]
    missing = {name.parts for name in below if not is_there(folder / name)}
    found = _further_down(folder, missing)
    only = {end: paths[0] for end, paths in found.items() if len(paths) == 1}
    return [only.get(name.parts, folder / name) for name in below]


def _further_down(folder: PurePath, names: set[tuple[str, ...]]) -> Mapping[tuple[str, ...], list[PurePath]]:
    """All files below a folder, and all directories with files, whose paths end in one of these names."""
    if not names:
        return {}
    last, lengths = {name[-1] for name in names if name}, {len(name) for name in names}
    found: defaultdict[tuple[str, ...], dict[PurePath, None]] = defaultdict(dict)
    with suppress(OSError):  # said when they are opened
        for file in storage_of(folder).files_below(folder):
            for path in (file, file.parent):
                if path.name in last:
                    for end in {path.parts[-length:] for length in lengths} & names:
                        found[end][path] = None
    return {end: [*paths] for end, paths in found.items()}


def _file_at(average: PurePath, path: PurePath, said: Source) -> object:
    """Return the identity of a candidate: a file of the recorded size, or a directory with the recorded names."""
    try:
        with open_file(path) as file:
            stamp = file.stamp
    except (FileNotFoundError, NotADirectoryError):
        _refuse(average, path, f"is not there. If the sources were moved, say where with {option('sources')}")
    except OSError as error:
        if isinstance(error, IsADirectoryError) and _is_checkpoint(path):  # whose size is compared once it is open
            return path if isinstance(path, Url) else Path(os.path.realpath(path))
        _refuse(average, path, f"cannot be read: {error.strerror or error}")
    if not path.name.endswith(INDEX_SUFFIX):
        _check_size(average, path, said, stamp.size)
    return stamp.identity


def _is_checkpoint(directory: PurePath) -> bool:
    with suppress(OSError):
        return checkpoints_among(directory) == [directory]
    return False


def _open(average: PurePath, path: PurePath, said: Source, key: str | None) -> Checkpoint:
    checkpoint = None
    with suppress(CheckpointError):  # whose message says what the file holds
        checkpoint = open_checkpoint(path, key=key)
    if checkpoint is None:
        _refuse(average, path, "cannot be read as a checkpoint. swa inspect shows what is wrong with it")
    _check_size(average, path, said, checkpoint.file_bytes)
    return checkpoint


def _check_size(average: PurePath, path: PurePath, said: Source, found: int) -> None:
    if found == 0 or said.size not in {None, found}:
        expected = "a checkpoint" if said.size is None else f"{said.size:,} bytes"
        _refuse(average, path, f"was another then: expected {expected}, found {found:,} bytes")


def _refuse(average: PurePath, path: PurePath, what: str) -> NoReturn:
    msg = f"{average}: its source {path} {what}."
    raise SourceError(msg)
