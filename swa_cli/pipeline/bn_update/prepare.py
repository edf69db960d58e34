"""What a recalibration works on: the average, the user's model with its weights, the user's batches."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from swa_cli.batchnorm import bn_buffers, bn_layers, without_statistics
from swa_cli.config.schema import BnUpdateConfig, TargetConfig
from swa_cli.errors import UsageError, option, shortened
from swa_cli.formats import Checkpoint, unescape_surrogates
from swa_cli.outputs import Like, Target, check_target, fits
from swa_cli.pipeline.build_user_objects import data_module_of, model_of
from swa_cli.pipeline.common import Notify, open_average
from swa_cli.system.process_group import ProcessGroup
from swa_cli.user.batch import Splitter, make_splitter
from swa_cli.user.dataloader import Passes, in_fixed_order, with_batch_size
from swa_cli.user.datamodule import batches_of, length_of, splitter_of, train_batches_as_evaluated
from swa_cli.user.model import load_checkpoint, own_names, prefix_note

FROZEN = "frozen in training"


@dataclass(frozen=True, kw_only=True)
class BnUpdateInputs:
    """The average, where it goes, its model, and the layers to leave alone, with the reason."""

    source: Path
    checkpoint: Checkpoint
    target: Target
    overwrite: bool
    model: nn.Module
    model_target: TargetConfig
    leave: dict[str, str]

    @property
    def to_recompute(self) -> set[str]:
        """The layers whose statistics are wanted."""
        return set(bn_layers(self.model)) - set(self.leave)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """This rank's batches, how to take them apart, and what gave them."""

    batches: Passes
    split: Splitter
    target: TargetConfig
    length: int | None
    """Batches of the loader, without limits; None where it does not know."""
    limited: bool
    in_fixed_order: bool

    def is_cut(self, n_batches: int) -> bool:
        """Whether the limits left data over, so that all ranks together had only ``n_batches``; in doubt, they did."""
        return self.limited and (self.length is None or n_batches < self.length)


def prepare(
    source: Path, model_target: TargetConfig | None, options: BnUpdateConfig, group: ProcessGroup, *, notify: Notify
) -> BnUpdateInputs:
    """Open the average, build the model, and fill it.

    Raises:
        UsageError: an option is missing, or the output makes no sense.
        SwaError: as what it calls.
    """
    checkpoint = open_average(source, key=options.key)
    target = _target(source, checkpoint, options, group)
    model, model_target = model_of(model_target)
    load_checkpoint(model, checkpoint)
    note = prefix_note(model, checkpoint)
    if note:
        notify(note)
    untracked = without_statistics(model)
    if untracked:
        notify(f"these BatchNorm layers keep no statistics (track_running_stats=False): {shortened(untracked)}.")
    leave = {} if options.recalibrate_frozen else frozen_layers(model, checkpoint)
    return BnUpdateInputs(
        source=source,
        checkpoint=checkpoint,
        target=target,
        overwrite=options.force or target.path == source,
        model=model,
        model_target=model_target,
        leave=leave,
    )


def _target(source: Path, checkpoint: Checkpoint, options: BnUpdateConfig, group: ProcessGroup) -> Target:
    """What is written: in place, or to another place, the same file with other statistics; else a plain file."""
    output = options.output or source
    if output == source and output.suffix != ".safetensors" and checkpoint.provenance is None:
        msg = f"{source} was not written by swa-cli and is not replaced in place: add -o NAME.safetensors."
        raise UsageError(msg)
    target = Target(path=output, like=Like(checkpoint=checkpoint, key=checkpoint.key or None))
    if not fits(target):
        target = Target(path=output)
    if group.is_first:  # the only one that writes
        check_target(target, overwrite=options.force or output == source)
    return target


def frozen_layers(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """Return the layers whose statistics were equal in all averaged checkpoints, with that as the reason."""
    record = checkpoint.provenance
    if record is None:
        return {}
    names = own_names(model, checkpoint)
    layers = {own: layer for own, (layer, _) in bn_buffers(model, bn_layers(model)).items()}
    owns = (names.get(f"{unescape_surrogates(frozen)}.running_mean".removeprefix(".")) for frozen in record.frozen_bn)
    return {layers[own]: FROZEN for own in owns if own in layers}


def open_data(
    target: TargetConfig | None, options: BnUpdateConfig, group: ProcessGroup, *, notify: Notify
) -> TrainingData:
    """Build the data module and get the training batches from it.

    Raises:
        UsageError: the estimator needs several passes, and the loader has only one.
        UserCodeError, DataError: as what it calls.
    """
    data, target = data_module_of(target)
    split = make_splitter(splitter_of(data))
    if options.eval_transforms:
        loader, note = train_batches_as_evaluated(data)
        notify(note)
    else:
        loader = batches_of(data, "train")
    if options.batch_size is not None:
        loader = with_batch_size(loader, options.batch_size)
    batches = _passes(loader, options, group)
    if options.estimator == "sequential" and not batches.repeatable:
        msg = (
            f"the training loader can be passed over once only, and {option('estimator', 'sequential')} needs a pass "
            "for each layer. Let train_dataloader() return a DataLoader, or a list."
        )
        raise UsageError(msg)
    notes = {
        "index": f"the training loader cannot be divided: every rank goes through all of it and takes one "
        f"batch in {group.size}.",
        "itself": "the ranks share the data by the training loader's own distributed sampler, in other batches than "
        "those of one process, and with what it repeats to make the ranks even.",
    }
    if batches.shared_by in notes:
        notify(notes[batches.shared_by])
    limited = options.num_batches is not None or options.num_samples is not None
    return TrainingData(
        batches=batches,
        split=split,
        target=target,
        length=length_of(loader),
        limited=limited,
        in_fixed_order=in_fixed_order(loader),
    )


def _passes(loader: Iterable[Any], options: BnUpdateConfig, group: ProcessGroup) -> Passes:
    return Passes(
        loader,
        seed=options.seed,
        num_batches=options.num_batches,
        num_samples=options.num_samples,
        rank=group.rank,
        ranks=group.size,
    )
