"""The destination of an output, and the form that follows from its name."""

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
"""Placeholder for the name of a single-file output, so that its bytes do not depend on its name."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The destination and form of an average.

    The suffix of ``path`` decides: a safetensors file, a torch file, or else a directory in Hugging Face's form, which
    needs ``max_shard_size`` (bytes) or a template ``like``.
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
        """The directory of the output's files."""
        return self.path if self.is_folder else self.path.parent


def check_target(target: Target, *, overwrite: bool) -> None:
    """Check, before the work starts, that the output is consistent and can be written.

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
    """Check that the output's name, form and template go together.

    Raises:
        UsageError: they contradict each other.
        OutputError: the output would replace its template.
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
    """Check that the output is none of its sources, unless swa-cli wrote that one.

    Raises:
        OutputError: the output would replace a source.
    """
    for checkpoint in checkpoints:
        is_ours = checkpoint.provenance is not None
        for path in (checkpoint.path, *checkpoint.files):
            if not is_ours and isinstance(path, Path) and output.is_file() and output.samefile(path):
                msg = f"cannot write {output}: it is one of the checkpoints that are read. Name another output."
                raise OutputError(msg)


def plan_layout(target: Target, contents: Contents) -> tuple[Provenance, Layout]:
    """Return the provenance of the output (with file names, for a directory), and the layout of its files.

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
    """Add the file names to the provenance, with placeholders for their SHA-256."""
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
    """Return whether the output can have the structure of its template: one file of that container, or a directory."""
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
    """Return the names of the files that swa-cli wrote into a directory, or None."""
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
