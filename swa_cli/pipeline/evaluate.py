"""The third step: the average beside each checkpoint and their ensemble."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from swa_cli.batches import make_splitter
from swa_cli.checkpoints import (
    Checkpoint,
    Run,
    Selection,
    find_checkpoints,
    short_names,
)
from swa_cli.config import Config
from swa_cli.data import batches_of, choose_split, splitter_of
from swa_cli.devices import resolve_device
from swa_cli.errors import CheckpointError
from swa_cli.evaluation import EvaluationResult, Member, evaluate
from swa_cli.models import state_dict_for
from swa_cli.pipeline.common import Notify, alone, check_json_output, needed, open_average, selection_of
from swa_cli.pipeline.recorded import bn_update_of, warnings_of
from swa_cli.pipeline.user import data_of, model_of
from swa_cli.progress import Track, silent


def eval_step(config: Config, *, notify: Notify, track: Track = silent) -> EvaluationResult:
    """``swa-eval``."""
    alone("eval")
    options = config.eval
    check_json_output(options.json)
    device = resolve_device(options.device)
    default = config.bn_update.output or config.bn_update.input or config.average.output
    swa_path = needed(options.swa or default, "average", flag="--swa swa.safetensors", key="eval.swa")
    key = options.key or config.average.key
    swa = _open_swa(swa_path, key)
    run = _members_of(config, swa_path)
    for notice in run.notices:
        notify(notice)
    model, _ = model_of(config)
    names = short_names([checkpoint.path for checkpoint in run.checkpoints])
    members = [
        Member(name=name, kind="checkpoint", step=checkpoint.step, state_dict=state_dict_for(model, checkpoint))
        for name, checkpoint in zip(names, run.checkpoints, strict=True)
    ]
    average = Member(name=swa_path.name, kind="swa", state_dict=state_dict_for(model, swa))
    data, data_target = data_of(config)
    split = options.split or choose_split(data)
    result = evaluate(
        model,
        members,
        average,
        batches_of(data, split),
        split=split,
        splitter=make_splitter(splitter_of(data)),
        compare_ensemble=options.compare_ensemble,
        device=device,
        track=track,
    )
    warnings = warnings_of(swa, run.checkpoints, model, key=key, data=data_target.class_path)
    return replace(result, warnings=(*warnings, *result.warnings), bn_update=bn_update_of(swa))


def _open_swa(path: Path, key: str | None) -> Checkpoint:
    """The average may lie where the checkpoints have their state_dict, or be a file without such a place."""
    with suppress(CheckpointError):
        return open_average(path, key=key)
    return open_average(path, key=None)


def _members_of(config: Config, swa: Path) -> Run:
    options, average = config.eval, config.average
    key, selection = options.key or average.key, selection_of(options)
    if options.checkpoints:
        return find_checkpoints(options.checkpoints, key=key, selection=selection, apart_from=swa)
    sources = needed(average.sources, "checkpoints", flag="CKPTS", key="eval.checkpoints")
    selection = selection if selection != Selection() else selection_of(average)
    return find_checkpoints(sources, key=key, selection=selection, apart_from=swa)
