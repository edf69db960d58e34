"""The BatchNorm step: recomputing the statistics of an average."""

from dataclasses import dataclass
from pathlib import Path

import torch

from swa_cli.batchnorm import RecalibrationResult, out_of_reach, recalibrate, recalibration_warnings
from swa_cli.config.schema import BnUpdateConfig, Config
from swa_cli.errors import MismatchError, UsageError, option, shortened
from swa_cli.formats import BnUpdate, Checkpoint
from swa_cli.pipeline.bn_update.prepare import FROZEN, BnUpdateInputs, TrainingData, open_data, prepare
from swa_cli.pipeline.bn_update.write import known_of, new_buffers, record_of, write
from swa_cli.pipeline.common import Notify, check_report, require
from swa_cli.system.devices import resolve_device
from swa_cli.system.process_group import ProcessGroup, own_device
from swa_cli.system.progress import Track, silent
from swa_cli.system.torchrun import process_group
from swa_cli.user.dataloader import Passes
from swa_cli.user.datamodule import length_of
from swa_cli.user.forward import Forward

_SMALL = 16
"""Batch size below which it affects the statistics noticeably (docs/explanation/batchnorm.md)."""


@dataclass(frozen=True, kw_only=True)
class BnUpdateResult:
    """The output file and its new statistics; ``recalibration`` is None if there was nothing to recompute."""

    path: Path
    recalibration: RecalibrationResult | None
    update: BnUpdate | None = None
    warnings: tuple[str, ...] = ()


def bn_update_step(config: Config, *, notify: Notify, track: Track = silent) -> BnUpdateResult:
    """Run ``swa-bn-update``: recompute the statistics of every BatchNorm layer.

    Raises:
        UsageError: options contradict each other, or one is missing.
        SwaError: as the functions it calls; the input is unchanged then.
    """
    options = config.bn_update
    with process_group() as group:
        group.own(lambda: _check(options))
        job = group.own(lambda: prepare(_source(config), config.model, options, group, notify=notify))
        if not job.to_recompute:
            return _nothing_to_do(job, group, notify)
        training = group.own(lambda: open_data(config.data, options, group, notify=notify))
        _announce(job, training.batches, options, notify)
        result = recalibrate(
            job.model,
            training.batches,
            estimator=options.estimator,
            split=training.split,
            until_converged=options.until_converged,
            leave=job.leave,
            forward=_forward(options),
            group=group,
            track=track,
        )
        if result.exhausted:  # else some ranks may have drawn more than others
            _check_same(training.batches, group)
        _tell(result, options, notify)
        _warn_of_batches(training, result, notify)
        if not result.layers:
            _write_unchanged(job, group, notify)
            return BnUpdateResult(path=job.target.path, recalibration=None)
        update = record_of(job, training, result, options)
        new = new_buffers(job.model, result, job.checkpoint)
        _tell_of_rounding(job.checkpoint, new, notify)
        record = known_of(job.checkpoint).model_copy(update={"bn_statistics": "recomputed", "bn_update": update})
        group.finish(lambda: write(job, new, record, notify))
        return BnUpdateResult(
            path=job.target.path,
            recalibration=result,
            update=update,
            warnings=recalibration_warnings(result, n_averaged=record.n_averaged),
        )


def _source(config: Config) -> Path:
    source = config.bn_update.input or config.average.output
    return require(source, "file", key="bn_update.input")


def _check(options: BnUpdateConfig) -> None:
    """Check the options before anything is opened."""
    check_report(options.json, "json")
    resolve_device(own_device(options.device))
    if options.compile and options.estimator == "sequential":
        msg = (
            f"{option('compile', True)} does not go with {option('estimator', 'sequential')}, whose every pass ends at "
            "another layer. Leave it out."
        )
        raise UsageError(msg)


def _forward(options: BnUpdateConfig) -> Forward:
    device = resolve_device(own_device(options.device))
    return Forward(device=device, amp=options.amp, channels_last=options.channels_last, compile=options.compile)


def _nothing_to_do(job: BnUpdateInputs, group: ProcessGroup, notify: Notify) -> BnUpdateResult:
    what = f"the model {job.model_target.class_path} has no BatchNorm statistics"
    unreachable = out_of_reach(job.model)
    if unreachable:
        what = "; ".join(f"{name} was left alone, since {reason}" for name, reason in unreachable.items())
    elif job.leave:
        what = (
            f"all {len(job.leave)} BatchNorm layers were {FROZEN} ({option('recalibrate_frozen', True)} recomputes "
            "them)"
        )
    notify(f"{what}: nothing to do.")
    _write_unchanged(job, group, notify)
    return BnUpdateResult(path=job.target.path, recalibration=None)


def _write_unchanged(job: BnUpdateInputs, group: ProcessGroup, notify: Notify) -> None:
    if job.target.path != job.source:  # the next step expects the file
        group.finish(lambda: write(job, {}, known_of(job.checkpoint), notify))
        notify(f"{job.target.path} has the weights of {job.source} unchanged.")


def _announce(job: BnUpdateInputs, batches: Passes, options: BnUpdateConfig, notify: Notify) -> None:
    frozen = sorted(job.leave)
    if frozen:
        notify(
            f"left alone, as they were {FROZEN} ({option('recalibrate_frozen', True)} recomputes them): "
            f"{shortened(frozen)}."
        )
    if options.estimator == "sequential":
        count, length = len(job.to_recompute), length_of(batches)
        of_each = f" of {length:,} batches" if length is not None else ""
        notify(
            f"sequential: a pass{of_each} to find the order of {count} layers, and one for each, through the model up "
            f"to that layer: about {(count + 3) / 2:.0f} times the work of {option('estimator', 'population')}, and "
            f"{count + 1} times the loading."
        )


def _warn_of_batches(training: TrainingData, result: RecalibrationResult, notify: Notify) -> None:
    """Note what makes statistics after the first layer depend on the batches, which no standard error shows."""
    if result.estimator == "sequential" or len(result.layers) == 1:
        return
    other = f"{option('estimator', 'sequential')} does not."
    if training.in_fixed_order:
        notify(
            "the training loader does not shuffle: below the first layer the statistics depend on which samples share "
            f"a batch, and standard errors do not hold; {other}"
        )
    elif result.n_samples is not None and result.n_samples - 1 < _SMALL * (
        result.n_batches - 1
    ):  # the last may be smaller
        notify(
            f"batches of about {result.n_samples / result.n_batches:.0f} samples: below the first layer the statistics "
            f"depend on that, by several percent, which no standard error shows; {other}"
        )


def _check_same(batches: Passes, group: ProcessGroup) -> None:
    """Check that all ranks iterated over the same stream of batches."""
    if not group.same(lambda: batches.digest):
        msg = (
            "the ranks' samplers draw different batches, so that some samples would be used twice and others never. "
            f"Draw them by torch's, numpy's or Python's random numbers, which {option('seed')} makes the same on all "
            "ranks."
        )
        raise MismatchError(msg)


def _tell(result: RecalibrationResult, options: BnUpdateConfig, notify: Notify) -> None:
    by_reason: dict[str, list[str]] = {}
    for name, reason in result.kept.items():
        if reason != FROZEN:
            by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        notify(f"kept as it was, since {reason}: {shortened(names)}.")
    if result.converged is not None:
        error = "unknown" if result.standard_error is None else f"{result.standard_error:.3g}"
        state = "converged" if result.converged else "not converged, and no batches are left"
        notify(f"{state}: the largest standard error is {error}, {options.until_converged:g} was asked for.")


def _tell_of_rounding(checkpoint: Checkpoint, new: dict[str, torch.Tensor], notify: Notify) -> None:
    coarse = sorted({str(checkpoint.spec(name).dtype) for name in new if checkpoint.spec(name).dtype.itemsize == 2})  # noqa: PLR2004
    if coarse:
        notify(
            f"the file stores the statistics as {', '.join(coarse)}: they were taken in float64 and are rounded to "
            f"that. swa-average {option('dtype', 'float32')} leaves room for them."
        )
