"""Plan to file."""

from dataclasses import dataclass
from pathlib import Path

import torch

from swa_cli.averaging.plan import AveragePlan
from swa_cli.averaging.stream import stream_average
from swa_cli.checkpoints import (
    BnStatistics,
    Checkpoint,
    Provenance,
    Source,
    short_names,
    to_metadata,
    write_safetensors,
)
from swa_cli.errors import UsageError
from swa_cli.files import check_output, check_space, publish
from swa_cli.progress import Track, silent

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class AverageResult:
    """What was written where, and from what."""

    path: Path
    sources: tuple[Checkpoint, ...]
    bn_statistics: BnStatistics

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
    device: torch.device = _CPU,
    track: Track = silent,
) -> AverageResult:
    """Carry out ``plan`` and publish the average as one safetensors file.

    The mean is that of Izmailov et al. 2018 (arXiv:1803.05407), equal weights, over every floating tensor,
    buffers included; BatchNorm statistics are therefore averages until they are recomputed, and the metadata
    says so.

    Args:
        overwrite: replace an existing ``output``.
        allow_nonfinite: average NaN and infinity like any number.

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
    with (
        track("averaging", total=plan.bytes_to_read, unit="bytes") as advance,
        publish(output, overwrite=overwrite) as stream,
    ):
        chunks = stream_average(plan, device=device, allow_nonfinite=allow_nonfinite, advance=advance)
        write_safetensors(stream, specs, chunks, to_metadata(provenance))
    return AverageResult(path=output, sources=plan.sources, bn_statistics=provenance.bn_statistics)


def _bn_statistics(plan: AveragePlan) -> BnStatistics:
    if not plan.has_bn_statistics:
        return "none"
    return "averaged" if len(plan.sources) > 1 else "as trained"
