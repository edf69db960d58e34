"""Outputs in the structure of a template checkpoint: container, key, names, shards, and the files beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import PurePath
from typing import cast

from swa_cli.errors import MismatchError, listed, option
from swa_cli.formats import (
    EXTRA_STATE,
    INDEX_SUFFIX,
    PROVENANCE,
    Checkpoint,
    Contents,
    Layout,
    OutputFile,
    TensorLayout,
    index_file,
    open_checkpoint,
    part_of,
    safetensors_file,
    shards_of,
    stored_names,
    strip_wrappers,
    torch_file_like,
)
from swa_cli.system.checked_json import parse_json
from swa_cli.system.storage import Stamp, read_file, storage_of

_OF_MODEL = (
    *("*config*.json", "tokenizer*", "special_tokens*", "added_tokens*", "vocab*", "merges.txt"),
    *("*.model", "*.tiktoken", "*.jinja", "*.py", "modules.json"),
    *("*labels*.txt", "*labels*.json"),
)
"""What Hugging Face's ``from_pretrained`` reads beside the weights."""
_CONFIGURATIONS = ("config.json", "adapter_config.json", "open_clip_config.json")
"""Files that mark a directory which a library loads by its name: transformers, PEFT, open_clip."""
_NOT_OF_MODEL = ("zero_to_fp32.py",)
_OURS = frozenset({PROVENANCE, EXTRA_STATE})


@dataclass(frozen=True, kw_only=True)
class Like:
    """The template checkpoint, with the key of its state_dict."""

    checkpoint: Checkpoint
    key: str | None


def files_like(like: Like, contents: Contents, *, name: str | None = None) -> tuple[list[OutputFile], list[str]]:
    """Return the files of ``like`` with the tensors of ``contents``, and the entries that are left out.

    Args:
        name: name of a single file; default: that of the template.

    Raises:
        MismatchError: the two do not have the same tensors.
        CheckpointError: a file cannot be read, or its structure cannot be kept.
    """
    checkpoint = like.checkpoint
    _check_same(checkpoint, contents)
    if not checkpoint.files:
        file, left_out = _file_like(like, checkpoint, contents, name or checkpoint.path.name)
        return [file], left_out
    left_out: list[str] = []
    files: list[OutputFile] = []
    kept = _by_file(checkpoint, contents)
    for number, path in enumerate(checkpoint.files):
        shard = open_checkpoint(path, key=like.key)
        part = replace(part_of(contents, kept[number]), extra=_extra_of(like, shard, contents, is_first=number == 0))
        file, left = _file_like(like, shard, part, path.name)
        files.append(file)
        left_out += [entry for entry in left if entry not in left_out]
    return [*files, _index_like(checkpoint, contents, files)], left_out


def files_beside(path: PurePath) -> list[PurePath]:
    """Return the configuration and tokenizer files of a model in Hugging Face's form."""
    storage = storage_of(path)
    if not any(storage.exists(path.with_name(name)) for name in _CONFIGURATIONS):
        return []
    names = sorted(entry.path for entry in storage.listing(path.parent) if entry.is_file)
    return [entry for entry in names if not entry.name.startswith(".") and is_of_model(entry.name)]


def is_of_model(name: str) -> bool:
    """Return whether a file of that name belongs to a model in Hugging Face's form, beside its weights."""
    is_weights = name.endswith((INDEX_SUFFIX, ".safetensors", ".bin", ".pt")) or name in _NOT_OF_MODEL
    return not is_weights and any(fnmatch(name, pattern) for pattern in _OF_MODEL)


def layout_like(like: Like, contents: Contents, *, folder: bool, name: str) -> Layout:
    """Return the layout of an output like a template; for a directory, with the files beside the template.

    Raises:
        MismatchError, CheckpointError: as `files_like`.
    """
    files, left_out = files_like(like, contents, name=None if folder else name)
    names = {file.name for file in files}
    beside = [path for path in files_beside(like.checkpoint.path) if path.name not in names] if folder else []
    return Layout(files=tuple(files), is_folder=folder, copies=tuple(beside), left_out=tuple(left_out))


def stored_apart(like: Like, tied: Mapping[str, str]) -> list[str]:
    """Return the names of tied tensors that are separate tensors in ``like``."""
    there = like.checkpoint.tensors
    return [name for name, kept in tied.items() if name in there and kept in there and there[name] != there[kept]]


def _check_same(checkpoint: Checkpoint, contents: Contents) -> None:
    there = checkpoint.path.name
    expected = {**contents.specs, **{name: contents.specs[kept] for name, kept in contents.tied.items()}}
    found = {name: stored.spec for name, stored in checkpoint.tensors.items()}
    both = [name for name in expected if name in found]
    problems = [
        *(
            f"{name}: the average has {expected[name]}, {there} no such tensor"
            for name in expected
            if name not in found
        ),
        *(f"{name}: {there} has {found[name]}, the average no such tensor" for name in found if name not in expected),
        *(
            f"{name}: the average has {expected[name]}, {there} {found[name]}"
            for name in both
            if found[name].shape != expected[name].shape and not name.endswith("_extra_state")
        ),
        *(
            f"{name} and {other} are one tensor in {there}, and two in the average"
            for name, other in _one_there(checkpoint, contents)
        ),
    ]
    if problems:
        raise MismatchError(
            f"the average cannot take the structure of {checkpoint.path}:",
            *listed(problems),
            f"Name a checkpoint of the same model with {option('like')}.",
        )


def _one_there(checkpoint: Checkpoint, contents: Contents) -> Iterator[tuple[str, str]]:
    seen: dict[TensorLayout, str] = {}
    for name, spec in contents.specs.items():
        stored = checkpoint.tensors.get(name)
        if stored is not None and spec.numel and seen.setdefault(stored, name) != name:
            yield name, seen[stored]


def _by_file(checkpoint: Checkpoint, contents: Contents) -> list[list[str]]:
    """Return the tensors that each of the checkpoint's files will hold."""
    kept: list[list[str]] = [[] for _ in checkpoint.files]
    for name in contents.specs:
        kept[checkpoint.tensors[name].origin[0]].append(name)
    return kept


def _extra_of(like: Like, shard: Checkpoint, contents: Contents, *, is_first: bool) -> dict[str, object]:
    """Return the non-tensor entries of one of several files; the first file also gets those that none has."""
    return {
        name: value
        for name, value in contents.extra.items()
        if name in shard.extra or (is_first and name not in like.checkpoint.extra)
    }


def _file_like(like: Like, file: Checkpoint, contents: Contents, name: str) -> tuple[OutputFile, list[str]]:
    path, stamp = file.path, like.checkpoint.stamps[file.path]
    if file.template == "torch":
        return torch_file_like(path, stamp, like.key, contents, name=name)
    return _safetensors_like(path, stamp, contents, name), []


def _safetensors_like(path: PurePath, stamp: Stamp, contents: Contents, name: str) -> OutputFile:
    there, unordered = stored_names(path, stamp)
    metadata = dict(sorted(unordered.items()))
    stored_as = strip_wrappers({raw: raw for raw in (*there, *(raw for raw in metadata if metadata[raw] in there))})
    written = _written_names(contents, {short for short, raw in stored_as.items() if raw in there})
    file = safetensors_file(
        Contents(
            specs={written[kept]: spec for kept, spec in contents.specs.items()},
            tied={name: written[kept] for name, kept in _all_names(contents) if name != written[kept]},
            extra=contents.extra,
            provenance=contents.provenance,
        ),
        name=name,
        stored_as=stored_as,
        metadata={raw: text for raw, text in metadata.items() if raw not in _OURS and text not in there},
    )
    return replace(file, offsets={kept: file.offsets[written[kept]] for kept in contents.specs})


def _written_names(contents: Contents, there: set[str]) -> dict[str, str]:
    """Map each tensor to the one of its names under which the file stores it."""
    written: dict[str, str] = {}
    for name, kept in _all_names(contents):
        if name in there:
            written.setdefault(kept, name)
    return {kept: written.get(kept, kept) for kept in contents.specs}


def _all_names(contents: Contents) -> list[tuple[str, str]]:
    """Map all names of tensors to the name that ``contents`` keeps."""
    return [*((name, name) for name in contents.specs), *contents.tied.items()]


def _index_like(checkpoint: Checkpoint, contents: Contents, files: Sequence[OutputFile]) -> OutputFile:
    path = checkpoint.path
    written = parse_json(read_file(path)).get("metadata")
    metadata = cast("dict[str, object]", written) if isinstance(written, dict) else {}
    size = sum(spec.nbytes for spec in contents.specs.values())
    where = shards_of(path)
    raw = strip_wrappers({name: name for name in where})
    if checkpoint.template == "safetensors":  # which keeps one name of a tied tensor
        kept = {short for file in files for short in file.offsets}
        where = {name: shard for short, name in raw.items() if short in kept for shard in (where[name],)}
    return index_file(path.name, where, {**metadata, "total_size": size})
