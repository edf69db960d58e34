"""Putting a model into the state in which statistics are measured, and back."""

from collections.abc import Collection, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from swa_cli.batchnorm.layers import BatchNorm, Norm
from swa_cli.user_code import user_code

_PATCHED = ("track_running_stats", "momentum")


@contextmanager
def unchanged(model: nn.Module, layers: Collection[Norm]) -> Generator[None]:
    """Put back afterwards every mode of ``model``, module by module, and all that `measuring` changes of layers.

    Within the body all of ``model`` is in eval mode, so that dropout and stochastic depth are off, as they will be
    when the statistics are used.
    """
    modes = [(module, module.training) for module in model.modules()]
    attributes = [
        (layer.module, name, getattr(layer.module, name))
        for layer in layers
        for name in _PATCHED
        if hasattr(layer.module, name)
    ]
    buffers = [(buffer, buffer.clone()) for layer in layers for buffer in _buffers(layer)]
    try:
        with user_code("putting the model in eval mode"):
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, value in attributes:
            setattr(module, name, value)
        for layer in layers:
            vars(layer.module).pop("forward", None)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def normalise_by_batch(layer: Norm, *, leave_moments: bool) -> None:
    """Let a layer normalise by what it is given.

    Args:
        leave_moments: with momentum 1 torch's layers leave the mean and the unbiased variance of each input in their
            buffers. Otherwise the buffers are not touched, as far as the layer lets itself be told.
    """
    module = cast("Any", layer.module)
    module.training = True
    if leave_moments:
        module.momentum = 1.0
    elif isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        module.track_running_stats = False
    if isinstance(module, nn.SyncBatchNorm):
        # It would wait for the other ranks, which have other batches and perhaps fewer of them.
        module.forward = partial(BatchNorm.forward, module)


def normalise_by_statistics(layer: Norm) -> None:
    """Let a layer normalise by its running statistics, as in inference."""
    layer.module.training = False


def _buffers(layer: Norm) -> list[torch.Tensor]:
    own = {id(buffer): buffer for buffer in layer.module.buffers(recurse=False)}
    own |= {id(tensor): tensor for tensor in (layer.running_mean, layer.running_var)}  # parameters of a custom layer
    return list(own.values())
