"""Carrying out a plan, from the sources to the published output."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from swa_cli.averaging.combiners import Combiner
from swa_cli.averaging.distributed import check_same, finish, merge_streamed, open_output, shared_out
from swa_cli.averaging.frozen import frozen_bn, frozen_notice
from swa_cli.averaging.outliers import outlier_notice
from swa_cli.averaging.plan import AveragePlan, split_tied
from swa_cli.averaging.provenance import completed, contents_of, provenance_of
from swa_cli.averaging.stream import Engine, Streamed, stream_average
from swa_cli.averaging.unrelated import unrelated_warning
from swa_cli.formats import BnStatistics, Checkpoint, Provenance
from swa_cli.outputs import Layout, Target, check_not_read, plan_layout, stored_apart
from swa_cli.system.atomic_file import explained
from swa_cli.system.gc_pause import gc_paused
from swa_cli.system.process_group import ALONE, ProcessGroup
from swa_cli.system.progress import Track, silent

_DEFAULT = Engine()


@dataclass(frozen=True, kw_only=True)
class AverageResult:
    """The output, its sources, and the cost of the average."""

    path: Path
    sources: tuple[Checkpoint, ...]
    combiner: Combiner
    """How the sources were combined."""
    bn_statistics: BnStatistics
    frozen_bn: tuple[str, ...]
    """BatchNorm layers with the same statistics in all sources, see `swa_cli.averaging.frozen`."""
    left_out: tuple[str, ...]
    """Entries of the template that are not in the output."""
    bytes_read: int
    """Bytes of tensors read, from all sources."""
    seconds: float
    """Seconds from the first byte read until the output was published."""
    device: str
    """The device, and why, if it was chosen by a trial."""
    fingerprints: Mapping[str, int]
    """Fingerprint of every tensor, see `swa_cli.averaging.fingerprints`."""
    outliers: Mapping[PurePath, float]
    """Sources that lie apart from the others, see `swa_cli.averaging.outliers`."""
    unrelated: bool
    """Whether no two sources resemble each other, see `swa_cli.averaging.unrelated`."""
    sha256: Mapping[PurePath, str]
    """SHA-256 of every file of the sources, each shard separately; empty unless it was asked for."""
    peak_memory: int | None
    """Peak resident memory of the process in bytes; None if /proc is not mounted."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Notes for the user."""
        frozen = (frozen_notice(self.frozen_bn),) if self.frozen_bn else ()
        far = (outlier_notice(self.outliers),) if self.outliers else ()
        left = (f"left out of {self.path}, as they belong to other weights: {', '.join(self.left_out)}.",)
        return (*frozen, *far, *(left if self.left_out else ()))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings that the average is most likely useless."""
        return (unrelated_warning(self.n_averaged, self.combiner.words),) if self.unrelated else ()

    @property
    def n_averaged(self) -> int:
        """Number of checkpoints that were averaged."""
        return len(self.sources)


def average(
    plan: AveragePlan,
    output: Path | Target,
    *,
    key: str | None = None,
    overwrite: bool = False,
    checksum: bool = False,
    engine: Engine = _DEFAULT,
    group: ProcessGroup = ALONE,
    track: Track = silent,
) -> AverageResult:
    """Carry out ``plan`` and publish the average.

    The plan's combiner is applied to every floating tensor, buffers included; BatchNorm statistics are therefore
    averages until they are recomputed, and the metadata says so. A tied tensor is written once. Its other names are in
    the metadata of a safetensors file, as ``safetensors.torch.load_model`` expects them, and share its storage in a
    torch file.

    Args:
        output: a file such as ``swa.safetensors`` or ``swa.pt``, or a `Target`.
        key: the key with which the sources were opened, for the provenance.
        overwrite: replace an existing ``output``.
        checksum: compute the SHA-256 of every source file in the same pass, and record it.
        group: the ranks that share the work, each with the same plan; several write a folder of shards, which every
            rank must see. The tensors are, bit for bit, those that one process writes.

    Raises:
        UsageError: the name of the output does not go with its form, or several ranks would write a single file.
        OutputError: ``output`` exists, or cannot be written; nothing is left behind.
        RankError: a rank ended; nothing is left behind.
        NonFiniteError, MismatchError, CheckpointError: as `stream_average`, and as `swa_cli.outputs.plan_layout`;
            nothing is left behind.
    """
    target = output if isinstance(output, Target) else Target(path=output)
    target = shared_out(target, plan.bytes_to_write, group)
    check_not_read(target.path, plan.sources)
    plan = match_template_ties(plan, target)
    hashed = plan.files if checksum else ()
    frozen = group.first(lambda: frozen_bn(plan))
    record, layout = group.own(lambda: plan_output(plan, target, key=key, hashed=hashed, frozen=frozen))
    check_same(plan, layout, group)
    start = time.perf_counter()
    with open_output(target, layout, group, overwrite=overwrite) as writer:
        offsets = writer.offsets
        own = replace(plan, tensors=tuple(tensor for tensor in plan.tensors if tensor.name in offsets))

        def stream() -> Streamed:
            with explained(target.path):
                return stream_average(
                    own,
                    offsets,
                    writer.write,
                    engine=engine,
                    advance=advance,
                    hashed=hashed[group.rank :: group.size],
                    exact=checksum,
                )

        with track("averaging", total=own.bytes_to_read, unit="bytes") as advance:
            streamed = merge_streamed(group.gather(stream))
        finish(writer, completed(record, plan, streamed), target, group)
    return result_of(plan, target, record, layout, streamed, seconds=time.perf_counter() - start)


def match_template_ties(plan: AveragePlan, target: Target) -> AveragePlan:
    """Return the plan with as many separate tensors as the target's template has for its tied weights."""
    return split_tied(plan, stored_apart(target.like, plan.tied)) if target.like else plan


def plan_output(
    plan: AveragePlan,
    target: Target,
    *,
    key: str | None,
    hashed: Sequence[PurePath],
    frozen: Sequence[str],
) -> tuple[Provenance, Layout]:
    """Return the output's provenance, with placeholders, and the layout of its bytes.

    Args:
        hashed: source files whose SHA-256 will be recorded.
        frozen: the result of `frozen_bn`, which is part of the provenance.

    Raises:
        MismatchError, CheckpointError, OutputError: as `swa_cli.outputs.plan_layout`.
    """
    with gc_paused():
        record = provenance_of(plan, target, key=key, hashed=hashed, frozen=frozen)
        return plan_layout(target, contents_of(plan, record))


def result_of(
    plan: AveragePlan, target: Target, record: Provenance, layout: Layout, streamed: Streamed, *, seconds: float
) -> AverageResult:
    """Return the result, after the output was published."""
    return AverageResult(
        path=target.path,
        sources=plan.sources,
        combiner=plan.combiner,
        bn_statistics=record.bn_statistics,
        frozen_bn=record.frozen_bn,
        left_out=layout.left_out,
        bytes_read=plan.bytes_to_read,
        seconds=seconds,
        device=streamed.device,
        fingerprints=streamed.fingerprints,
        outliers=streamed.outliers,
        unrelated=streamed.unrelated,
        sha256=streamed.sha256,
        peak_memory=_peak_memory(),
    )


def _peak_memory() -> int | None:
    # Not ru_maxrss, which a process inherits from the one that started it.
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
