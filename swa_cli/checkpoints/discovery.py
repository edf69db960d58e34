"""From what the user typed to the checkpoints of a run, in the order of training."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from swa_cli.checkpoints.checkpoint import Checkpoint
from swa_cli.checkpoints.duplicates import without_copies
from swa_cli.checkpoints.opening import open_checkpoint
from swa_cli.checkpoints.provenance import read_provenance
from swa_cli.checkpoints.sharded import INDEX_SUFFIX, shards_of
from swa_cli.checkpoints.steps import in_order_of_steps, natural_key, step_in_name
from swa_cli.collector import without_collections
from swa_cli.errors import SourceError, shortened

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".pth.tar", ".bin")

# What the Hugging Face Trainer and accelerate leave beside a checkpoint; never a model.
_SIDE_FILES = (
    *("optimizer*.pt", "scheduler*.pt", "scaler.pt", "rng_state*.pth"),
    *("training_args.bin", "optimizer*.bin", "scheduler*.bin"),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The checkpoints of a run, oldest first, how they were ordered, and what the user should know."""

    checkpoints: tuple[Checkpoint, ...]
    ordered_by: str
    notices: tuple[str, ...]


def find_checkpoints(
    sources: Sequence[Path], *, key: str | None = None, last: int | None = None, apart_from: Path | None = None
) -> Run:
    """Open every checkpoint that ``sources`` name and sort them by step.

    Args:
        sources: files, directories (searched for `SUFFIXES`, and for the indices of sharded checkpoints; one level
            down if they hold none themselves) and glob patterns.
        key: dotted key of the state_dict in torch files.
        last: keep only the newest so many.
        apart_from: a file that is not meant, though it may lie among the others (the average to compare with).

    Raises:
        SourceError: a source that does not exist, a pattern that matches nothing, a directory without
            checkpoints, or fewer checkpoints than ``last``.
        CheckpointError: a file that cannot be read.
    """
    notices: list[str] = []
    paths = [path for path in _named_paths(sources, notices) if apart_from is None or not _same(path, apart_from)]
    with without_collections():
        checkpoints = _sharing_layouts(open_checkpoint(path, key=key) for path in _without_repeats(paths, notices))
    checkpoints = _without_own_outputs(checkpoints, sources, notices)
    checkpoints, copies = without_copies(checkpoints)
    notices += copies
    ordered, ordered_by = in_order_of_steps(checkpoints)
    if ordered_by == "name" and len(ordered) > 1:
        notices.append("no steps could be told apart, from the contents or the names: ordered by name.")
    if last is not None:
        if last > len(ordered):
            msg = f"--last {last}: there are only {len(ordered)} checkpoints in {_join(sources)}."
            raise SourceError(msg)
        ordered = ordered[-last:]
    if key is None:
        notices += _alternatives(ordered)
    return Run(checkpoints=ordered, ordered_by=ordered_by, notices=tuple(notices))


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names; where two files have the same, paths from the folder that holds all of them."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([path.absolute() for path in paths])
    return [os.path.relpath(path.absolute(), common) for path in paths]


def _named_paths(sources: Sequence[Path], notices: list[str]) -> list[Path]:
    paths: list[Path] = []
    for source in sources:
        if source.is_dir():
            paths += _in_directory(source, notices)
        elif source.is_file():
            paths.append(source)
        elif source.exists():
            msg = f"{source} is neither a file nor a directory. Name a checkpoint, a directory of them, or a pattern."
            raise SourceError(msg)
        elif glob.has_magic(str(source)):
            found = [Path(match) for match in glob.glob(str(source), recursive=True)]  # noqa: PTH207
            matches = [match for match in found if match.is_dir() or match.is_file()]
            if not matches:
                msg = f"no file matches {source}. Check the pattern, and that the shell left it as it is."
                raise SourceError(msg)
            for match in sorted(matches, key=natural_key):
                paths += _in_directory(match, notices) if match.is_dir() else [match]
        else:
            msg = f"no such file or directory: {source}. Name a checkpoint, a directory of them, or a pattern."
            raise SourceError(msg)
    return paths


def _in_directory(folder: Path, notices: list[str]) -> list[Path]:
    try:
        found = checkpoint_files(folder)
        below = sorted((path for path in folder.iterdir() if path.is_dir()), key=natural_key)
        if not found:
            found = [path for child in below for path in checkpoint_files(child)]
        else:
            trained = [child.name for child in below if fnmatch(child.name, "checkpoint-[0-9]*")]
            if trained:  # as the Hugging Face Trainer leaves them beside its final model
                notices.append(
                    f"{folder} holds checkpoints itself: those in its folders are left out ({shortened(trained)}). "
                    f"To take them: '{folder}/checkpoint-*'."
                )
    except OSError as error:
        msg = f"cannot read the directory {error.filename or folder}: {error.strerror or error}."
        raise SourceError(msg) from error
    if not found:
        msg = (
            f"no checkpoints in {folder}, nor one level below: looked for files ending in {', '.join(SUFFIXES)}. "
            "Name the directory that holds them, or the files."
        )
        raise SourceError(msg)
    return found


def checkpoint_files(folder: Path) -> list[Path]:
    """Files and indices in a folder that look like checkpoints, in natural order; no side files, no shards of an index.

    Raises:
        OSError: the folder cannot be read.
    """
    paths = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    indices = [path for path in paths if path.name.endswith(tuple(suffix + INDEX_SUFFIX for suffix in SUFFIXES))]
    shards = {name for index in indices for name in shards_of(index).values()}
    # Beside a file that holds everything, transformers too leaves the shards alone.
    indices = [index for index in indices if not index.with_name(index.name.removesuffix(INDEX_SUFFIX)).exists()]
    files = [
        path
        for path in paths
        if path.name.endswith(SUFFIXES)
        and path.name not in shards
        and not any(fnmatch(path.name, pattern) for pattern in _SIDE_FILES)
    ]
    return sorted(indices + files, key=natural_key)


def _sharing_layouts(opened: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The files of a run often have their tensors at the same places: one record of them for all."""
    checkpoints: list[Checkpoint] = []
    for checkpoint in opened:
        same = checkpoints and checkpoints[-1].tensors == checkpoint.tensors
        checkpoints.append(replace(checkpoint, tensors=checkpoints[-1].tensors) if same else checkpoint)
    return checkpoints


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _without_repeats(paths: Sequence[Path], notices: list[str]) -> list[Path]:
    """Each file once, however often it is named, linked or hard-linked (`last.ckpt`, `model_best.pth.tar`)."""
    kept: dict[tuple[int, int], Path] = {}
    # Of several names of one file, the one kept is a real file's, and tells a step.
    for path in sorted(set(paths), key=lambda path: (path.is_symlink(), step_in_name(path) is None, natural_key(path))):
        status = path.stat()
        first = kept.setdefault((status.st_dev, status.st_ino), path)
        if first is not path:
            notices.append(f"{path} is the same file as {first}: counted once.")
    return list(kept.values())


def _without_own_outputs(
    checkpoints: Sequence[Checkpoint], sources: Sequence[Path], notices: list[str]
) -> list[Checkpoint]:
    """Leave out averages that an earlier run wrote into the directory, unless they are named themselves."""
    kept: list[Checkpoint] = []
    for checkpoint in checkpoints:
        if read_provenance(checkpoint.metadata) is None or checkpoint.path in sources:
            kept.append(checkpoint)
        else:
            notices.append(f"{checkpoint.path} was written by swa-cli: left out, since it was not named itself.")
    if not kept:
        msg = f"no checkpoints in {_join(sources)} but averages that swa-cli wrote. Name them to average averages."
        raise SourceError(msg)
    return kept


def _alternatives(checkpoints: Sequence[Checkpoint]) -> list[str]:
    names = sorted({name for checkpoint in checkpoints for name in checkpoint.alternatives})
    if not names:
        return []
    return [f"the files hold other weights too, left out: {', '.join(names)}. To use those: --key {names[0]}."]


def _join(sources: Sequence[Path]) -> str:
    return ", ".join(str(source) for source in sources)
