"""Putting a model into the modes in which statistics are measured, and restoring it."""

from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from swa_cli.batchnorm.layers import BUFFERS, BatchNorm, Norm
from swa_cli.user.guard import user_code
from swa_cli.user.modules import modules_of

_PATCHED = ("track_running_stats", "momentum")


@contextmanager
def unchanged(model: nn.Module, layers: Collection[Norm]) -> Generator[None]:
    """Restore the mode of every module of ``model``, and the buffers of ``layers``, at the end of the body.

    Within the body all of ``model`` is in eval mode, so that dropout and stochastic depth are off, as at inference.
    """
    was_training, modes = model.training, [(module, module.training) for _, module in modules_of(model)]
    with ExitStack() as undo:
        for module, training in modes:
            undo.callback(setattr, module, "training", training)
        undo.callback(_call_train, model, was_training)
        for layer in layers:
            undo.callback(what_undoes(layer))
        with user_code("putting the model in eval mode"):
            model.eval()
            for module, _ in modes:  # a custom eval() may skip some
                module.training = False
        yield


def _call_train(model: nn.Module, mode: bool) -> None:  # noqa: FBT001  # the signature of nn.Module.train
    """Call train(), which may do more than set a flag (merge weights, say); the flags are restored after it."""
    with suppress(Exception):
        model.train(mode)


def what_undoes(layer: Norm) -> Callable[[], None]:
    """Return a function that restores the layer's present attributes and buffers."""
    module, kept = layer.module, vars(layer.module).get("forward")
    attributes = {name: getattr(module, name) for name in _PATCHED if hasattr(module, name)}
    # A custom layer may replace these tensors by new ones.
    statistics = {name: tensor for name, tensor in module.named_parameters(recurse=False) if name in BUFFERS}
    held = {**dict(module.named_buffers(recurse=False)), **statistics}
    tensors = [(name, tensor, tensor.detach().clone()) for name, tensor in held.items()]

    def undo() -> None:
        for name, value in attributes.items():
            setattr(module, name, value)
        if kept is None:
            vars(module).pop("forward", None)
        else:
            vars(module)["forward"] = kept
        with torch.no_grad():
            for name, tensor, value in tensors:
                setattr(module, name, tensor)
                tensor.copy_(value)

    return undo


def normalise_by_batch(layer: Norm, *, leave_moments: bool) -> None:
    """Let a layer normalise by its input, as in training.

    Args:
        leave_moments: set momentum to 1, with which torch's layers store the mean and unbiased variance of each input
            in their buffers. Otherwise the buffers are left alone, if the layer supports it.
    """
    module = cast("Any", layer.module)
    module.training = True
    if leave_moments:
        module.momentum = 1.0
    if layer.kind != "custom":
        module.track_running_stats = leave_moments
    if isinstance(module, nn.SyncBatchNorm) and "forward" not in vars(module):
        # SyncBatchNorm would wait for the other ranks, which have other batches and perhaps fewer.
        module.forward = partial(BatchNorm.forward, module)


def normalise_by_statistics(layer: Norm) -> None:
    """Let a layer normalise by its running statistics, as at inference."""
    layer.module.training = False
