"""Recomputing BatchNorm statistics during an evaluation, with the same options as for the average."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from swa_cli.batchnorm import bn_layers, recalibrate
from swa_cli.config.schema import BnUpdateConfig
from swa_cli.pipeline.bn_update.prepare import FROZEN, TrainingData, frozen_layers, open_data
from swa_cli.pipeline.common import Notify
from swa_cli.pipeline.evaluation.prepare import EvalInputs
from swa_cli.system.process_group import ProcessGroup
from swa_cli.system.progress import Track
from swa_cli.user.forward import Forward
from swa_cli.user.guard import user_code
from swa_cli.user.modules import state_dict_of


@dataclass(frozen=True, kw_only=True)
class Recomputing:
    """How to recompute statistics; ``training`` is None if the model keeps none."""

    job: EvalInputs
    options: BnUpdateConfig
    training: TrainingData | None
    group: ProcessGroup
    track: Track

    def of(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return the weights with recomputed statistics.

        Raises:
            SwaError: as `recalibrate`.
        """
        if self.training is None:
            return dict(state_dict)
        with user_code("loading the weights into a copy of the model"):
            model = copy.deepcopy(self.job.model)
            model.load_state_dict(dict(state_dict), strict=False)
        recalibrate(
            model,
            self.training.batches,
            estimator=self.options.estimator,
            split=self.training.split,
            until_converged=self.options.until_converged,
            leave={} if self.options.recalibrate_frozen else frozen_layers(model, self.job.swa),
            forward=Forward(
                device=self.job.forward.device, amp=self.options.amp, channels_last=self.options.channels_last
            ),
            group=self.group,
            track=self.track,
        )
        return {name: value.cpu() if hasattr(value, "cpu") else value for name, value in state_dict_of(model).items()}


def recomputing(job: EvalInputs, *, notify: Notify, group: ProcessGroup, track: Track) -> Recomputing:
    """Prepare recomputing with the options in the average's provenance, or else those of the configuration.

    Raises:
        UserCodeError: the data module has no training data, or its code fails.
    """
    options = recorded_options(job)
    training = None
    if has_statistics(job.model):
        record = job.swa.provenance
        if record and record.bn_update and record.bn_update.data_args != job.data_target.init_args:
            notify(
                f"the average's statistics are of data built with {record.bn_update.data_args}, those that are "
                f"recomputed here of such built with {job.data_target.init_args}."
            )
        training = group.own(lambda: open_data(job.data_target, options, group, notify=notify))
    return Recomputing(job=job, options=options, training=training, group=group, track=track)


def has_statistics(model: nn.Module) -> bool:
    """Return whether the model keeps running statistics."""
    return bool(bn_layers(model))


def recorded_options(job: EvalInputs) -> BnUpdateConfig:
    """Return the options with which the average's statistics were recomputed, or else the configuration's."""
    record = job.swa.provenance
    options = job.recalibration
    if record is None or record.bn_update is None:
        return options
    known: Any = record.bn_update
    return replace(
        options,
        estimator=known.estimator,
        num_batches=known.n_batches if known.partial else None,
        num_samples=None,
        until_converged=None,
        batch_size=known.batch_size,
        seed=known.seed,
        eval_transforms=known.eval_transforms,
        recalibrate_frozen=bool(record.frozen_bn) and FROZEN not in known.kept.values(),
        amp=known.amp,
    )
