"""One average by several ranks: each reads its share of every source and writes its own files."""

import hashlib
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from swa_cli.averaging.average import AverageResult, match_template_ties, plan_output, result_of
from swa_cli.averaging.frozen import frozen_bn
from swa_cli.averaging.plan import AveragePlan
from swa_cli.averaging.provenance import completed
from swa_cli.averaging.stream import Engine, Streamed, stream_average
from swa_cli.errors import MismatchError, UsageError
from swa_cli.formats import Provenance
from swa_cli.outputs import Layout, OutputFile, Target, Writer, check_target, fill_folder
from swa_cli.system import temporary_paths
from swa_cli.system.atomic_directory import publish_folder
from swa_cli.system.atomic_file import check_space, explained
from swa_cli.system.process_group import Ranks
from swa_cli.system.progress import Track, silent

_DEFAULT = Engine()


def average_together(
    plan: AveragePlan,
    target: Target,
    ranks: Ranks,
    *,
    key: str | None = None,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    checksum: bool = False,
    engine: Engine = _DEFAULT,
    track: Track = silent,
) -> AverageResult:
    """Carry out ``plan`` on all ranks and publish the average as a folder of shards, which every rank must see.

    The tensors are, bit for bit, those that `swa_cli.averaging.average` gives. Shards are made small enough for each
    rank to have its share, unless the target is like a checkpoint that has its own.

    Args:
        plan: the same on all ranks.

    Raises:
        UsageError: the target is a single file.
        RankError: a rank ended; nothing is left behind.
        SwaError: as `swa_cli.averaging.average`; the same on all ranks.
    """
    start = time.perf_counter()
    target = shared_out(target, plan, ranks.size)
    plan = match_template_ties(plan, target)
    check = partial(check_target, target, overwrite=overwrite)
    hashed = plan.files if checksum else ()
    prepared: list[tuple[Provenance, Layout]] = []

    def look() -> tuple[str, ...]:
        check()
        return () if ranks.rank else frozen_bn(plan)

    frozen = ranks.step(look)[0]

    def prepare() -> str:
        prepared.append(
            plan_output(plan, target, key=key, allow_nonfinite=allow_nonfinite, hashed=hashed, frozen=frozen)
        )
        return _digest(plan, prepared[0][1])

    if len(set(ranks.step(prepare))) > 1:
        msg = "the ranks do not see the same checkpoints. Start them where all see the same files under the same names."
        raise MismatchError(msg)
    record, layout = prepared[0]
    share = _share(layout, ranks)
    with ExitStack() as published, ExitStack() as files:
        writers: list[Writer] = []

        def make() -> Path | None:
            if ranks.rank:
                return None
            check_space(target.path, layout.size)
            return published.enter_context(publish_folder(target.path, check))

        folder = cast("Path", ranks.step(make)[0])
        published.push(partial(_remove_on_error, folder))  # whichever rank is left to do so

        names = {name for file in share.files for name in file.offsets}
        own = replace(plan, tensors=tuple(tensor for tensor in plan.tensors if tensor.name in names))

        def stream() -> Streamed:
            with explained(target.path):
                writers.append(files.enter_context(fill_folder(folder, share)))
                return stream_average(
                    own,
                    share.offsets,
                    writers[0].write,
                    engine=engine,
                    allow_nonfinite=allow_nonfinite,
                    advance=advance,
                    hashed=hashed[ranks.rank :: ranks.size],
                    exact=checksum,
                )

        with track("averaging", total=own.bytes_to_read, unit="bytes") as advance:
            parts = ranks.step(stream)
        streamed = replace(
            parts[0],
            fingerprints={name: one for part in parts for name, one in part.fingerprints.items()},
            sha256={path: digest for part in parts for path, digest in part.sha256.items()},
        )

        done = completed(record, plan, streamed)

        def frame() -> dict[str, str]:
            with explained(target.path):
                return writers[0].frame(done)

        digests = {name: digest for part in ranks.step(frame) for name, digest in part.items()}

        def finish() -> None:
            with explained(target.path):
                writers[0].seal(done, digests)
                files.close()

        ranks.step(finish)
        ranks.tell(published.close)  # rank 0 puts the folder in its place
    return result_of(plan, target, record, layout, streamed, seconds=time.perf_counter() - start)


def check_shared(target: Target) -> None:
    """Find out before the work starts whether several ranks can write the target.

    Raises:
        UsageError: it is a single file.
    """
    if not target.is_folder:
        msg = (
            f"{target.path}: several ranks write a directory of shards. Give -o the name of one, without "
            f"{target.path.suffix}; --max-shard-size is how large a shard may be."
        )
        raise UsageError(msg)


def shared_out(target: Target, plan: AveragePlan, size: int) -> Target:
    """The target with shards of which each rank can have its share.

    Raises:
        UsageError: it is a single file.
    """
    check_shared(target)
    if target.like:
        return target
    fair = max(1, -(-plan.bytes_to_write // size))
    return replace(target, max_shard_size=min(target.max_shard_size or fair, fair))


def _share(layout: Layout, ranks: Ranks) -> Layout:
    """The files that this rank writes: the largest first, each to the rank that has least so far."""
    files: list[list[OutputFile]] = [[] for _ in range(ranks.size)]
    for file in sorted(layout.files, key=lambda file: (-file.size, file.name)):
        min(files, key=lambda share: sum(other.size for other in share)).append(file)
    return replace(layout, files=tuple(files[ranks.rank]), copies=() if ranks.rank else layout.copies)


def _digest(plan: AveragePlan, layout: Layout) -> str:
    """What must be the same on all ranks: the sources, what becomes of them, and where it goes."""
    seen = [
        *((source.path.name, sorted(stamp[2:] for stamp in source.stamps.values())) for source in plan.sources),
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
