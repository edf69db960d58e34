"""One output by several ranks: each writes its own files into a directory that rank 0 publishes."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from swa_cli.averaging.plan import AveragePlan
from swa_cli.averaging.stream import Streamed
from swa_cli.errors import MismatchError, UsageError, option
from swa_cli.formats import Provenance
from swa_cli.outputs import Layout, OutputFile, Target, Writer, check_target, fill_folder, write_output
from swa_cli.system import temporary_paths
from swa_cli.system.atomic_directory import publish_folder
from swa_cli.system.atomic_file import explained
from swa_cli.system.process_group import ProcessGroup


def check_shared(target: Target, group: ProcessGroup) -> None:
    """Check, before the work starts, that all ranks can write the target.

    Raises:
        UsageError: there are several ranks, and the target is a single file.
    """
    if group.size > 1 and not target.is_folder:
        msg = (
            f"{target.path}: several ranks write a directory of shards. Give {option('output')} the name of one, "
            f"without {target.path.suffix}; {option('max_shard_size')} is how large a shard may be."
        )
        raise UsageError(msg)


def shared_out(target: Target, size: int, group: ProcessGroup) -> Target:
    """Return the target with shards small enough for each rank to have some, unless it is like another checkpoint.

    Args:
        size: bytes of all tensors.

    Raises:
        UsageError: as `check_shared`.
    """
    check_shared(target, group)
    if target.like or group.size == 1:
        return target
    fair = max(1, -(-size // group.size))
    return replace(target, max_shard_size=min(target.max_shard_size or fair, fair))


def check_same(plan: AveragePlan, layout: Layout, group: ProcessGroup) -> None:
    """Check that all ranks carry out the same plan.

    Raises:
        MismatchError: the sources, the plan or the output files differ between ranks.
    """
    if not group.same(lambda: _digest(plan, layout)):
        msg = "the ranks do not see the same checkpoints. Start them where all see the same files under the same names."
        raise MismatchError(msg)


@contextmanager
def open_output(target: Target, layout: Layout, group: ProcessGroup, *, overwrite: bool) -> Generator[Writer]:
    """Open this rank's files of an output; it appears when the body ends, whole, and not at all if a rank fails.

    Raises:
        OutputError: as `swa_cli.outputs.write_output`; the same on all ranks.
        RankError: a rank ended.
    """
    if group.size == 1:
        with write_output(target, layout, overwrite=overwrite) as writer:
            yield writer
        return
    with ExitStack() as published, ExitStack() as files:

        def make() -> Path:
            check = partial(check_target, target, overwrite=overwrite)
            return published.enter_context(publish_folder(target.path, check, size=layout.size))

        def fill() -> Writer:
            with explained(target.path):
                return files.enter_context(fill_folder(folder, _share(layout, group)))

        def close() -> None:
            with explained(target.path):
                files.close()

        folder = group.first(make)
        published.push(partial(_remove_on_error, folder))  # whichever rank is left to do so
        yield group.own(fill)
        group.own(close)
        group.finish(published.close)  # rank 0 puts the folder in its place


def finish(writer: Writer, record: Provenance, target: Target, group: ProcessGroup) -> None:
    """Write everything around the tensors, after every rank has written its own.

    Raises:
        OutputError: the system refuses.
    """

    def frame() -> dict[str, str]:
        with explained(target.path):
            return writer.frame(record)

    def seal() -> None:
        with explained(target.path):
            writer.seal(record, digests)

    digests = {name: digest for part in group.gather(frame) for name, digest in part.items()}
    group.own(seal)


def merge_streamed(parts: Sequence[Streamed]) -> Streamed:
    """Merge the findings of all ranks."""
    return replace(
        parts[0],
        fingerprints={name: one for part in parts for name, one in part.fingerprints.items()},
        sha256={path: digest for part in parts for path, digest in part.sha256.items()},
    )


def _share(layout: Layout, group: ProcessGroup) -> Layout:
    """Return the files that this rank writes: largest first, each to the rank with the least so far."""
    files: list[list[OutputFile]] = [[] for _ in range(group.size)]
    for file in sorted(layout.files, key=lambda file: (-file.size, file.name)):
        min(files, key=lambda share: sum(other.size for other in share)).append(file)
    return replace(layout, files=tuple(files[group.rank]), copies=layout.copies if group.is_first else ())


def _digest(plan: AveragePlan, layout: Layout) -> str:
    """Return what must be equal on all ranks: the sources, the plan and the output."""
    seen = [
        *((source.path.name, sorted(stamp[:2] for stamp in source.stamps.values())) for source in plan.sources),
        plan.combiner.name,
        *plan.combiner.weights,
        *plan.tensors,
        *((file.name, file.size) for file in layout.files),
    ]
    return hashlib.sha256(repr(seen).encode(errors="backslashreplace")).hexdigest()


def _remove_on_error(
    folder: Path, kind: type[BaseException] | None, error: BaseException | None, _trace: object
) -> None:
    if error is not None and kind is not None:
        temporary_paths.remove(folder)
