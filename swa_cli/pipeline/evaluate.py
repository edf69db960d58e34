"""The third step: the average beside each checkpoint and their ensemble."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from swa_cli.batchnorm import bn_layers
from swa_cli.checkpoints import (
    SUFFIXES,
    Checkpoint,
    Run,
    Selection,
    find_checkpoints,
    read_provenance,
    short_names,
)
from swa_cli.config import Config
from swa_cli.data import batches_of, choose_split, splitter_of
from swa_cli.devices import resolve_device
from swa_cli.errors import UsageError
from swa_cli.evaluation import EvaluationResult, Member, evaluate
from swa_cli.files import check_output
from swa_cli.models import state_dict_for
from swa_cli.pipeline.common import Notify, alone, needed, open_average, selection_of
from swa_cli.pipeline.user import data_of, model_of
from swa_cli.progress import Track, silent
from swa_cli.tasks import make_splitter


def eval_step(config: Config, *, notify: Notify, track: Track = silent) -> EvaluationResult:
    """``swa-eval``."""
    alone("eval")
    options = config.eval
    check_json_output(options.json)
    device = resolve_device(options.device)
    default = config.bn_update.output or config.bn_update.input or config.average.output
    swa_path = needed(options.swa or default, "average", flag="--swa swa.safetensors", key="eval.swa")
    key = options.key or config.average.key
    swa = open_average(swa_path, key=key)
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
    data, _ = data_of(config)
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
    return replace(result, warnings=(*_warnings(swa, run.checkpoints, model, key), *result.warnings))


def check_json_output(path: Path | None) -> None:
    """Find out before the work starts whether the JSON can be written; an existing file will be replaced.

    Raises:
        UsageError: it has the name of a checkpoint.
        OutputError: it cannot be written.
    """
    if path is None or str(path) == "-":
        return
    if path.name.endswith(SUFFIXES):
        msg = f"--json {path}: that is the name of a checkpoint, which would be replaced. Name a .json file."
        raise UsageError(msg)
    check_output(path, overwrite=True)


def _members_of(config: Config, swa: Path) -> Run:
    options, average = config.eval, config.average
    key, selection = options.key or average.key, selection_of(options)
    if options.checkpoints:
        return find_checkpoints(options.checkpoints, key=key, selection=selection, apart_from=swa)
    sources = needed(average.sources, "checkpoints", flag="CKPTS", key="eval.checkpoints")
    selection = selection if selection != Selection() else selection_of(average)
    return find_checkpoints(sources, key=key, selection=selection, apart_from=swa)


def _warnings(swa: Checkpoint, members: Sequence[Checkpoint], model: nn.Module, key: str | None) -> tuple[str, ...]:
    """What the file says of itself that the reader of the table must know."""
    provenance = read_provenance(swa.metadata)
    if provenance is None:
        return (f"{swa.path.name} has no record of an average by swa-cli: what it is, and of what, is not known.",)
    warnings: list[str] = []
    if provenance.bn_statistics == "averaged" and bn_layers(model):
        warnings.append(
            f"{swa.path.name} has BatchNorm statistics that are averages of the checkpoints', not those of the "
            "averaged weights: its scores are not what they could be. Run swa-bn-update first."
        )
    unreached = provenance.bn_update.unreached if provenance.bn_update else ()
    if unreached:
        warnings.append(
            f"{swa.path.name}: no batch reached the BatchNorm layers {', '.join(unreached)} when the statistics were "
            "recomputed, and theirs are still averages."
        )
    if provenance.options and provenance.options.key != key:
        warnings.append(
            f"{swa.path.name} is an average of the weights under {provenance.options.key or 'the usual key'}, the "
            f"table has those under {key or 'the usual key'}: it compares different weights. Give the same --key."
        )
    averaged = {(Path(source.name).name, source.step) for source in provenance.sources}
    if provenance.n_averaged > 1 and averaged != {(member.path.name, member.step) for member in members}:
        warnings.append(
            f"{swa.path.name} is the average of {provenance.n_averaged} checkpoints ({provenance.sources[0].name} to "
            f"{provenance.sources[-1].name}), the table is of {len(members)} that are not the same: mean and ensemble "
            "are over others than the average."
        )
    return tuple(warnings)
