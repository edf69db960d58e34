"""Checking that an output's files, apart from their tensors, are unchanged."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from swa_cli.errors import CheckpointError
from swa_cli.formats import (
    PROVENANCE,
    ByteRange,
    Checkpoint,
    Provenance,
    escape_surrogates,
    frame_digest,
    unescape_surrogates,
)
from swa_cli.system.storage import is_there, open_file


def changed_files(average: Checkpoint, record: Provenance) -> tuple[list[str], list[str]]:
    """Compare everything that is neither a tensor nor the provenance with the checksums in the provenance.

    The files may have been renamed since. Files that were copied beside a model are checked unless they were.

    Returns:
        A sentence for each changed file, and the names of copies that no longer exist.
    """
    text = average.metadata[PROVENANCE]
    tensors: defaultdict[PurePath, set[ByteRange]] = defaultdict(set)
    for layout in average.tensors.values():
        for file, offset, length in layout.runs(0, layout.spec.numel):
            tensors[average.file_of(file)].add((offset, offset + length))
    own: dict[PurePath, str | None] = dict.fromkeys(average.files or [average.path], text)
    own.setdefault(average.path, None)  # an index, which holds no record
    names = {escape_surrogates(path.name) for path in own}
    beside: set[str] = set()
    if record.files and names <= record.frames.keys():
        beside = record.frames.keys() - names
    copies = {name: average.path.with_name(unescape_surrogates(name)) for name in sorted(beside)}
    there: dict[PurePath, str | None] = {path: None for path in copies.values() if is_there(path)}
    problems = [
        problem
        for path, held in (own | there).items()
        for problem in _changed(path, held, tensors[path], record.frames)
    ]
    return problems, [name for name, path in copies.items() if path not in there]


def _changed(
    path: PurePath, record: str | None, tensors: Iterable[ByteRange], frames: Mapping[str, str]
) -> Iterable[str]:
    try:
        with open_file(path) as file:
            digest = frame_digest(file, record, tensors)
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror or error}"
        return
    except CheckpointError as error:
        yield f"{path}: {error}"
        return
    expected = frames.get(escape_surrogates(path.name))
    if digest not in ({expected} if expected else {*frames.values()}):
        what = "what surrounds its tensors" if record else "its content"
        yield f"{path}: {what} is not as it was written"
