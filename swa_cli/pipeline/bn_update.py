"""The second step: an average to the same with BatchNorm statistics of its own."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swa_cli.averaging import check_average_output
from swa_cli.batchnorm import RecalibrationResult, bn_buffers, bn_layers, recalibrate
from swa_cli.checkpoints import (
    BnUpdate,
    Checkpoint,
    Provenance,
    Source,
    open_checkpoint,
    read_provenance,
)
from swa_cli.checkpoints.rewriting import replace_tensors
from swa_cli.config import Config
from swa_cli.data import batches_of, splitter_of
from swa_cli.devices import resolve_device
from swa_cli.errors import UsageError
from swa_cli.models import load_checkpoint, own_names
from swa_cli.pipeline.common import Notify, needed
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
    options = config.bn_update
    source = needed(options.input or config.average.output, "file", flag="swa.safetensors", key="bn_update.input")
    checkpoint = open_checkpoint(source, key=options.key)
    output = _output(source, options.output, force=options.force)
    device = resolve_device(options.device)
    model, target = model_of(config)
    load_checkpoint(model, checkpoint)
    layers = bn_layers(model)
    if not layers:
        notify(f"the model {target.class_path} has no BatchNorm statistics: nothing to do.")
        if output != source:  # what comes next looks for it
            replace_tensors(checkpoint, output, {}, _known(checkpoint))
            notify(f"{output} is {source} unchanged.")
        return BnUpdateResult(path=output, recalibration=None)
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
    update = BnUpdate(
        model=target.class_path,
        data=data_target.class_path,
        n_samples=result.n_samples,
        n_batches=result.n_batches,
        unreached=result.unreached,
    )
    replace_tensors(checkpoint, output, _new_buffers(model, result, checkpoint), _updated(checkpoint, update))
    return BnUpdateResult(path=output, recalibration=result)


def _output(source: Path, output: Path | None, *, force: bool) -> Path:
    if output is None and source.suffix != ".safetensors":
        msg = f"{source} is not safetensors and cannot be replaced in place: add -o NAME.safetensors."
        raise UsageError(msg)
    check_average_output(output or source, overwrite=force or output in {None, source})
    return output or source


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
