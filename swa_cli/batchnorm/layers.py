"""Finding the layers that keep running statistics, and their entries in the state_dict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from swa_cli.errors import MismatchError, kind_of, option
from swa_cli.user.modules import modules_of, state_dict_of

BatchNorm: TypeAlias = _BatchNorm
"""Base class of all BatchNorm layers, SyncBatchNorm and LazyBatchNorm included; torch has no public name for it."""

InstanceNorm: TypeAlias = _InstanceNorm
"""Base class of all InstanceNorm layers."""

Kind = Literal["batch", "instance", "custom"]

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A layer with ``running_mean`` and ``running_var``; ``custom`` is any that is not torch's."""

    name: str
    module: nn.Module
    kind: Kind

    @property
    def running_mean(self) -> torch.Tensor:
        """The layer's buffer as a view of shape (C,); writing to it changes the layer."""
        return cast("torch.Tensor", self.module.running_mean).view(-1)

    @property
    def running_var(self) -> torch.Tensor:
        """The layer's buffer as a view of shape (C,); writing to it changes the layer."""
        return cast("torch.Tensor", self.module.running_var).view(-1)

    @property
    def num_batches_tracked(self) -> torch.Tensor | None:
        """The layer's counter, shape (); None if it has none."""
        return getattr(self.module, "num_batches_tracked", None)

    @property
    def eps(self) -> float:
        """The constant added to the variance; torch's default if a custom layer has none."""
        eps = getattr(self.module, "eps", None)
        return float(eps) if isinstance(eps, (int, float)) else 1e-5

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.running_mean.numel()


def bn_layers(model: nn.Module) -> dict[str, Norm]:
    """Return the layers of ``model`` that keep running statistics, by name, in the order of ``named_modules()``.

    These are BatchNorm and InstanceNorm of any kind, and other layers with a ``running_mean`` and a ``running_var`` of
    one entry per channel among their buffers or parameters. A layer with two names is listed under the first.
    """
    layers: dict[str, Norm] = {}
    known: set[int] = set()
    for name, module in modules_of(model):
        kind = _kind(module)
        if kind is not None and id(module.running_mean) not in known:
            layers[name] = Norm(name=name, module=module, kind=kind)
            known.add(id(module.running_mean))
    return layers


def without_statistics(model: nn.Module) -> tuple[str, ...]:
    """Return the BatchNorm layers that normalise by the batch in eval mode too (``track_running_stats=False``)."""
    return tuple(
        name for name, module in modules_of(model) if isinstance(module, BatchNorm) and module.running_mean is None
    )


def out_of_reach(model: nn.Module) -> dict[str, str]:
    """Return the modules whose running statistics cannot be recomputed, with the reason."""
    layers, found = bn_layers(model), dict[str, str]()
    for name, module in modules_of(model):
        if not _has_statistics(module) or name in layers:
            continue
        if isinstance(module, torch.jit.ScriptModule):
            found[name] = "TorchScript cannot be put in train mode layer by layer"
        elif _kind(module) is None:
            found[name] = "its statistics are not a floating-point vector"
        else:
            found[name] = "it shares its statistics with another layer, whose inputs alone they describe"
    return found


def bn_buffers(model: nn.Module, layers: Mapping[str, Norm]) -> dict[str, tuple[str, str]]:
    """Map the entries of ``model.state_dict()`` that hold statistics of ``layers`` to (layer, buffer).

    Raises:
        MismatchError: the state_dict does not contain a layer's buffers themselves.
    """
    wanted = {
        id(tensor): (name, buffer)
        for name, layer in layers.items()
        for buffer in BUFFERS
        if isinstance(tensor := getattr(layer.module, buffer, None), torch.Tensor)
    }
    state = state_dict_of(model, keep_vars=True)
    found = {name: wanted[id(tensor)] for name, tensor in state.items() if id(tensor) in wanted}
    lost = {layer for layer, _ in set(wanted.values()) - set(found.values())}
    if lost:
        names = ", ".join(sorted(lost))
        msg = (
            f"the state_dict of {kind_of(model)} does not hold the statistics of {names}, so they cannot be stored. "
            f"Give {option('model')} the module whose state_dict has them."
        )
        raise MismatchError(msg)
    return found


def _has_statistics(module: nn.Module) -> bool:
    own = {**dict(module.named_buffers(recurse=False)), **dict(module.named_parameters(recurse=False))}
    return own.get("running_mean") is not None and own.get("running_var") is not None


def _kind(module: nn.Module) -> Kind | None:
    if not _has_statistics(module) or isinstance(module, torch.jit.ScriptModule):
        return None
    if isinstance(module, BatchNorm):
        return "batch"
    if isinstance(module, InstanceNorm):
        return "instance"
    mean, variance = cast("torch.Tensor", module.running_mean), cast("torch.Tensor", module.running_var)
    one_a_channel = max(mean.shape, default=1) == mean.numel() and mean.is_contiguous() and variance.is_contiguous()
    return "custom" if one_a_channel and mean.shape == variance.shape and mean.is_floating_point() else None
