"""The first step: checkpoints to one average."""

from typing import TypedDict

from swa_cli.averaging import (
    AveragePlan,
    AverageResult,
    Engine,
    average,
    check_shared,
    default_threads,
    frozen_bn,
    frozen_notice,
    match_template_ties,
    plan_average,
    plan_output,
)
from swa_cli.checkpoints import CheckpointSeries, find_checkpoints, open_single
from swa_cli.config.schema import AverageConfig
from swa_cli.outputs import Layout, Like, Target, check_target
from swa_cli.pipeline.common import Notify, require, selection_of
from swa_cli.system.process_group import ALONE, ProcessGroup, local_size, own_device, world_size
from swa_cli.system.progress import Track, silent
from swa_cli.system.torchrun import process_group


def plan_step(
    config: AverageConfig, target: Target | None, group: ProcessGroup = ALONE, *, notify: Notify
) -> tuple[CheckpointSeries, AveragePlan]:
    """Find the checkpoints and decide what becomes of every tensor; nothing is written.

    Args:
        target: is found writable first; None where no output is meant.

    Raises:
        SwaError: as `find_checkpoints` and `plan_average`, and for an output that could not be written.
    """
    engine_of(config.device, config.threads)
    if target and group.size == 1:
        check_target(target, overwrite=config.force or config.dry_run)
    sources = require(config.sources, "checkpoints", flag="SOURCES", key="average.sources")
    run = find_checkpoints(sources, key=config.key, selection=selection_of(config))
    plan = plan_average(
        run.checkpoints,
        steps=run.steps,
        dtype=config.dtype,
        integers=config.integers,
        combine=config.combine,
        weights=config.weights,
        ema=config.ema,
    )
    for notice in (*run.notices, *plan.notices):
        notify(notice)
    return run, plan


def dry_run_step(config: AverageConfig, *, notify: Notify) -> tuple[CheckpointSeries, AveragePlan, Layout | None]:
    """What ``swa-average`` would do; of the output only if one is named.

    Raises:
        SwaError: as `plan_step`, `frozen_bn` and `plan_output`.
    """
    target = target_of(config) if config.output else None
    run, plan = plan_step(config, target, notify=notify)
    frozen = frozen_bn(plan)
    if frozen:
        notify(frozen_notice(frozen))
    if not target:
        return run, plan, None
    plan = match_template_ties(plan, target)
    hashed = plan.files if config.checksum else ()
    allow = config.allow_nonfinite
    _, layout = plan_output(plan, target, key=config.key, allow_nonfinite=allow, hashed=hashed, frozen=frozen)
    return run, plan, layout


def average_step(config: AverageConfig, *, notify: Notify, track: Track = silent) -> AverageResult:
    """``swa-average``; under torchrun each rank does its share.

    Raises:
        SwaError: as `plan_step` and `average`.
    """
    with process_group() as group:
        plan, target = group.own(lambda: _planned(config, group, notify))
        result = average(plan, target, **_options(config), group=group, track=track)
    for notice in result.notices:
        notify(notice)
    return result


def _planned(config: AverageConfig, group: ProcessGroup, notify: Notify) -> tuple[AveragePlan, Target]:
    target = target_of(config)
    check_shared(target, group)
    return plan_step(config, target, group, notify=notify)[1], target


class _Options(TypedDict):
    key: str | None
    overwrite: bool
    allow_nonfinite: bool
    checksum: bool
    engine: Engine


def _options(config: AverageConfig) -> _Options:
    return {
        "key": config.key,
        "overwrite": config.force,
        "allow_nonfinite": config.allow_nonfinite,
        "checksum": config.checksum,
        "engine": engine_of(config.device, config.threads),
    }


def target_of(config: AverageConfig) -> Target:
    """Where the average goes, and in what form.

    Raises:
        UsageError: no output is named.
        SourceError, CheckpointError: there is nothing to be like.
    """
    output = require(config.output, "output", flag="-o swa.safetensors", key="average.output")
    like = config.like and Like(checkpoint=open_single(config.like, key=config.key), key=config.key)
    return Target(path=output, like=like, max_shard_size=config.max_shard_size)


def engine_of(device: str, threads: int | None) -> Engine:
    """The engine for a device.

    Raises:
        DeviceError: it is not there.
    """
    if world_size() > 1:
        threads = threads or max(1, default_threads() // local_size())
        device = "cpu" if device == "auto" else device  # a trial on each rank would tell of the others' too
    if device not in {"auto", "cpu"}:
        device = own_device(device)
        from swa_cli.system.devices import resolve_device  # noqa: PLC0415  # the CPU does without torch

        resolved = resolve_device(device)
        device = "cpu" if resolved.type == "cpu" else str(resolved)
    return Engine(device=device, threads=threads)
