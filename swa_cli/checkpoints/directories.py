"""Finding the checkpoints in a directory."""

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePath

from swa_cli.checkpoints.parts import without_parts
from swa_cli.errors import CheckpointError, SourceError, listed, option, shortened
from swa_cli.formats import (
    INDEX_SUFFIX,
    SUFFIXES,
    about_directories,
    checkpoints_among,
    natural_key,
    open_checkpoint,
    step_in_name,
)

_DEEPEST = 4  # lightning_logs/version_0/checkpoints/ is three levels down

# What the Hugging Face Trainer, accelerate, DeepSpeed and Megatron leave beside a checkpoint; never a model.
_SIDE_FILES = (
    *("optimizer*.pt", "scheduler*.pt", "scaler.pt", "rng_state*.pth"),
    *("training_args.bin", "optimizer*.bin", "scheduler*.bin"),
    *("*_optim_states.pt", "distrib_optim.pt"),
)


def checkpoints_in(folder: Path, notices: list[str], meant: Callable[[Path], bool] = lambda _: True) -> list[Path]:
    """The checkpoints that ``folder`` holds, or else those of the folders in it, the fewest levels down.

    A folder that holds none but averages that swa-cli wrote holds no checkpoints itself.
    Hidden files and folders are passed over: a run that was killed leaves temporary ones.

    Args:
        meant: whether a path is to be taken. Others are given too, but do not count as checkpoints that a folder
            holds, or as another run.

    Raises:
        SourceError: there are none, they are of several runs, or a directory cannot be read.
    """
    try:
        found = checkpoint_files(folder)
        if any(meant(path) and not _is_average(path) for path in found):
            _say_what_is_left(folder, notices)
            return found
        try:
            return [*found, *_further_down(folder, notices, meant)]
        except SourceError:
            if not found:
                raise
            return found
    except OSError as error:
        msg = f"cannot read the directory {error.filename or folder}: {error.strerror or error}."
        raise SourceError(msg) from error


def _is_average(path: Path) -> bool:
    """Return whether swa-cli wrote a file; one that cannot be read counts as foreign."""
    try:
        return open_checkpoint(path).provenance is not None
    except CheckpointError:
        return False


def _further_down(folder: Path, notices: list[str], meant: Callable[[Path], bool]) -> list[Path]:
    level = _folders_in(folder)
    looked_at = [folder]
    not_meant: list[Path] = []
    for depth in range(1, _DEEPEST + 1):
        files = {below: checkpoint_files(below) for below in level}
        found = {
            below: paths
            for below, paths in files.items()
            if any(meant(path) and not _is_average(path) for path in paths)
        }
        if found:
            _check_one_run(folder, {below: [path for path in paths if meant(path)] for below, paths in found.items()})
            if depth > 1:
                notices.append(f"{folder} holds no checkpoints itself: those in {_parent(found)} are taken.")
            return [path for paths in files.values() for path in paths]
        not_meant = not_meant or [path for paths in files.values() for path in paths if not meant(path)]
        looked_at += level
        level = [below for above in level if not above.is_symlink() for below in _folders_in(above)]
    if not_meant:
        return not_meant
    raise SourceError(_what_there_is(folder, looked_at))


def _what_there_is(folder: Path, looked_at: Sequence[Path]) -> str:
    """Return a message about a directory without checkpoints: foreign formats in it, or what was looked for."""
    endings = [suffix for suffix in SUFFIXES if not suffix.endswith(INDEX_SUFFIX)]
    return about_directories(looked_at) or (
        f"no checkpoints in {folder}, nor {_DEEPEST} levels below: looked for files ending in {', '.join(endings)}. "
        "Name the directory that holds them, or the files."
    )


def _check_one_run(folder: Path, found: dict[Path, list[Path]]) -> None:
    """Check that several directories are checkpoints of one run: side by side, and none with several steps inside.

    Files and directories of ranks (``step-5/mp_rank_00/``) count neither as steps nor as runs.
    """
    runs = {below for below, files in found.items() if len({_step_of(path) for path in files}) > 1}
    places = {below.parent if without_parts(below.name) == below.name else below.parent.parent for below in found}
    if len(found) == 1 or not (runs or len(places) > 1):
        return
    names = [os.path.relpath(below, folder) for below in found]
    raise SourceError(
        f"{folder} holds checkpoints of several runs:",
        *listed(names),
        f"Name the one that is meant, or its files with {option('include')}.",
    )


def _step_of(path: Path) -> int | None:
    return step_in_name(Path(without_parts(path.name)))


def _parent(found: dict[Path, list[Path]]) -> Path:
    return next(iter(found)) if len(found) == 1 else next(iter(found)).parent


def _say_what_is_left(folder: Path, notices: list[str]) -> None:
    trained = [child.name for child in _folders_in(folder) if fnmatch(child.name, "checkpoint-[0-9]*")]
    if trained:  # as the Hugging Face Trainer leaves them beside its final model
        notices.append(
            f"{folder} holds checkpoints itself: those in its folders are left out ({shortened(trained)}). "
            f"To take them: '{folder}/checkpoint-*'."
        )


def _folders_in(folder: Path) -> list[Path]:
    below = (path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    return sorted(below, key=natural_key)


def checkpoint_files(folder: Path) -> list[Path]:
    """What looks like a checkpoint in a folder, in natural order, without side files; or the folder, if it is one.

    Raises:
        OSError: the folder cannot be read.
    """
    named = folder if folder.name not in {"", ".."} else folder.resolve()  # the name of a checkpoint can hold its step
    paths = (Path(path) for path in checkpoints_among(named))
    return sorted(
        (path for path in paths if not any(fnmatch(path.name, side) for side in _SIDE_FILES)), key=natural_key
    )


def short_names(paths: Sequence[PurePath]) -> list[str]:
    """Return file names, or paths below the common directory if two files have the same name."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [Path(path).absolute() for path in paths]
    common = os.path.commonpath(whole)
    return [os.path.relpath(path, common) for path in whole]
