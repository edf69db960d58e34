"""From the output that the user named to the form it takes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swa_cli.checkpoints import open_single
from swa_cli.errors import OutputError, SwaError, UsageError, option
from swa_cli.formats import (
    INDEX_SUFFIX,
    SAFETENSORS,
    TORCH,
    Checkpoint,
    Contents,
    Layout,
    Provenance,
    escape_surrogates,
    safetensors_file,
    sharded_files,
    torch_file,
    unescape_surrogates,
)
from swa_cli.outputs.template import Like, is_of_model, layout_like
from swa_cli.system.atomic_directory import check_folder
from swa_cli.system.atomic_file import check_output

_SUFFIX = re.compile(r"\.[a-z]\w{0,6}", re.IGNORECASE)  # llama-3.1 has none
_LENGTH_OF_SHA256 = 64
_SAFETENSORS = SAFETENSORS[0]
ITSELF = "this file"
"""Stands for the name of an output of one file, so that its bytes do not depend on that."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where an average goes, and in what form.

    By its name ``path`` is a safetensors file, one of torch's, or else a folder in Hugging Face's form: with
    ``max_shard_size`` (bytes) or ``like``, whose structure is taken.
    """

    path: Path
    like: Like | None = None
    max_shard_size: int | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the output is a folder of files."""
        return not self.path.name.endswith((*SAFETENSORS, *TORCH))

    @property
    def folder(self) -> Path:
        """Where the files of the output lie."""
        return self.path if self.is_folder else self.path.parent


def check_target(target: Target, *, overwrite: bool) -> None:
    """Find out before the work starts whether the output makes sense and can be written.

    Raises:
        UsageError, OutputError: as `check_target_form`, and as `swa_cli.system.atomic_file.check_output` and
            `swa_cli.system.atomic_directory.check_folder`.
    """
    check_target_form(target)
    if target.is_folder:
        check_folder(target.path, overwrite=overwrite, ours=_our_files(target.path))
    else:
        check_output(target.path, overwrite=overwrite)


def check_target_form(target: Target) -> None:
    """Refuse an output whose name, form and template contradict each other.

    Raises:
        UsageError: they do.
        OutputError: the output is the checkpoint that it is to be like.
    """
    path, like = target.path, target.like
    if like is not None and target.max_shard_size is not None:
        msg = (
            f"{option('like')} takes the shards of the checkpoint that it names; leave out {option('max_shard_size')}."
        )
        raise UsageError(msg)
    if like is not None and like.checkpoint.template is None:
        msg = (
            f"{like.checkpoint.path} is a checkpoint of {like.checkpoint.container}, a form that outputs do not have. "
            f"Leave out {option('like')}, or name one file or a checkpoint with an index."
        )
        raise UsageError(msg)
    if target.is_folder:
        if _SUFFIX.fullmatch(path.suffix):
            msg = (
                f"{path}: no checkpoint is called {path.suffix}. Give the output a name ending in {_SAFETENSORS} or "
                f"{', '.join(TORCH)}, or for a directory none of the kind."
            )
            raise UsageError(msg)
        if like is None and target.max_shard_size is None:
            msg = (
                f"{path}: give the output a name ending in {_SAFETENSORS}, or in {', '.join(TORCH)} for a torch file. "
                f"A directory is written with {option('max_shard_size')}, or {option('like')} a checkpoint of Hugging "
                "Face's."
            )
            raise UsageError(msg)
        return
    if target.max_shard_size is not None:
        msg = (
            f"{path}: shards are written into a directory. Give {option('output')} the name of one, without "
            f"{path.suffix}."
        )
        raise UsageError(msg)
    if like is not None:
        _check_like(path, like)
        check_not_read(path, [like.checkpoint])


def check_not_read(output: Path, checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse an output that is one of the checkpoints it is made of, unless swa-cli wrote that one.

    Raises:
        OutputError: it is.
    """
    for checkpoint in checkpoints:
        is_ours = checkpoint.provenance is not None
        for path in (checkpoint.path, *checkpoint.files):
            if not is_ours and isinstance(path, Path) and output.is_file() and output.samefile(path):
                msg = f"cannot write {output}: it is one of the checkpoints that are read. Name another output."
                raise OutputError(msg)


def plan_layout(target: Target, contents: Contents) -> tuple[Provenance, Layout]:
    """The record of the output, that of a folder with the names of its files, and the files that it will consist of.

    Raises:
        UsageError, OutputError: as `check_target_form`; or a safetensors header would be too long.
        MismatchError, CheckpointError: as `swa_cli.outputs.template.layout_like`.
    """
    check_target_form(target)
    if not target.is_folder:
        contents = _of_files(contents, (), (ITSELF,))
        return contents.provenance, _layout(target, contents)
    names = _layout(target, contents).names
    contents = _of_files(contents, names, names)
    return contents.provenance, _layout(target, contents)


def _of_files(contents: Contents, files: Sequence[str], names: Sequence[str]) -> Contents:
    """With the names in the record, and room for a SHA-256 of each."""
    frames = {escape_surrogates(name): "0" * _LENGTH_OF_SHA256 for name in names}
    record = contents.provenance.model_copy(update={"files": tuple(map(escape_surrogates, files)), "frames": frames})
    return replace(contents, provenance=record)


def _layout(target: Target, contents: Contents) -> Layout:
    name = target.path.name
    if target.like:
        return layout_like(target.like, contents, folder=target.is_folder, name=name)
    if target.is_folder:
        return Layout(files=sharded_files(contents, target.max_shard_size or 0), is_folder=True)
    if name.endswith(SAFETENSORS):
        return Layout(files=(safetensors_file(contents, name=name),))
    return Layout(files=(torch_file(contents, name=name),))


def fits(target: Target) -> bool:
    """Whether the output can have the structure that it is to be like: one file of that container, or a folder."""
    if target.like is None:
        return True
    model = target.like.checkpoint
    if model.template is None or target.is_folder:
        return model.template is not None
    return not model.files and (model.template == "torch") != target.path.name.endswith(SAFETENSORS)


def _check_like(path: Path, like: Like) -> None:
    model = like.checkpoint
    if model.files:
        msg = (
            f"{option('like', model.path)} is a sharded checkpoint, and {path} one file. Give {option('output')} the "
            f"name of a directory, without {path.suffix}."
        )
        raise UsageError(msg)
    if not fits(Target(path=path, like=like)):
        kind, suffix = (
            ("torch", "".join(model.path.suffixes)) if model.template == "torch" else ("safetensors", _SAFETENSORS)
        )
        msg = (
            f"{option('like', model.path)} is a {kind} file, and {path} is not. Give the output a name ending in "
            f"{suffix}."
        )
        raise UsageError(msg)


def _our_files(folder: Path) -> tuple[str, ...] | None:
    """Names of the files that swa-cli wrote into a folder, if it did."""
    if not folder.is_dir():
        return None
    try:
        provenance = open_single(folder).provenance
    except SwaError:
        return None
    if provenance is None:
        return None
    return tuple(
        name
        for name in map(unescape_surrogates, provenance.files)
        if is_of_model(name) or name.endswith((*SAFETENSORS, *TORCH, INDEX_SUFFIX))
    )
