"""The first step: checkpoints to one average."""

from pathlib import Path

from swa_cli.averaging import (
    AveragePlan,
    AverageResult,
    Engine,
    average,
    check_average_output,
    ema_weights,
    plan_average,
)
from swa_cli.checkpoints import Run, find_checkpoints
from swa_cli.config import AverageConfig
from swa_cli.errors import UsageError
from swa_cli.pipeline.common import Notify, needed
from swa_cli.progress import Track, silent


def plan_step(config: AverageConfig, *, notify: Notify) -> tuple[Run, AveragePlan]:
    """Find the checkpoints and decide what becomes of every tensor; nothing is written.

    Raises:
        SwaError: as `find_checkpoints` and `plan_average`, and for an output that could not be written.
    """
    _engine(config)
    _check_weights(config)
    if config.output or not config.dry_run:
        check_average_output(_output(config), overwrite=config.force or config.dry_run)
    sources = needed(config.sources, "checkpoints", flag="SOURCES", key="average.sources")
    run = find_checkpoints(sources, key=config.key, last=config.last)
    weights = config.weights if config.ema is None else ema_weights(len(run.checkpoints), config.ema)
    plan = plan_average(run.checkpoints, dtype=config.dtype, integers=config.integers, weights=weights)
    for notice in (*run.notices, *plan.notices):
        notify(notice)
    return run, plan


def average_step(config: AverageConfig, *, notify: Notify, track: Track = silent) -> AverageResult:
    """``swa-average``."""
    _, plan = plan_step(config, notify=notify)
    result = average(
        plan,
        _output(config),
        overwrite=config.force,
        allow_nonfinite=config.allow_nonfinite,
        checksum=config.checksum,
        engine=_engine(config),
        track=track,
    )
    for notice in result.notices:
        notify(notice)
    return result


def _check_weights(config: AverageConfig) -> None:
    if config.weights is not None and config.ema is not None:
        msg = "--weights and --ema (average.weights and average.ema) exclude each other. Give one of them."
        raise UsageError(msg)


def _engine(config: AverageConfig) -> Engine:
    device = config.device
    if device not in {"auto", "cpu"}:
        from swa_cli.devices import resolve_device  # noqa: PLC0415  # the CPU does without torch

        resolved = resolve_device(device)
        device = "cpu" if resolved.type == "cpu" else str(resolved)
    return Engine(device=device, threads=config.threads)


def _output(config: AverageConfig) -> Path:
    return needed(config.output, "output", flag="-o swa.safetensors", key="average.output")
