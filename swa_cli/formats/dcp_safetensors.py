"""Directories of safetensors files, one or several for each rank, as torch.distributed.checkpoint writes them.

Each file holds the rank's shards of tensors, and says in ``DCP_SHARDING_INFO`` at which index of its tensor each shard
starts. What the whole tensors are, and that nothing is missing or there twice, follows from all files together.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple, NoReturn, final

from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError

from swa_cli.errors import CheckpointError, listed, option
from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.protocol import PossibleCheckpoint
from swa_cli.formats.safetensors.header import file_order, looks_like_safetensors, read_header
from swa_cli.formats.safetensors.reader import SafetensorsReader
from swa_cli.formats.shards import join_shards
from swa_cli.formats.tensor_layout import Extent, Index, StoredTensor
from swa_cli.formats.torch.state_dict import strip_wrappers, wrappers_in
from swa_cli.formats.training_metrics import metrics_in_name
from swa_cli.system.checked_json import check_values
from swa_cli.system.storage import Stamp, open_file, storage_of

_INFO = "DCP_SHARDING_INFO"
_BYTES_OF_VALUE = 4
"""At least, of that text."""
_NAME = re.compile(r"shard-(\d{5})-model-(\d{5})-of-(\d{5})\.safetensors")
_HEAD = 512
_MOST_PARTS = 20_000
_CAVEAT = (
    "torch.distributed.checkpoint does not record how many parts a checkpoint has: if the last ones are missing, its "
    "tensors are too small. swa inspect counts the parts and the parameters."
)


@final
class DcpSafetensorsReader:
    """See `CheckpointReader`."""

    name = "torch.distributed.checkpoint, safetensors"
    description = "a directory of safetensors files, in which each rank has its shards of the tensors"
    written_by = "`HuggingFaceStorageWriter(save_distributed=True)` of torch, torchtitan"
    kept = "the weights alone; an output cannot have this form"
    suffixes = ()

    def claims(self, entry: PossibleCheckpoint) -> bool:
        """See `CheckpointReader`: by the names in a directory and the first bytes of a part."""
        if entry.opened is not None:
            return _is_part(entry.head)
        parts = _parts_among(entry.names)
        if not parts:
            return False
        with open_file(entry.path / parts[0]) as file:
            return _is_part(file.read(0, _HEAD))

    def parts(self, path: PurePath) -> Collection[str]:  # noqa: ARG002  # the directory is the checkpoint
        """See `CheckpointReader`."""
        return ()

    def open(self, entry: PossibleCheckpoint, *, key: str | None) -> Checkpoint:
        """See `CheckpointReader`; a part that is not the only one is refused."""
        path = entry.path
        if key is not None:
            msg = f"{path}: its files are flat and have no key {key!r}; leave out {option('key')}."
            raise CheckpointError(msg)
        if entry.opened is None:
            return _joined(path, [path / name for name in _parts_among(entry.names)])
        if _NAME.fullmatch(path.name):
            beside = _parts_among(found.path.name for found in storage_of(path).listing(path.parent))
            if len(beside) > 1:
                msg = f"{path} is one of the {len(beside)} parts of a checkpoint. Name their directory, {path.parent}."
                raise CheckpointError(msg)
        elif not any(map(any, _read_part(path).starts.values())):
            return SafetensorsReader().open(entry, key=None)  # whole tensors, as the writer of one process has them
        return _joined(path, [path])


class _Shard(BaseModel):
    saved_offsets: tuple[NonNegativeInt, ...]


_SHARDING = TypeAdapter(dict[str, _Shard])


class _Part(NamedTuple):
    """What one file holds: its tensors, and the index at which each starts in the whole one."""

    stamp: Stamp
    tensors: Mapping[str, StoredTensor]
    starts: Mapping[str, Index]


def _is_part(head: bytes) -> bool:
    return looks_like_safetensors(head) and _INFO.encode() in head


def _parts_among(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if _NAME.fullmatch(name))


def _check_names(path: PurePath, names: Sequence[str]) -> None:
    """Find out whether, by their names, no part is missing.

    Raises:
        CheckpointError: one is, they are of two saves, or there are too many.
    """
    if len(names) > _MOST_PARTS:
        msg = f"{path}: it has {len(names):,} parts, expected at most {_MOST_PARTS:,}. Save it by fewer ranks."
        raise CheckpointError(msg)
    numbers = {name: [*map(int, match.groups())] for name in names if (match := _NAME.fullmatch(name))}
    totals = {total: name for name, (_, _, total) in reversed(numbers.items())}
    if len(totals) > 1:
        msg = f"{path}: {' and '.join(sorted(totals.values()))} are parts of two saves. Remove those of one of them."
        raise CheckpointError(msg)
    ranks, files = ({of_part[at] for of_part in numbers.values()} for at in (0, 1))
    missing = [
        *(f"shard-{rank:05}-model-*.safetensors" for rank in range(1, max(ranks, default=0)) if rank not in ranks),
        *(f"shard-*-model-{file:05}-of-*" for file in range(1, max(totals, default=0) + 1) if file not in files),
    ]
    if missing:
        advice = "Copy them there, or save the checkpoint again."
        raise CheckpointError(f"{path}: these of its parts are missing:", *listed(missing), advice)


def _joined(path: PurePath, files: Sequence[PurePath]) -> Checkpoint:
    """The checkpoint that ``files`` make up."""
    _check_names(path, [file.name for file in files])
    parts = [_read_part(file) for file in files]
    shards: dict[str, list[Extent]] = {}
    for number, part in enumerate(parts):
        for name, stored in part.tensors.items():
            shards.setdefault(name, []).append(Extent(part.starts[name], stored._replace(file=number)))
    layouts = {name: join_shards(path, name, extents, files) for name, extents in shards.items()}
    tensors = {name: layouts[name] for name in file_order({name: layout.spec for name, layout in layouts.items()})}
    try:
        stripped = strip_wrappers(tensors)
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error
    return Checkpoint(
        path=path,
        files=tuple(files),
        stamps={file: part.stamp for file, part in zip(files, parts, strict=True)},
        tensors=stripped,
        metrics=metrics_in_name(path),
        container=f"torch.distributed.checkpoint (safetensors), {len(files)} part{'s' if files[1:] else ''}",
        caveat=_CAVEAT,
        stripped=wrappers_in(tensors),
    )


def _read_part(path: PurePath) -> _Part:
    """Read the header of a file.

    Raises:
        CheckpointError: it cannot be read, or does not say where its shards start.
    """
    try:
        with open_file(path) as file:
            header = read_header(path, file)
            stamp = file.stamp
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}."
        raise CheckpointError(msg) from error
    text = header.metadata.get(_INFO, "").encode(errors="replace")
    try:
        check_values(text, len(text) // _BYTES_OF_VALUE)
        starts = {name: shard.saved_offsets for name, shard in _SHARDING.validate_json(text, strict=True).items()}
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        _refuse(path, f"{_INFO}, which says where its shards start, cannot be read ({reason})")
    tensors = {name: header.stored[name] for name in header.names}
    for name, stored in tensors.items():
        if len(starts.get(name, ())) != len(stored.spec.shape) or name not in starts:
            _refuse(path, f"tensor {name} is {stored.spec}, and {_INFO} says that it starts at {starts.get(name)}")
    return _Part(stamp, tensors, starts)


def _refuse(path: PurePath, what: str) -> NoReturn:
    msg = f"{path}: {what}. It is damaged: copy or save it again."
    raise CheckpointError(msg)
