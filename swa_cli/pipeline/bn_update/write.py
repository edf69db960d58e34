"""Writing the result of a recalibration: the new statistics, and their provenance."""

import torch
from torch import nn

from swa_cli.batchnorm import UNREACHED, RecalibrationResult, bn_buffers, bn_layers
from swa_cli.config.schema import BnUpdateConfig
from swa_cli.formats import BnUpdate, Checkpoint, Provenance, Source
from swa_cli.outputs.rewriting import replace_tensors
from swa_cli.pipeline.bn_update.prepare import BnUpdateInputs, TrainingData
from swa_cli.pipeline.common import Notify
from swa_cli.user.model import own_names


def record_of(
    job: BnUpdateInputs, data: TrainingData, result: RecalibrationResult, options: BnUpdateConfig
) -> BnUpdate:
    """Return the provenance of the recomputed statistics."""
    return BnUpdate(
        estimator=result.estimator,
        model=job.model_target.class_path,
        model_args=job.model_target.init_args,
        data=data.target.class_path,
        data_args=data.target.init_args,
        seed=options.seed,
        eval_transforms=options.eval_transforms,
        amp=options.amp,
        batch_size=options.batch_size,
        n_samples=result.n_samples,
        n_batches=result.n_batches,
        partial=not result.exhausted or data.is_cut(result.n_batches),
        standard_error=result.standard_error,
        kept=result.kept,
        unreached=tuple(name for name, reason in result.kept.items() if reason == UNREACHED),
        tensors={},
    )


def new_buffers(model: nn.Module, result: RecalibrationResult, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the statistics of the layers that were reached, under the names in the file."""
    layers, found = bn_layers(model), {layer.name: layer for layer in result.layers}
    names = {own: name for name, own in own_names(model, checkpoint).items()}
    buffers = bn_buffers(model, {name: layers[name] for name in found})
    new: dict[str, torch.Tensor] = {}
    for own, (layer, buffer) in buffers.items():
        if names[own] in checkpoint.tensors:
            counted = buffer == "num_batches_tracked"
            new[names[own]] = torch.tensor(found[layer].n_calls) if counted else getattr(found[layer], buffer)
    return new


def write(job: BnUpdateInputs, new: dict[str, torch.Tensor], record: Provenance, notify: Notify) -> None:
    """Publish the average with ``new`` in place of its own statistics.

    Raises:
        SwaError: as `replace_tensors`; an existing file is unchanged then.
    """
    left_out = replace_tensors(job.checkpoint, job.target, new, record, overwrite=job.overwrite)
    if left_out:
        notify(f"left out of {job.target.path}, as they belong to other weights: {', '.join(left_out)}.")


def known_of(checkpoint: Checkpoint) -> Provenance:
    """Return the provenance of the input; for a checkpoint without one, a provenance that names the file itself."""
    return checkpoint.provenance or Provenance(
        n_averaged=1, sources=(Source(name=checkpoint.path.name, step=None),), bn_statistics="as trained"
    )
