"""The second step: an average to the same with BatchNorm statistics of its own."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swa_cli.batchnorm import RecalibrationResult, bn_buffers, bn_layers, recalibrate
from swa_cli.checkpoints import (
    BnUpdate,
    Checkpoint,
    Provenance,
    Source,
    read_provenance,
)
from swa_cli.config import BnUpdateConfig, Config
from swa_cli.data import batches_of, splitter_of
from swa_cli.devices import resolve_device
from swa_cli.errors import UsageError
from swa_cli.models import load_checkpoint, own_names
from swa_cli.outputs import Like, Target, check_target, fits
from swa_cli.outputs.rewriting import replace_tensors
from swa_cli.pipeline.common import Notify, alone, needed, open_average
from swa_cli.pipeline.user import data_of, model_of
from swa_cli.progress import Track, silent
from swa_cli.tasks import make_splitter

_SEED = 0  # of the loader's shuffling, so that two runs give the same bytes


@dataclass(frozen=True, kw_only=True)
class BnUpdateResult:
    """Where the weights with the new statistics are; ``recalibration`` is None for a model without BatchNorm."""

    path: Path
    recalibration: RecalibrationResult | None


def bn_update_step(config: Config, *, notify: Notify, track: Track = silent) -> BnUpdateResult:
    """``swa-bn-update``: the same file with the statistics of every BatchNorm layer recomputed."""
    alone("bn-update")
    options = config.bn_update
    source = needed(options.input or config.average.output, "file", flag="swa.safetensors", key="bn_update.input")
    checkpoint = open_average(source, key=options.key)
    target = _target(source, checkpoint, options)
    device = resolve_device(options.device)
    model, model_target = model_of(config)
    load_checkpoint(model, checkpoint)
    layers = bn_layers(model)
    if not layers:
        notify(f"the model {model_target.class_path} has no BatchNorm statistics: nothing to do.")
        if target.path != source:  # what comes next looks for it
            _write(checkpoint, target, {}, _known(checkpoint), notify)
            notify(f"{target.path} has the weights of {source} unchanged.")
        return BnUpdateResult(path=target.path, recalibration=None)
    data, data_target = data_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
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
    new = _new_buffers(model, result, checkpoint)
    update = BnUpdate(
        model=model_target.class_path,
        data=data_target.class_path,
        n_samples=result.n_samples,
        n_batches=result.n_batches,
        unreached=result.unreached,
        tensors={},
    )
    _write(checkpoint, target, new, _updated(checkpoint, update), notify)
    return BnUpdateResult(path=target.path, recalibration=result)


def _target(source: Path, checkpoint: Checkpoint, options: BnUpdateConfig) -> Target:
    """What is written: in place, or to another place, the same file with other statistics; else a plain file."""
    output = options.output or source
    if output == source and output.suffix != ".safetensors" and read_provenance(checkpoint.metadata) is None:
        msg = f"{source} was not written by swa-cli and is not replaced in place: add -o NAME.safetensors."
        raise UsageError(msg)
    target = Target(path=output, like=Like(checkpoint=checkpoint, key=checkpoint.key or None))
    if not fits(target):
        target = Target(path=output)
    check_target(target, overwrite=options.force or output == source)
    return target


def _write(
    checkpoint: Checkpoint, target: Target, new: dict[str, torch.Tensor], record: Provenance, notify: Notify
) -> None:
    left_out = replace_tensors(checkpoint, target, new, record)
    if left_out:
        notify(f"left out of {target.path}, as they belong to other weights: {', '.join(left_out)}.")


def _new_buffers(model: nn.Module, result: RecalibrationResult, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The statistics of the layers that were reached, under the names that the file has for them."""
    layers = bn_layers(model)
    new = bn_buffers(model, {layer.name: layers[layer.name] for layer in result.layers})
    names = {own: name for name, own in own_names(model).items()}
    return {names[own]: tensor for own, tensor in new.items() if names[own] in checkpoint.tensors}


def _known(checkpoint: Checkpoint) -> Provenance:
    return read_provenance(checkpoint.metadata) or Provenance(
        n_averaged=1, sources=(Source(name=checkpoint.path.name, step=checkpoint.step),), bn_statistics="as trained"
    )


def _updated(checkpoint: Checkpoint, update: BnUpdate) -> Provenance:
    return _known(checkpoint).model_copy(update={"bn_statistics": "recomputed", "bn_update": update})
