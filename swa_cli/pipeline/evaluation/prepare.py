"""What an evaluation works on: the average, the checkpoints, the user's model, data module and task."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swa_cli.checkpoints import CheckpointSeries, Selection, find_checkpoints
from swa_cli.config.schema import BnUpdateConfig, Config, TargetConfig
from swa_cli.errors import CheckpointError, option
from swa_cli.formats import Checkpoint
from swa_cli.pipeline.build_user_objects import data_module_of, model_of, task_of
from swa_cli.pipeline.common import Notify, open_average, require, selection_of
from swa_cli.system.devices import resolve_device
from swa_cli.system.process_group import own_device
from swa_cli.tasks import Task
from swa_cli.user.batch import Splitter, make_splitter
from swa_cli.user.datamodule import Split, choose_split, splitter_of
from swa_cli.user.forward import Forward
from swa_cli.user.model import materialise, prefix_note


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """What is chosen on validation data: the best checkpoint, a number of newest ones, or the greedy soup."""

    best_by_val: bool
    curve: Sequence[int] | str | None
    greedy: bool

    @property
    def tries_averages(self) -> bool:
        """Whether averages are made to choose from."""
        return self.curve is not None or self.greedy

    @property
    def asked(self) -> tuple[str, ...]:
        """The options that ask for averages to choose from, as messages name them."""
        asked = {option("curve"): self.curve is not None, option("greedy", True): self.greedy}
        return tuple(name for name, is_set in asked.items() if is_set)


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Which rows and scores the report has beside the average and the checkpoints."""

    ensemble: bool
    control: bool
    metrics: Mapping[str, TargetConfig]
    """torchmetrics objects, by the names of their scores."""
    margin: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class EvalInputs:
    """What an evaluation works on, opened and built, and what it is to do; ``task`` None: the first batch decides."""

    choosing: Choosing
    reporting: Reporting
    recalibration: BnUpdateConfig
    """How statistics are recomputed where the average's file does not say it."""
    max_resident_models: int | None
    """The most models in memory; None: as many as fit."""
    swa: Checkpoint
    run: CheckpointSeries
    key: str | None
    model: nn.Module
    model_target: TargetConfig
    data: object
    data_target: TargetConfig
    split: Split
    splitter: Splitter
    task: Task | None
    task_target: TargetConfig | None
    forward: Forward

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The members, in the order of training."""
        return self.run.checkpoints


def prepare_evaluation(config: Config, *, notify: Notify) -> EvalInputs:
    """Find, open and build.

    Raises:
        UsageError: an option is missing.
        SwaError: as what it calls.
    """
    options = config.eval
    task = task_of(config.task)
    default = config.bn_update.output or config.bn_update.input or config.average.output
    swa_path = require(options.swa or default, "average", key="eval.swa", example="swa.safetensors")
    key = options.key or config.average.key
    swa = _open_swa(swa_path, key)
    run = _members_of(config, swa_path)
    for notice in run.notices:
        notify(notice)
    model, model_target = model_of(config.model)
    materialise(model, swa)
    note = prefix_note(model, swa)
    if note:
        notify(note)
    data, data_target = data_module_of(config.data)
    return EvalInputs(
        choosing=Choosing(best_by_val=options.best_by_val, curve=options.curve, greedy=options.greedy),
        reporting=Reporting(
            ensemble=options.compare_ensemble, control=options.control, metrics=options.metrics, margin=options.margin
        ),
        recalibration=config.bn_update,
        max_resident_models=options.max_resident_models,
        swa=swa,
        run=run,
        key=key,
        model=model,
        model_target=model_target,
        data=data,
        data_target=data_target,
        split=options.split or choose_split(data),
        splitter=make_splitter(splitter_of(data)),
        task=task,
        task_target=config.task,
        forward=Forward(
            device=_device(options.device),
            amp=options.amp,
            channels_last=options.channels_last,
            compile=options.compile,
        ),
    )


def _device(name: str) -> torch.device:
    return resolve_device(own_device(name))


def _open_swa(path: Path, key: str | None) -> Checkpoint:
    """The average may lie where the checkpoints have their state_dict, or be a file without such a place."""
    with suppress(CheckpointError):
        return open_average(path, key=key)
    return open_average(path, key=None)


def _members_of(config: Config, swa: Path) -> CheckpointSeries:
    options, average = config.eval, config.average
    key, selection = options.key or average.key, selection_of(options)
    if options.checkpoints:
        return find_checkpoints(options.checkpoints, key=key, selection=selection, apart_from=swa)
    sources = require(average.sources, "checkpoints", key="eval.checkpoints")
    selection = selection if selection != Selection() else selection_of(average)
    return find_checkpoints(sources, key=key, selection=selection, apart_from=swa)
