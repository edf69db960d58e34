"""Building the user's model and loading a checkpoint's weights into it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from swa_cli.errors import MismatchError, UserCodeError, kind_of, listed, option, shortened
from swa_cli.formats import Checkpoint, is_averaged, strip_wrappers
from swa_cli.user.guard import user_code
from swa_cli.user.import_object import call_target
from swa_cli.user.modules import state_dict_of

_LITTLE = 0.01
"""Floating-point values beside the model, as a share of the model's, up to which they are taken for a loss's weights
or metric states and not for another network."""
_STATISTICS = {"running_mean", "running_var"}


def build_model(target: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call the class or function that ``target`` names and check that it returns an ``nn.Module``.

    Raises:
        UserCodeError: ``target`` cannot be imported or called, or returns something else.
    """
    model = call_target(target, arguments, what="model")
    if isinstance(model, torch.jit.ScriptModule):
        msg = f"model {target!r} returned a TorchScript module, expected the torch.nn.Module that it was made from."
        raise UserCodeError(msg)
    if not isinstance(model, nn.Module):
        msg = f"model {target!r} returned a {kind_of(model)}, expected a torch.nn.Module."
        raise UserCodeError(msg)
    unreal = next((name for name, value in state_dict_of(model).items() if _is_meta(value)), None)
    if unreal is not None:
        msg = (
            f"model {target!r} returned a {kind_of(model)} on the meta device ({unreal}), where tensors have no "
            "values. Build it on the CPU, without torch.device('meta'), set_default_device('meta') or "
            "init_empty_weights."
        )
        raise UserCodeError(msg)
    return model


def state_dict_for(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Any]:
    """Read ``checkpoint`` as a state_dict of ``model``: the model's names, shapes and dtypes, on the CPU.

    A tied tensor that the file stores under another of its names is taken from there (safetensors keeps one name).
    Entries that are not tensors (``_extra_state``) are included if the file has them.

    Raises:
        MismatchError: names are missing or unexpected, or shapes differ; the message lists each.
    """
    state = state_dict_of(model, keep_vars=True)
    names, beside = _matched(state, checkpoint)
    expected = {name: value for name, own in names.items() if isinstance(value := state[own], torch.Tensor)}
    sources = {name: _stored_name(name, expected, checkpoint) for name in expected}
    missing = [name for name, stored in sources.items() if stored is None]
    unexpected = [name for name in checkpoint.tensors if name not in names and name not in beside]
    reshaped = [
        f"{name}: the model has {list(expected[name].shape)}, the file {list(checkpoint.spec(stored).shape)}"
        for name, stored in sources.items()
        if stored is not None and not _fits(expected[name], checkpoint.spec(stored).shape)
    ]
    if missing or unexpected or reshaped:
        raise MismatchError(*_explain(checkpoint, model, missing, unexpected, reshaped))
    tensors = {
        names[name]: checkpoint.get_tensor(stored).to(expected[name].dtype)
        for name, stored in sources.items()
        if stored is not None
    }
    return tensors | {names[name]: value for name, value in checkpoint.extra.items() if name in names}


def own_names(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """Map the names in ``checkpoint``, without wrapper prefixes, to those of ``model.state_dict()``.

    They differ if the model is compiled or wrapped, or if all names of the file or of the model start with a prefix
    that the other lacks (Lightning's ``model.``). The file may also hold a few values that belong to no network: the
    weights of a loss, the states of metrics.
    """
    return _matched(state_dict_of(model, keep_vars=True), checkpoint)[0]


def prefix_note(model: nn.Module, checkpoint: Checkpoint) -> str | None:
    """Return a note if the names of the file and of the model differ by a prefix, else None."""
    state = state_dict_of(model, keep_vars=True)
    plain = strip_wrappers({name: name for name in state})
    names, beside = _matched(state, checkpoint)
    if names == plain:
        return None
    of_model = (name for name in checkpoint.tensors if name not in beside)
    theirs, ours = (f"{prefix!r}" if prefix else "no prefix" for prefix in map(_common_prefix, (of_model, plain)))
    which = f"all names in {checkpoint.path} but {shortened(beside)}" if beside else f"all names in {checkpoint.path}"
    left = " The other tensors of the file do not belong to that model." if beside else ""
    return (
        f"{which} start with {theirs}, those of the model {kind_of(model)} with {ours}: they are matched without it."
        f"{left}"
    )


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the tensors of ``checkpoint`` into ``model``, in place.

    Raises:
        MismatchError: as `state_dict_for`.
    """
    state = state_dict_for(model, checkpoint)
    with user_code(f"loading {checkpoint.path} into the model {kind_of(model)}"):
        loaded = model.load_state_dict(state, strict=False)  # checked above; other entries keep their values
    unknown = list(getattr(loaded, "unexpected_keys", ()))
    if unknown:
        msg = (
            f"load_state_dict() of the model {kind_of(model)} does not accept the names that its state_dict() returns "
            f"({shortened(unknown)}), so its weights would keep their initial values. Make load_state_dict() accept "
            "them."
        )
        raise MismatchError(msg)


def materialise(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give lazy modules (nn.LazyLinear) the shapes in ``checkpoint``, so that the model can be copied.

    Raises:
        MismatchError: as `state_dict_for`.
    """
    if any(is_lazy(value) for value in state_dict_of(model, keep_vars=True).values()):
        load_checkpoint(model, checkpoint)


def _is_meta(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta and not is_lazy(value)


def _matched(state: Mapping[str, object], checkpoint: Checkpoint) -> tuple[dict[str, str], tuple[str, ...]]:
    """Map the file's names to the model's, and list the names in the file that are not the model's."""
    names = strip_wrappers({name: name for name in state})
    if any(name in names for name in checkpoint.tensors):
        return names, ()
    ours, theirs = _common_prefix(names), _common_prefix(checkpoint.tensors)
    renamed = {theirs + name.removeprefix(ours): own for name, own in names.items()}
    if renamed.keys() >= checkpoint.tensors.keys():
        return renamed, ()
    prefix = _prefix_of_most([name for name, own in names.items() if isinstance(state[own], torch.Tensor)], checkpoint)
    if prefix is None:
        return names, ()
    renamed = {prefix + name: own for name, own in names.items()}
    return renamed, tuple(name for name in checkpoint.tensors if name not in renamed)


def _prefix_of_most(names: Sequence[str], checkpoint: Checkpoint) -> str | None:
    """Return the prefix under which the file has exactly these names, if its other tensors are no second network.

    They are not if they are few numbers and no running statistics.
    """
    sizes = {name: spec.numel for name in checkpoint.tensors if is_averaged((spec := checkpoint.spec(name)).dtype)}
    total = sum(sizes.values())
    ends = f".{names[0]}" if names else ""
    for prefix in [name[: 1 - len(ends)] for name in checkpoint.tensors if ends and name.endswith(ends)]:
        ours = {prefix + name for name in names}
        if ours <= checkpoint.tensors.keys() and total <= (1 + _LITTLE) * sum(sizes.get(name, 0) for name in ours):
            beside = checkpoint.tensors.keys() - ours
            if not any(name.startswith(prefix) or name.rpartition(".")[2] in _STATISTICS for name in beside):
                return prefix
    return None


def _common_prefix(names: Iterable[str]) -> str:
    """Return the dotted prefix that all of the names share, the last dot included."""
    common = os.path.commonprefix(list(names))  # noqa: RUF071  # cut to whole parts below
    return common[: common.rfind(".") + 1]


def _stored_name(name: str, expected: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> str | None:
    if name in checkpoint.tensors:
        return name
    tied = (other for other, tensor in expected.items() if tensor is expected[name] and other in checkpoint.tensors)
    return next(tied, None)


def _fits(tensor: torch.Tensor, shape: tuple[int, ...]) -> bool:
    lazy = is_lazy(cast("Any", tensor))  # takes the shape of the tensor that is loaded
    return lazy or tuple(tensor.shape) == shape


def _explain(
    checkpoint: Checkpoint, model: nn.Module, missing: list[str], unexpected: list[str], reshaped: list[str]
) -> list[str]:
    lines = [f"{checkpoint.path} does not fit the model {kind_of(model)}."]
    for names, title in (
        (missing, "missing from the file"),
        (unexpected, "unexpected in the file"),
        (reshaped, "of another shape"),
    ):
        if names:
            lines += [f"{len(names)} {title}:", *listed(names)]
    return [*lines, f"Check {option('model')} and {option('model.init_args')}: build the model as in the training run."]
