"""Which layers hold BatchNorm statistics, and putting a model into the state in which they are measured."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from swa_cli.user_code import user_code

BatchNorm: TypeAlias = _BatchNorm
"""The base of all kinds, SyncBatchNorm included; torch gives it no public name."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def bn_layers(model: nn.Module) -> dict[str, BatchNorm]:
    """The BatchNorm layers of ``model`` that keep statistics, by name; a layer with two names has the first."""
    return {
        name: module
        for name, module in _named_modules(model)
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }


def bn_buffer_names(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[str]:
    """Names in the state_dict of the statistics of ``layers``, under every name that a shared layer has."""
    chosen = {id(module) for module in layers.values()}
    return [
        f"{name}.{buffer}" if name else buffer
        for name, module in _named_modules(model, remove_duplicate=False)
        if id(module) in chosen
        for buffer in BUFFERS
        if getattr(module, buffer) is not None
    ]


def _named_modules(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=remove_duplicate))


@contextmanager
def only_training(model: nn.Module, layers: Mapping[str, BatchNorm]) -> Generator[None]:
    """Within the body, ``layers`` normalise by their batch and keep their buffers; all else is in eval mode.

    So dropout and stochastic depth are off, as they will be when the statistics are used. Every mode is put back
    afterwards, module by module.
    """
    modes = [(module, module.training) for module in model.modules()]
    tracking = [(layer, layer.track_running_stats) for layer in layers.values()]
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
