"""Scanning the sources: checkpoints in order, duplicates, our own averages, unreadable files."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from swa_cli.checkpoints.duplicates import without_copies
from swa_cli.checkpoints.ema_copies import about_ema
from swa_cli.checkpoints.ordering import IN_THE_NAME, Order, in_order_of_steps
from swa_cli.checkpoints.parts import about_parts, without_parts
from swa_cli.checkpoints.selection import Selection
from swa_cli.checkpoints.series import SeriesMember
from swa_cli.checkpoints.sources import named_paths
from swa_cli.errors import CheckpointError
from swa_cli.formats import Checkpoint, forget_latest, metrics_in_name, natural_key, open_checkpoint, step_in_name
from swa_cli.system.gc_pause import gc_paused


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The result of scanning the sources."""

    order: Order
    copies: tuple[tuple[SeriesMember, PurePath], ...] = ()
    """Duplicates, links included, each with the path of the file that is kept."""
    own: tuple[SeriesMember, ...] = ()
    """Averages that swa-cli wrote and that the user did not name."""
    unreadable: tuple[tuple[Path, CheckpointError], ...] = ()
    notices: tuple[str, ...] = ()
    parts: str | None = None
    """Why the files are parts of one checkpoint and not checkpoints of a run, and what to do; None if they are not."""


@gc_paused()
def survey_checkpoints(
    sources: Sequence[Path],
    *,
    key: str | None = None,
    selection: Selection,
    apart_from: Path | None = None,
    keep_going: bool = False,
) -> Survey:
    """Open the checkpoints that ``sources`` name and that ``include`` and ``exclude`` of ``selection`` select.

    Args:
        keep_going: note files that cannot be read, and continue.

    Raises:
        SourceError: a source does not exist, or has no checkpoints.
        CheckpointError: a file cannot be read, unless ``keep_going``.
    """
    notices: list[str] = []
    paths = [path for path in named_paths(sources, selection, notices) if not _same(path, apart_from)]
    paths, links = _without_links(paths)
    notices += [f"{path} is the same file as {first}: counted once." for path, first in links]
    opened, unreadable = _open(paths, key, sources, keep_going=keep_going)
    forget_latest()
    kept, own = _apart_from_own(opened, sources)
    notices += [f"{file.path} was written by swa-cli: left out, since it was not named itself." for file in own]
    kept, copies = without_copies(kept)
    notices += [f"{copy.path} holds the same weights as {other.path}: counted once." for copy, other in copies]
    by_path = {checkpoint.path: checkpoint for checkpoint in opened}
    linked = [
        (SeriesMember(checkpoint=file, link=path, metrics={**metrics_in_name(path), **_metrics_of(file)}), first)
        for path, first in links
        if (file := by_path.get(first))
    ]
    again = [*((_member(copy), other.path) for copy, other in copies), *linked]
    order = in_order_of_steps(_with_metrics_of(again, kept))
    files = [member.checkpoint for member in order.members]
    parts = about_parts(files)
    return Survey(
        order=_with_steps_of_parts(order) if parts.refusal else order,
        copies=tuple(again),
        own=tuple(_member(file) for file in own),
        unreadable=tuple(unreadable),
        notices=(*notices, *order.notices, *([parts.notice] if parts.notice else [])),
        parts=parts.refusal or about_ema(files),
    )


def _with_steps_of_parts(order: Order) -> Order:
    """Replace the steps by those in the names without the numbers of the parts."""
    files = [
        file
        if file.checkpoint.counters
        else replace(file, step=step_in_name(file.path.parent / (without_parts(file.path.name) or "x")))
        for file in order.members
    ]
    if order.by in {IN_THE_NAME, "name"}:
        order = replace(order, by=IN_THE_NAME if any(file.step is not None for file in files) else "name")
    return replace(order, members=tuple(files))


def _open(
    paths: Sequence[Path], key: str | None, sources: Sequence[Path], *, keep_going: bool
) -> tuple[list[Checkpoint], list[tuple[Path, CheckpointError]]]:
    unreadable: list[tuple[Path, CheckpointError]] = []

    def opened() -> Iterable[Checkpoint]:
        for path in paths:
            try:
                yield open_checkpoint(path, key=key)
            except CheckpointError as error:
                own = None if key is None else _own_without_key(path, sources)
                if own:
                    yield own
                elif keep_going:
                    unreadable.append((path, error))
                else:
                    raise

    return _sharing_layouts(opened()), unreadable


def _own_without_key(path: Path, sources: Sequence[Path]) -> Checkpoint | None:
    """Return an average of swa-cli that the user did not name, opened without a key; None for any other file."""
    try:
        found = open_checkpoint(path)
    except CheckpointError:
        return None
    record = found.provenance
    return found if record and not _is_named(found, sources, is_folder=bool(record.files)) else None


def _sharing_layouts(opened: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Let consecutive checkpoints with equal tensor layouts share one mapping, as the files of a run often can."""
    checkpoints: list[Checkpoint] = []
    for checkpoint in opened:
        before = checkpoints[-1].tensors if checkpoints else None
        same = before is checkpoint.tensors or before == checkpoint.tensors
        checkpoints.append(replace(checkpoint, tensors=checkpoints[-1].tensors) if same else checkpoint)
    return checkpoints


def _member(checkpoint: Checkpoint) -> SeriesMember:
    return SeriesMember(checkpoint=checkpoint, metrics=_metrics_of(checkpoint))


def _metrics_of(checkpoint: Checkpoint) -> Mapping[str, float]:
    """Return the metrics that a file gives; those in an average of ours are of the checkpoint that it is like."""
    return {} if checkpoint.provenance else checkpoint.metrics


def _with_metrics_of(copies: Sequence[tuple[SeriesMember, PurePath]], kept: Sequence[Checkpoint]) -> list[SeriesMember]:
    """Add the metrics of duplicates to the files that are kept (fairseq's ``checkpoint.best_loss_3.21``)."""
    more: defaultdict[PurePath, dict[str, float]] = defaultdict(dict)
    for copy, other in sorted(copies, key=lambda pair: natural_key(pair[0].path)):
        more[other] = {**copy.metrics, **more[other]}
    return [
        SeriesMember(checkpoint=checkpoint, metrics={**more[checkpoint.path], **_metrics_of(checkpoint)})
        for checkpoint in kept
    ]


def _same(path: Path, other: Path | None) -> bool:
    return other is not None and other.exists() and path.samefile(other)


def _without_links(paths: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Each file once, however often it is named, linked or hard-linked (`last.ckpt`, `model_best.pth.tar`).

    The other names of files are given too, each beside the one that is kept.
    """
    kept: dict[tuple[int, int], Path] = {}
    links: list[tuple[Path, Path]] = []
    # Of several names of one file, the one kept is a real file's, and holds a step.
    for path in sorted(set(paths), key=lambda path: (path.is_symlink(), step_in_name(path) is None, natural_key(path))):
        status = path.stat()
        first = kept.setdefault((status.st_dev, status.st_ino), path)
        if first is not path:
            links.append((path, first))
    return list(kept.values()), links


def _apart_from_own(
    checkpoints: Sequence[Checkpoint], sources: Sequence[Path]
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Split checkpoints into sources and averages of swa-cli that the user did not name."""
    kept: list[Checkpoint] = []
    own: list[Checkpoint] = []
    for checkpoint in checkpoints:
        record = checkpoint.provenance
        if record is None:
            kept.append(checkpoint)
            continue
        (kept if _is_named(checkpoint, sources, is_folder=bool(record.files)) else own).append(checkpoint)
    return kept, own


def _is_named(checkpoint: Checkpoint, sources: Sequence[Path], *, is_folder: bool) -> bool:
    """Return whether the user named this file, or the directory that was written with it."""
    places = (checkpoint.path, checkpoint.path.parent) if is_folder else (checkpoint.path,)
    return any(source.exists() and source.samefile(place) for source in sources for place in places)
