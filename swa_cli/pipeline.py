"""The three steps and their composition, from one configuration."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from swa_cli.averaging import AveragePlan, AverageResult, average, check_average_output, plan_average
from swa_cli.batchnorm import RecalibrationResult, bn_buffer_names, bn_layers, recalibrate
from swa_cli.checkpoints import (
    BnUpdate,
    Checkpoint,
    Provenance,
    Run,
    Source,
    find_checkpoints,
    open_checkpoint,
    read_provenance,
    replace_tensors,
    short_names,
)
from swa_cli.config import AverageConfig, Config, TargetConfig
from swa_cli.data import batches_of, build_data_module, choose_split, splitter_of
from swa_cli.devices import resolve_device
from swa_cli.errors import UsageError
from swa_cli.evaluation import EvaluationResult, Member, evaluate
from swa_cli.files import check_output
from swa_cli.models import build_model, load_checkpoint, state_dict_for
from swa_cli.progress import Track, silent
from swa_cli.tasks import make_splitter

Notify = Callable[[str], None]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BnUpdateResult:
    """Where the weights with the new statistics are; ``recalibration`` is None for a model without BatchNorm."""

    path: Path
    recalibration: RecalibrationResult | None


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """What the three steps gave."""

    average: AverageResult
    bn_update: BnUpdateResult
    evaluation: EvaluationResult


def plan_step(config: AverageConfig, *, notify: Notify) -> tuple[Run, AveragePlan]:
    """Find the checkpoints and decide what becomes of every tensor; nothing is written.

    Raises:
        SwaError: as `find_checkpoints` and `plan_average`, and for an output that could not be written.
    """
    resolve_device(config.device)
    if config.output or not config.dry_run:
        check_average_output(_output(config), overwrite=config.force)
    sources = _needed(config.sources, "checkpoints", "SOURCES", "average.sources")
    run = find_checkpoints(sources, key=config.key, last=config.last)
    plan = plan_average(run.checkpoints, dtype=getattr(torch, config.dtype) if config.dtype else None)
    for notice in (*run.notices, *plan.notices):
        notify(notice)
    return run, plan


def average_step(config: AverageConfig, *, notify: Notify, track: Track = silent) -> AverageResult:
    """``swa-average``."""
    _, plan = plan_step(config, notify=notify)
    return average(
        plan,
        _output(config),
        overwrite=config.force,
        allow_nonfinite=config.allow_nonfinite,
        device=resolve_device(config.device),
        track=track,
    )


def bn_update_step(config: Config, *, notify: Notify, track: Track = silent) -> BnUpdateResult:
    """``swa-bn-update``: the same file with the statistics of every BatchNorm layer recomputed."""
    options = config.bn_update
    source = _needed(options.input or config.average.output, "a file", "swa.safetensors", "bn_update.input")
    output = options.output or source
    checkpoint = open_checkpoint(source, key=options.key)
    check_average_output(output, overwrite=options.force or output == source)
    device = resolve_device(options.device)
    model, target = _model(config)
    load_checkpoint(model, checkpoint)
    layers = bn_layers(model)
    if not layers:
        notify(f"the model {target.class_path} has no BatchNorm statistics: nothing to do, {source} stays as it is.")
        return BnUpdateResult(path=source, recalibration=None)
    data, data_target = _data(config)
    result = recalibrate(
        model,
        batches_of(data, "train"),
        split=make_splitter(splitter_of(data)),
        num_batches=options.num_batches,
        device=device,
        track=track,
    )
    if result.unreached:
        notify(f"no batch reached these BatchNorm layers, which keep what they had: {', '.join(result.unreached)}.")
    reached = {layer.name: layers[layer.name] for layer in result.layers}
    state = model.state_dict()
    buffers = {name: state[name] for name in bn_buffer_names(model, reached)}
    update = BnUpdate(
        model=target.class_path,
        data=data_target.class_path,
        n_samples=result.n_samples,
        n_batches=result.n_batches,
    )
    replace_tensors(checkpoint, output, buffers, _updated(checkpoint, update))
    return BnUpdateResult(path=output, recalibration=result)


def eval_step(config: Config, *, notify: Notify, track: Track = silent) -> EvaluationResult:
    """``swa-eval``."""
    options = config.eval
    if options.json and str(options.json) != "-":
        check_output(options.json, overwrite=True)
    device = resolve_device(options.device)
    run = _members_of(config)
    for notice in run.notices:
        notify(notice)
    default = config.bn_update.output or config.bn_update.input or config.average.output
    swa_path = _needed(options.swa or default, "the average", "--swa swa.safetensors", "eval.swa")
    swa = open_checkpoint(swa_path)
    model, _ = _model(config)
    load_checkpoint(model, swa)
    names = short_names([checkpoint.path for checkpoint in run.checkpoints])
    members = [
        Member(name=name, kind="checkpoint", step=checkpoint.step, state_dict=state_dict_for(model, checkpoint))
        for name, checkpoint in zip(names, run.checkpoints, strict=True)
    ]
    data, _ = _data(config)
    split = options.split or choose_split(data)
    result = evaluate(
        model,
        members,
        Member(name=swa_path.name, kind="swa", state_dict=state_dict_for(model, swa)),
        batches_of(data, split),
        split=split,
        splitter=make_splitter(splitter_of(data)),
        compare_ensemble=options.compare_ensemble,
        device=device,
        track=track,
    )
    return replace(result, warnings=_warnings(swa, model))


def run_pipeline(config: Config, *, notify: Notify, track: Track = silent) -> PipelineResult:
    """``swa run``: the three steps, each on what the one before it gave."""
    for needed in ("model", "data"):
        _target(config, needed)  # before the averaging, not after it
    averaged = average_step(config.average, notify=notify, track=track)
    updated = bn_update_step(
        replace(config, bn_update=replace(config.bn_update, input=averaged.path)), notify=notify, track=track
    )
    paths = tuple(checkpoint.path for checkpoint in averaged.sources)
    options = replace(config.eval, checkpoints=paths, swa=updated.path, last=None, key=config.average.key)
    evaluated = eval_step(replace(config, eval=options), notify=notify, track=track)
    return PipelineResult(average=averaged, bn_update=updated, evaluation=evaluated)


def _output(config: AverageConfig) -> Path:
    return _needed(config.output, "an output", "-o swa.safetensors", "average.output")


def _members_of(config: Config) -> Run:
    options = config.eval
    if options.checkpoints:
        return find_checkpoints(options.checkpoints, key=options.key, last=options.last)
    sources = _needed(config.average.sources, "checkpoints", "CKPTS", "eval.checkpoints")
    return find_checkpoints(sources, key=options.key or config.average.key, last=options.last or config.average.last)


def _model(config: Config) -> tuple[nn.Module, TargetConfig]:
    target = _target(config, "model")
    return build_model(target.class_path, target.init_args), target


def _data(config: Config) -> tuple[object, TargetConfig]:
    target = _target(config, "data")
    return build_data_module(target.class_path, target.init_args), target


def _target(config: Config, section: str) -> TargetConfig:
    return _needed(getattr(config, section), f"a {section}", f"--{section} file.py:Name", f"{section}.class_path")


def _needed(value: T | None, what: str, flag: str, key: str) -> T:
    if not value:
        msg = f"{what} is needed: give {flag}, or {key} in the configuration."
        raise UsageError(msg)
    return value


def _updated(checkpoint: Checkpoint, update: BnUpdate) -> Provenance:
    known = read_provenance(checkpoint.metadata) or Provenance(
        n_averaged=1, sources=(Source(name=checkpoint.path.name, step=checkpoint.step),), bn_statistics="averaged"
    )
    return known.model_copy(update={"bn_statistics": "recomputed", "bn_update": update})


def _warnings(swa: Checkpoint, model: nn.Module) -> tuple[str, ...]:
    provenance = read_provenance(swa.metadata)
    if provenance is None or provenance.bn_statistics != "averaged" or not bn_layers(model):
        return ()
    warning = (
        f"{swa.path.name} has BatchNorm statistics that are averages of the checkpoints', not those of the averaged "
        "weights: its scores are not what they could be. Run swa-bn-update first."
    )
    return (warning,)
