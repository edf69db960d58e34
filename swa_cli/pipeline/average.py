"""The averaging step."""

from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class AverageInputs:
    """The checkpoints, the plan for their tensors, the output, and the engine."""

    run: CheckpointSeries
    plan: AveragePlan
    target: Target | None
    """The output; None for a dry run without one."""
    engine: Engine


def plan_step(config: AverageConfig, target: Target | None, group: ProcessGroup, *, notify: Notify) -> AverageInputs:
    """Find the checkpoints and plan the average of every tensor; nothing is written.

    Args:
        target: the output, which is checked before the checkpoints are opened.

    Raises:
        SwaError: as `find_checkpoints` and `plan_average`, or the output cannot be written.
    """
    engine = engine_of(config.device, config.threads)
    if target:
        check_shared(target, group)
        if group.size == 1:  # several decide on the size of shards first
            check_target(target, overwrite=config.force or config.dry_run)
    sources = require(config.sources, "checkpoints", key="average.sources")
    run = find_checkpoints(sources, key=config.key, selection=selection_of(config))
    plan = plan_average(
        run.checkpoints,
        steps=run.steps,
        dtype=config.dtype,
        integers=config.integers,
        combine=config.combine,
        weights=config.weights,
        ema=config.ema,
        allow_nonfinite=config.allow_nonfinite,
    )
    for notice in (*run.notices, *plan.notices):
        notify(notice)
    return AverageInputs(run=run, plan=plan, target=target, engine=engine)


def dry_run_step(config: AverageConfig, *, notify: Notify) -> tuple[CheckpointSeries, AveragePlan, Layout | None]:
    """Plan what ``swa-average`` would do, including the output's layout if one is named.

    Raises:
        SwaError: as `plan_step`, `frozen_bn` and `plan_output`.
    """
    job = plan_step(config, target_of(config) if config.output else None, ALONE, notify=notify)
    frozen = frozen_bn(job.plan)
    if frozen:
        notify(frozen_notice(frozen))
    if not job.target:
        return job.run, job.plan, None
    plan = match_template_ties(job.plan, job.target)
    hashed = plan.files if config.checksum else ()
    _, layout = plan_output(plan, job.target, key=config.key, hashed=hashed, frozen=frozen)
    return job.run, plan, layout


def average_step(config: AverageConfig, *, notify: Notify, track: Track = silent) -> AverageResult:
    """Run ``swa-average``; under torchrun the ranks share the work.

    Raises:
        SwaError: as `plan_step` and `average`.
    """
    with process_group() as group:
        target = group.own(lambda: target_of(config))
        job = group.own(lambda: plan_step(config, target, group, notify=notify))
        result = average(
            job.plan,
            target,
            key=config.key,
            overwrite=config.force,
            checksum=config.checksum,
            engine=job.engine,
            group=group,
            track=track,
        )
    for notice in result.notices:
        notify(notice)
    return result


def target_of(config: AverageConfig) -> Target:
    """Return the output and its form.

    Raises:
        UsageError: no output is named.
        SourceError, CheckpointError: the template cannot be opened.
    """
    output = require(config.output, "output", key="average.output", example="swa.safetensors")
    like = config.like and Like(checkpoint=open_single(config.like, key=config.key), key=config.key)
    return Target(path=output, like=like, max_shard_size=config.max_shard_size)


def engine_of(device: str, threads: int | None) -> Engine:
    """Return the engine for a device.

    Raises:
        DeviceError: the device does not exist.
    """
    if world_size() > 1:
        threads = threads or max(1, default_threads() // local_size())
        device = "cpu" if device == "auto" else device  # trials on several ranks would disturb each other
    if device not in {"auto", "cpu"}:
        device = own_device(device)
        from swa_cli.system.devices import resolve_device  # noqa: PLC0415  # the CPU does without torch

        resolved = resolve_device(device)
        device = "cpu" if resolved.type == "cpu" else str(resolved)
    return Engine(device=device, threads=threads)
