"""Safetensors files to be written: one, or Hugging Face's shards with their index."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from swa_cli.errors import MismatchError, listed
from swa_cli.formats.output_layout import Contents, OutputFile
from swa_cli.formats.provenance import Provenance
from swa_cli.formats.provenance_text import to_metadata
from swa_cli.formats.safetensors.header import NAMES, safetensors_entries, safetensors_header
from swa_cli.formats.tensor_layout import TensorSpec

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def safetensors_file(
    contents: Contents,
    *,
    name: str,
    stored_as: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> OutputFile:
    """A file with all tensors of ``contents``.

    Args:
        name: of the file.
        stored_as: names in the file, of tensors and their further names, where they are not those in ``contents``.
        metadata: entries besides our own.

    Raises:
        MismatchError: a tensor has a dtype or a name that the format has no place for.
        OutputError: the header would be longer than the format allows.
    """
    _check(contents)
    new = {short: short for short in (*contents.specs, *contents.tied)} | dict(stored_as or {})
    specs = {new[short]: spec for short, spec in contents.specs.items()}
    tied = {new[short]: new[kept] for short, kept in contents.tied.items()}

    entries, offsets = safetensors_entries(specs)

    def header(provenance: Provenance) -> bytes:
        return safetensors_header(
            entries, {**(metadata or {}), **to_metadata(provenance, tied=tied, extra=contents.extra)}
        )

    start = len(header(contents.provenance))

    def seal(provenance: Provenance) -> Sequence[tuple[int, bytes]]:
        final = header(provenance)
        assert len(final) == start, "the header is not as long as was planned"  # tensors follow it
        return [(0, final)]

    return OutputFile(
        name=name,
        size=start + sum(spec.nbytes for spec in specs.values()),
        offsets={short: start + offsets[new[short]] for short in contents.specs},
        tensors=[(start + offset, start + offset + specs[name].nbytes) for name, offset in offsets.items()],
        frame=lambda provenance, _crc: seal(provenance),
        seal=seal,
    )


def sharded_files(contents: Contents, max_shard_size: int) -> tuple[OutputFile, ...]:
    """``model-00001-of-0000N.safetensors`` and their index, or one file if all fits; as ``save_pretrained`` has it.

    A tensor larger than ``max_shard_size`` (in bytes) has a shard of its own.
    """
    shards = _shares(contents.specs, max_shard_size)
    if len(shards) == 1:
        return (safetensors_file(contents, name=SINGLE),)
    stem, suffix = SINGLE.split(".")
    names = [f"{stem}-{number:05}-of-{len(shards):05}.{suffix}" for number in range(1, len(shards) + 1)]
    files = [
        safetensors_file(replace(part_of(contents, share), extra={} if number else contents.extra), name=name)
        for number, (name, share) in enumerate(zip(names, shards, strict=True))
    ]
    where = {tensor: name for name, share in zip(names, shards, strict=True) for tensor in share}
    size = sum(spec.nbytes for spec in contents.specs.values())
    return (*files, index_file(INDEX, where, {"total_size": size}))


def index_file(name: str, where: Mapping[str, str], metadata: Mapping[str, object]) -> OutputFile:
    """The index of a sharded checkpoint: from the names of tensors to those of the files that hold them."""
    index = {"metadata": dict(metadata), "weight_map": dict(sorted(where.items()))}
    text = (json.dumps(index, indent=2) + "\n").encode()
    return OutputFile(
        name=name, size=len(text), offsets={}, tensors=(), frame=lambda _provenance, _crc: [(0, text)], seal=None
    )


def part_of(contents: Contents, names: Sequence[str]) -> Contents:
    """Some of the tensors, with their further names, and nothing else."""
    kept = set(names)
    return Contents(
        specs={name: contents.specs[name] for name in names},
        tied={name: other for name, other in contents.tied.items() if other in kept},
        extra={},
        provenance=contents.provenance,
    )


def _check(contents: Contents) -> None:
    unknown = [f"{name} is {spec}" for name, spec in contents.specs.items() if spec.dtype not in NAMES]
    if unknown:
        advice = "Give the output a torch name (.pt), save the checkpoints with another dtype, or without them."
        msg = "these tensors have a dtype that safetensors cannot store:"
        raise MismatchError(msg, *listed(unknown), advice)
    unusable = [
        repr(name) for name in (*contents.specs, *contents.tied) if name == "__metadata__" or not _is_unicode(name)
    ]
    if unusable:
        advice = "Give the output a torch name (.pt), or rename them in the checkpoints."
        msg = "safetensors cannot store tensors of these names:"
        raise MismatchError(msg, *listed(unusable), advice)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shares(specs: Mapping[str, TensorSpec], most: int) -> list[list[str]]:
    shares: list[list[str]] = [[]]
    size = 0
    for name in specs:
        if shares[-1] and size + specs[name].nbytes > most:
            shares.append([])
            size = 0
        shares[-1].append(name)
        size += specs[name].nbytes
    return shares
