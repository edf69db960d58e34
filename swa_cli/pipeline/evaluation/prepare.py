"""What an evaluation works on: the average, the checkpoints, the user's model, data module and task."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swa_cli.checkpoints import CheckpointSeries, Selection, find_checkpoints
from swa_cli.config.schema import Config, TargetConfig
from swa_cli.errors import CheckpointError
from swa_cli.formats import Checkpoint
from swa_cli.pipeline.build_user_objects import data_of, model_of, task_of
from swa_cli.pipeline.common import Notify, open_average, require, selection_of
from swa_cli.system.devices import resolve_device
from swa_cli.system.process_group import own_device
from swa_cli.tasks import Task
from swa_cli.user.batch import Splitter, make_splitter
from swa_cli.user.datamodule import Split, choose_split, splitter_of
from swa_cli.user.forward import Forward
from swa_cli.user.model import materialise, prefix_note


@dataclass(frozen=True, kw_only=True)
class EvalInputs:
    """All that was given, opened and built; ``task`` None is to be seen from the first batch."""

    config: Config
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
    task = task_of(config)
    default = config.bn_update.output or config.bn_update.input or config.average.output
    swa_path = require(options.swa or default, "average", flag="--swa swa.safetensors", key="eval.swa")
    key = options.key or config.average.key
    swa = _open_swa(swa_path, key)
    run = _members_of(config, swa_path)
    for notice in run.notices:
        notify(notice)
    model, model_target = model_of(config)
    materialise(model, swa)
    note = prefix_note(model, swa)
    if note:
        notify(note)
    data, data_target = data_of(config)
    return EvalInputs(
        config=config,
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
    sources = require(average.sources, "checkpoints", flag="CKPTS", key="eval.checkpoints")
    selection = selection if selection != Selection() else selection_of(average)
    return find_checkpoints(sources, key=key, selection=selection, apart_from=swa)
