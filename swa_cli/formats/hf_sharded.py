"""Hugging Face's sharded form: an index that says which file holds which tensor."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, cast, final

from swa_cli.errors import CheckpointError, listed
from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.detect import open_with
from swa_cli.formats.protocol import PossibleCheckpoint
from swa_cli.formats.safetensors.reader import SafetensorsReader
from swa_cli.formats.suffixes import SAFETENSORS, TORCH
from swa_cli.formats.tensor_layout import TensorLayout
from swa_cli.formats.torch.reader import TorchReader
from swa_cli.formats.torch.state_dict import strip_wrappers
from swa_cli.formats.training_metrics import metrics_in_name
from swa_cli.system.checked_json import parse_json
from swa_cli.system.storage import read_file, storage_of

INDEX_SUFFIX = ".index.json"
_LARGEST = 1 << 28
_MOST_SHARDS = 20_000
_WRAPPER = "module."
_SHARDS = (SafetensorsReader(), TorchReader())


def shards_of(index: PurePath) -> Mapping[str, str]:
    """From the names of the tensors to those of the files that hold them, beside the index.

    Raises:
        CheckpointError: the file cannot be read, or is no such index.
    """
    try:
        contents = parse_json(read_file(index, most=_LARGEST))
    except OSError as error:
        msg = f"{index}: cannot be read: {error.strerror or error}."
        raise CheckpointError(msg) from error
    except ValueError as error:
        msg = f"{index}: not a whole index ({error}). Copy or save the checkpoint again."
        raise CheckpointError(msg) from error
    where = cast("dict[str, Any]", contents).get("weight_map") if isinstance(contents, dict) else None
    if not isinstance(where, dict) or not where:
        msg = f"{index}: not the index of a sharded checkpoint: it has no weight_map. Leave it out."
        raise CheckpointError(msg)
    entries = cast("dict[str, Any]", where)
    seen: set[str] = set()
    for name, shard in entries.items():
        if isinstance(shard, str) and shard in seen:
            continue
        if (
            not isinstance(shard, str)
            or PurePath(shard).name != shard
            or shard in {"", "..", "."}
            or shard.endswith(INDEX_SUFFIX)
        ):
            msg = f"{index}: tensor {name}: expected the name of a file beside the index, found {shard!r}."
            raise CheckpointError(msg)
        seen.add(shard)
        if len(seen) > _MOST_SHARDS:
            msg = f"{index}: it names more than {_MOST_SHARDS:,} files. Save the checkpoint in larger shards."
            raise CheckpointError(msg)
    return entries


@final
class HfShardedReader:
    """See `CheckpointReader`."""

    name = "Hugging Face, sharded"
    description = "safetensors or torch files, each with some of the tensors, and an index (`*.index.json`)"
    written_by = "transformers, diffusers, accelerate, swa-cli"
    kept = "what is kept of each shard"
    suffixes = tuple(suffix + INDEX_SUFFIX for suffix in (*SAFETENSORS, *TORCH))

    def claims(self, entry: PossibleCheckpoint) -> bool:
        """See `CheckpointReader`; JSON begins like any text, so that the name decides."""
        return entry.opened is not None and entry.path.name.endswith(INDEX_SUFFIX)

    def parts(self, path: PurePath) -> Collection[str]:
        """See `CheckpointReader`; transformers too prefers a file that holds everything to the index beside it."""
        shards = {*shards_of(path).values()}
        whole = path.with_name(path.name.removesuffix(INDEX_SUFFIX))
        return {*shards, path.name} if storage_of(whole).exists(whole) else shards

    def open(self, entry: PossibleCheckpoint, *, key: str | None) -> Checkpoint:
        """See `CheckpointReader`: the index and the header of every shard that it names."""
        return _open_sharded(entry.path, lambda shard: open_with(_SHARDS, shard, key=key))


def _open_sharded(index: PurePath, open_shard: Callable[[PurePath], Checkpoint]) -> Checkpoint:
    where = shards_of(index)
    names = sorted(set(where.values()))
    files = tuple(index.with_name(name) for name in names)
    try:
        missing = [str(file) for file in files if not storage_of(file).exists(file)]
    except (OSError, ValueError) as error:  # ValueError: a null character
        msg = f"{index}: it names a file that cannot be opened: {error}. Copy or save the checkpoint again."
        raise CheckpointError(msg) from error
    if missing:
        what = f"{index}: these of its {len(files)} shards are missing:"
        raise CheckpointError(what, *listed(missing), "Copy them beside it.")
    shards = _stripped_alike([open_shard(file) for file in files])
    tensors: dict[str, TensorLayout] = {}
    for number, shard in enumerate(shards):
        for name, layout in shard.tensors.items():
            if name in tensors:
                msg = f"{index}: tensor {name} is in two shards, {files[tensors[name].origin[0]]} and {files[number]}."
                raise CheckpointError(msg)
            tensors[name] = layout.beside(number) if number else layout
    extra = {name: value for shard in shards for name, value in shard.extra.items()}
    left_out = tuple(name for shard in shards for name in shard.left_out)
    known = {*extra, *left_out}
    absent = [
        f"{name} in {where[raw]}"
        for name, raw in strip_wrappers({name: name for name in where}).items()
        if tensors.keys().isdisjoint((name, raw)) and known.isdisjoint((name, raw))
    ]
    if absent:
        what = f"{index}: these tensors are not in the shards that it names:"
        raise CheckpointError(what, *listed(absent), "Save it again.")
    first = shards[0]
    return Checkpoint(
        path=index,
        files=files,
        stamps={path: stamp for shard in shards for path, stamp in shard.stamps.items()},
        tensors=tensors,
        counters=first.counters,
        metrics={**metrics_in_name(index), **first.metrics},
        metadata=first.metadata,
        extra=extra,
        left_out=left_out,
        lost=tuple(name for shard in shards for name in shard.lost),
        alternatives=first.alternatives,
        container=f"{first.container}, {len(files)} shards",
        template=first.template,
        stripped=first.stripped,
    )


def _stripped_alike(shards: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Give back the ``module.`` that only the names in some of the shards begin with: it is a module of the model."""
    counts = [shard.stripped.count(_WRAPPER) for shard in shards]
    return [_prefixed(shard, count - min(counts)) for shard, count in zip(shards, counts, strict=True)]


def _prefixed(shard: Checkpoint, count: int) -> Checkpoint:
    if not count:
        return shard
    prefix = _WRAPPER * count
    return replace(
        shard,
        tensors={prefix + name: stored for name, stored in shard.tensors.items()},
        extra={prefix + name: value for name, value in shard.extra.items()},
        stripped=shard.stripped[count:],  # they come first
    )
