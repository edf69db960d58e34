"""From the output that the user named to the form it takes."""

from dataclasses import dataclass
from pathlib import Path

from swa_cli.checkpoints import find_checkpoints, open_checkpoint, read_provenance
from swa_cli.checkpoints.sharded import INDEX_SUFFIX
from swa_cli.errors import CheckpointError, SourceError, SwaError, UsageError, shortened
from swa_cli.files import check_output
from swa_cli.folders import check_folder
from swa_cli.outputs.layout import Contents, Layout
from swa_cli.outputs.like import Like, is_torch, layout_like
from swa_cli.outputs.safetensors_output import safetensors_file, sharded_files
from swa_cli.outputs.torch_output import torch_file

SAFETENSORS = ".safetensors"
TORCH = (".pt", ".pth", ".ckpt", ".pth.tar", ".bin")


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
        return not self.path.name.endswith((SAFETENSORS, *TORCH))


def find_like(path: Path, *, key: str | None) -> Like:
    """The checkpoint at ``path``, a file, an index, or the folder that holds it.

    Raises:
        SourceError: there is none, or there are several in the folder.
        CheckpointError: it cannot be read.
    """
    if not path.is_dir():
        return Like(checkpoint=open_checkpoint(path, key=key), key=key)
    found = find_checkpoints([path], key=key).checkpoints
    if len(found) > 1:
        names = shortened([checkpoint.path.name for checkpoint in found])
        msg = f"--like {path}: the directory holds several checkpoints ({names}). Name one of them."
        raise SourceError(msg)
    return Like(checkpoint=found[0], key=key)


def check_target(target: Target, *, overwrite: bool) -> None:
    """Find out before the work starts whether the output makes sense and can be written.

    Raises:
        UsageError: its name and the form that was asked for contradict each other.
        OutputError: as `swa_cli.files.check_output` and `swa_cli.folders.check_folder`.
    """
    path, like = target.path, target.like
    if target.is_folder:
        if like is None and target.max_shard_size is None:
            msg = (
                f"{path}: give the output a name ending in {SAFETENSORS}, or in {', '.join(TORCH)} for a torch file. "
                "A directory is written with --max-shard-size, or --like a checkpoint of Hugging Face's."
            )
            raise UsageError(msg)
        check_folder(path, overwrite=overwrite, ours=_our_files(path))
        return
    if target.max_shard_size is not None:
        msg = f"{path}: shards are written into a directory. Give -o the name of one, without {path.suffix}."
        raise UsageError(msg)
    if like is not None:
        _check_like(path, like)
    check_output(path, overwrite=overwrite)


def plan_layout(target: Target, contents: Contents) -> Layout:
    """The files that the output will consist of.

    Raises:
        MismatchError, CheckpointError: as `swa_cli.outputs.like.layout_like`.
        OutputError: a safetensors header would be too long.
    """
    name = target.path.name
    if target.like:
        return layout_like(target.like, contents, folder=target.is_folder, name=name)
    if target.is_folder:
        return Layout(files=sharded_files(contents, target.max_shard_size or 0), is_folder=True)
    if name.endswith(SAFETENSORS):
        return Layout(files=(safetensors_file(contents, name=name),))
    return Layout(files=(torch_file(contents, name=name),))


def _check_like(path: Path, like: Like) -> None:
    model = like.checkpoint.path
    if like.checkpoint.files:
        msg = (
            f"--like {model} is a sharded checkpoint, and {path} one file. Give -o the name of a directory, without "
            f"{path.suffix}."
        )
        raise UsageError(msg)
    if is_torch(model) == path.name.endswith(SAFETENSORS):
        kind, suffix = ("a torch", model.suffix) if is_torch(model) else ("a safetensors", SAFETENSORS)
        msg = f"--like {model} is {kind} file, and {path} is not. Give the output a name ending in {suffix}."
        raise UsageError(msg)


def _our_files(folder: Path) -> tuple[str, ...] | None:
    """Names of the files that swa-cli wrote into a folder, if it did."""
    if not folder.is_dir():
        return None
    weights = sorted(path for path in folder.iterdir() if path.name.endswith((SAFETENSORS, *TORCH, INDEX_SUFFIX)))
    for path in weights:
        try:
            provenance = read_provenance(open_checkpoint(path).metadata)
        except (SwaError, OSError):
            continue
        if provenance and provenance.files:
            return provenance.files
    return None
