"""Plan to file."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swa_cli.averaging.outliers import outlier_notice
from swa_cli.averaging.plan import AveragePlan
from swa_cli.averaging.stream import Engine, stream_average
from swa_cli.checkpoints import (
    BnStatistics,
    Checkpoint,
    Provenance,
    Source,
    safetensors_header,
    short_names,
    to_metadata,
)
from swa_cli.collector import without_collections
from swa_cli.errors import UsageError
from swa_cli.files import check_output, check_space, publish, writer_at
from swa_cli.progress import Track, silent

_DEFAULT = Engine()


@dataclass(frozen=True, kw_only=True)
class AverageResult:
    """What was written where, from what, and at what cost."""

    path: Path
    sources: tuple[Checkpoint, ...]
    bn_statistics: BnStatistics
    bytes_read: int
    """Of tensors, from all sources."""
    seconds: float
    """From the first byte read until the file was on the disk under its name."""
    device: str
    """Which device did it, and why, if it was chosen by measurement."""
    fingerprints: Mapping[str, int]
    """Of every tensor, see `swa_cli.averaging.fingerprints`."""
    outliers: Mapping[Path, float]
    """Sources that lie apart from the others, see `swa_cli.averaging.outliers`."""
    sha256: Mapping[Path, str]
    """Of every file of the sources, shards one by one; empty unless it was asked for."""
    peak_memory: int | None
    """Most bytes that the process has had resident so far; None where Linux does not tell."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What there is to tell of the sources, although they were averaged."""
        return (outlier_notice(self.outliers),) if self.outliers else ()

    @property
    def n_averaged(self) -> int:
        """How many checkpoints went in."""
        return len(self.sources)


def check_average_output(output: Path, *, overwrite: bool) -> None:
    """Find out before the work starts whether the average can be written to ``output``.

    Raises:
        UsageError: ``output`` does not end in ``.safetensors``.
        OutputError: as `swa_cli.files.check_output`.
    """
    if output.suffix != ".safetensors":
        msg = f"{output}: the average is written as safetensors. Give the output a name ending in .safetensors."
        raise UsageError(msg)
    check_output(output, overwrite=overwrite)


def average(
    plan: AveragePlan,
    output: Path,
    *,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    checksum: bool = False,
    engine: Engine = _DEFAULT,
    track: Track = silent,
) -> AverageResult:
    """Carry out ``plan`` and publish the average as one safetensors file.

    The mean is that of Izmailov et al. 2018 (arXiv:1803.05407), with equal weights unless the plan has others, over
    every floating tensor, buffers included; BatchNorm statistics are therefore averages until they are recomputed,
    and the metadata says so. A tied tensor is written once; its other names are in the metadata, as
    ``safetensors.torch.load_model`` expects them.

    Args:
        overwrite: replace an existing ``output``.
        allow_nonfinite: average NaN and infinity like any number.
        checksum: hash every file of the sources meanwhile.

    Raises:
        OutputError: ``output`` exists, or cannot be written; nothing is left behind.
        NonFiniteError, MismatchError, CheckpointError: as `stream_average`; nothing is left behind.
    """
    check_average_output(output, overwrite=overwrite)
    names = short_names([source.path for source in plan.sources])
    provenance = Provenance(
        n_averaged=len(plan.sources),
        sources=tuple(Source(name=name, step=source.step) for name, source in zip(names, plan.sources, strict=True)),
        bn_statistics=_bn_statistics(plan),
    )
    specs = {tensor.name: tensor.spec for tensor in plan.tensors}
    check_space(output, plan.bytes_to_write)
    start = time.perf_counter()
    with (
        track("averaging", total=plan.bytes_to_read, unit="bytes") as advance,
        publish(output, overwrite=overwrite) as stream,
    ):
        with without_collections():
            head, offsets = safetensors_header(specs, to_metadata(provenance, tied=plan.tied, extra=plan.extra))
        stream.write(head)
        stream.flush()
        stream.truncate(len(head) + plan.bytes_to_write)
        streamed = stream_average(
            plan,
            offsets,
            writer_at(stream.fileno()),
            engine=engine,
            allow_nonfinite=allow_nonfinite,
            advance=advance,
            checksum=checksum,
        )
    return AverageResult(
        path=output,
        sources=plan.sources,
        bn_statistics=provenance.bn_statistics,
        bytes_read=plan.bytes_to_read,
        seconds=time.perf_counter() - start,
        device=streamed.device,
        fingerprints=streamed.fingerprints,
        outliers=streamed.outliers,
        sha256=streamed.sha256,
        peak_memory=_peak_memory(),
    )


def _bn_statistics(plan: AveragePlan) -> BnStatistics:
    if not plan.has_bn_statistics:
        return "none"
    return "averaged" if len(plan.sources) > 1 else "as trained"


def _peak_memory() -> int | None:
    # Not ru_maxrss, which a process inherits from the one that started it.
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
