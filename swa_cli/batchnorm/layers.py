"""Which layers hold BatchNorm statistics, and putting a model into the state in which they are measured."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from swa_cli.errors import MismatchError, kind_of
from swa_cli.user_code import user_code

BatchNorm: TypeAlias = _BatchNorm
"""The base of all kinds, SyncBatchNorm included; torch gives it no public name."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def bn_layers(model: nn.Module) -> dict[str, BatchNorm]:
    """The BatchNorm layers of ``model`` that keep statistics, by name; a layer with two names has the first."""
    return {
        name: module
        for name, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }


def bn_buffers(model: nn.Module, layers: Mapping[str, BatchNorm]) -> dict[str, torch.Tensor]:
    """The statistics of ``layers`` as ``model.state_dict()`` holds them, under every name that it has for them.

    Raises:
        MismatchError: the state_dict does not hold a layer's statistics, as they are.
    """
    buffers = [(name, getattr(layer, buffer)) for name, layer in layers.items() for buffer in BUFFERS]
    wanted = {id(buffer): name for name, buffer in buffers if buffer is not None}
    with user_code(f"{kind_of(model)}.state_dict()"):
        state = cast("dict[str, torch.Tensor]", model.state_dict(keep_vars=True))
    found = {name: tensor for name, tensor in state.items() if id(tensor) in wanted}
    lost = set(wanted.values()) - {wanted[id(tensor)] for tensor in found.values()}
    if lost:
        names = ", ".join(sorted(lost))
        msg = (
            f"the state_dict of {kind_of(model)} does not hold the statistics of {names}, which cannot be stored then. "
            "Give --model the module whose state_dict has them."
        )
        raise MismatchError(msg)
    return found


@contextmanager
def only_training(model: nn.Module, layers: Mapping[str, BatchNorm]) -> Generator[None]:
    """Within the body, ``layers`` normalise by their batch and keep their buffers; all else is in eval mode.

    So dropout and stochastic depth are off, as they will be when the statistics are used. Every mode is put back
    afterwards, module by module.
    """
    modes = [(module, module.training) for module in model.modules()]
    tracking = [(layer, layer.track_running_stats) for layer in layers.values()]
    buffers = [(buffer, buffer.clone()) for layer in layers.values() for buffer in layer.buffers(recurse=False)]
    try:
        with user_code("putting the model in eval mode"):
            model.eval()
        for layer in layers.values():
            layer.training = True
            layer.track_running_stats = False  # normalise by the batch, do not touch the buffers
        yield
    finally:
        for module, training in modes:
            module.training = training
        for layer, tracks in tracking:
            layer.track_running_stats = tracks
        for buffer, value in buffers:  # a subclass may have updated them all the same
            buffer.copy_(value)
