"""The functions that torch's pickles call, as far as they have a meaning here; each refuses what torch refuses.

A tensor becomes a record of where it lies. Whatever would make it differ from what its bytes say is refused too:
another dtype than its own, a state that sets its data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NoReturn, cast

import numpy as np

from swa_cli.errors import kind_of
from swa_cli.formats.dtypes import BY_NAME, Dtype, is_floating
from swa_cli.formats.torch.inert_objects import Inert, MadeDict, as_key, new_set, refuse

MOST_DIMENSIONS = 64
"""As many as torch and numpy know."""
_LARGEST = 1 << 62
_MOST_ARGUMENTS = 8
_SETS_VALUES = frozenset({"data", "grad", "names", "requires_grad", "real", "imag", "retains_grad"})
"""Attributes of a tensor that are more than attributes; those of an underscore are refused too."""


@dataclass(slots=True)
class PickledStorage:
    """A storage as the pickle names it: ``start`` is the byte of it at which a view (of old files) begins.

    ``numel`` counts its elements, or those of the view.
    """

    key: str
    dtype: Dtype
    start: int = 0
    numel: int = 0


@dataclass(slots=True)
class PickledTensor:
    """A tensor as the pickle describes it, within its storage, sizes in elements.

    ``unsupported`` says why it cannot be read, if so ("sparse"); the other fields then mean nothing.
    """

    storage: PickledStorage | None = None
    dtype: Dtype = BY_NAME["uint8"]
    storage_offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    unsupported: str | None = None


def ordered_dict(entries: object = None) -> MadeDict:
    """An OrderedDict: what it is made of is copied; Python 2 wrote it as a list of pairs."""
    made = MadeDict()
    if entries is None:
        return made
    if isinstance(entries, dict):
        made.update(cast("dict[Any, Any]", entries))
    elif type(entries) is list:
        for pair in cast("list[Any]", entries):
            if type(pair) not in {list, tuple}:
                refuse(f"a {kind_of(pair)} as the pair of an OrderedDict")
            key, value = pair
            made[as_key(key)] = value
    else:
        refuse(f"an OrderedDict of a {kind_of(entries)}")
    return made


def counter(entries: object = None) -> MadeDict:
    """A Counter of what was counted; of anything else it would count."""
    if entries is not None and not isinstance(entries, dict):
        refuse(f"a Counter of a {kind_of(entries)}")
    return MadeDict(cast("dict[Any, Any]", entries or {}))


def default_dict(_factory: object = None) -> MadeDict:
    """A defaultdict; its entries follow in the pickle."""
    return MadeDict()


def size(lengths: object = ()) -> tuple[int, ...]:
    """A ``torch.Size``."""
    if type(lengths) not in {tuple, list} or {*map(type, cast("list[object]", lengths))} - {int}:
        refuse("a torch.Size of what are no numbers")
    return tuple(cast("list[int]", lengths))


def set_(elements: object = None) -> Inert:
    """A set, as protocol 2 writes it."""
    if type(elements) not in {list, tuple, type(None)}:
        refuse(f"a set of a {kind_of(elements)}")
    return new_set([*cast("list[object]", elements or ())])


def encode(text: object, encoding: object) -> Inert:
    """Bytes, as protocol 2 writes them."""
    if type(text) is not str or encoding not in {"latin1", "latin-1"}:
        refuse("bytes that are encoded in an unknown way")
    text.encode("latin-1")
    return Inert("_codecs", "encode", (text, encoding), is_made=True)


def device(kind: object, index: object = 0) -> Inert:
    """A ``torch.device``."""
    if type(kind) is not str or type(index) is not int:
        refuse("a device without a name")
    return Inert("torch", "device", (kind, index), is_made=True)


def tensor_v2(
    storage: object,
    storage_offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    metadata: object = None,
) -> PickledTensor:
    """What ``_rebuild_tensor_v2`` makes."""
    tensor = tensor_v1(storage, storage_offset, size, stride)
    if requires_grad is not False or type(hooks) is not MadeDict:
        _check_grad(tensor, requires_grad, hooks)
    return _with_metadata(metadata) if metadata else tensor


def tensor_v1(storage: object, storage_offset: object, size: object, stride: object) -> PickledTensor:
    """What ``_rebuild_tensor`` makes."""
    if type(storage) is not PickledStorage:
        return _of_unknown_storage(storage)
    return _within(storage, storage.dtype, storage_offset, size, stride)


def tensor_v3(
    storage: object,
    storage_offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> PickledTensor:
    """What ``_rebuild_tensor_v3`` makes."""
    if not isinstance(dtype, np.dtype):
        if type(dtype) is not Inert or dtype.is_made:
            refuse("a tensor without a dtype")
        return PickledTensor(unsupported=f"of dtype {dtype.name}")
    if type(storage) is not PickledStorage:
        return _of_unknown_storage(storage)
    tensor = _within(storage, cast("Dtype", dtype), storage_offset, size, stride)
    _check_grad(tensor, requires_grad, hooks)
    return _with_metadata(metadata) if metadata else tensor


def parameter(data: object, requires_grad: object, hooks: object) -> PickledTensor:
    """What ``_rebuild_parameter`` makes."""
    tensor = _tensor(data)
    _check_grad(tensor, requires_grad, hooks)
    return tensor


def parameter_with_state(data: object, requires_grad: object, hooks: object, state: object) -> PickledTensor:
    """What ``_rebuild_parameter_with_state`` makes."""
    _check_state(state)
    return parameter(data, requires_grad, hooks)


def device_tensor(data: object, dtype: object, _device: object, requires_grad: object) -> PickledTensor:
    """What ``_rebuild_device_tensor_from_cpu_tensor`` makes."""
    tensor = _tensor(data)
    if tensor.unsupported is None and dtype != tensor.dtype:
        refuse("a tensor that is to be converted")
    _check_grad(tensor, requires_grad, None)
    return tensor


def from_type_v2(rebuild: object, kind: object, args: Any, state: object) -> PickledTensor:
    """What ``_rebuild_from_type_v2`` makes: a tensor of a subclass, or with attributes."""
    _check_state(state)
    return from_type(rebuild, kind, args, state)


def from_type(rebuild: object, kind: object, args: Any, _state: object) -> PickledTensor:
    """What ``_rebuild_from_type`` makes."""
    few = type(args) is tuple and len(cast("tuple[Any, ...]", args)) <= _MOST_ARGUMENTS
    if not few or rebuild not in REBUILD.values():
        return PickledTensor(unsupported="of a tensor subclass")
    if kind not in {old_tensor, old_parameter} and (type(kind) is not Inert or kind.is_made):
        refuse(f"a tensor whose class is a {kind_of(kind)}")
    return _tensor(cast("Callable[..., object]", rebuild)(*args))


def old_tensor(*_: object) -> NoReturn:
    """A tensor made by its class, as before torch 0.4."""
    refuse("a tensor made by its class, as before torch 0.4")


def old_parameter(*_: object) -> NoReturn:
    """A parameter made by its class."""
    refuse("a parameter made by its class")


def _with_metadata(metadata: object) -> PickledTensor:
    if not isinstance(metadata, dict):
        refuse(f"a tensor whose metadata are a {kind_of(metadata)}")
    return PickledTensor(unsupported="a lazy conjugate or negative")  # its bytes are not its values


def _unsupported(why: str) -> Callable[..., PickledTensor]:
    def rebuild(*_: object) -> PickledTensor:
        return PickledTensor(unsupported=why)

    return rebuild


def _of_unknown_storage(storage: object) -> PickledTensor:
    if type(storage) is not Inert:
        refuse(f"a tensor whose storage is a {kind_of(storage)}")
    return PickledTensor(unsupported="in a storage of an unknown kind")


def _tensor(value: object) -> PickledTensor:
    return value if type(value) is PickledTensor else refuse(f"a {kind_of(value)} in place of a tensor")


def _within(storage: PickledStorage, dtype: Dtype, offset: object, shape: Any, stride: Any) -> PickledTensor:
    """The tensor, once it is known to lie within its storage."""
    if type(shape) is not tuple or type(stride) is not tuple or type(offset) is not int or offset < 0:
        refuse("a tensor with an impossible shape, stride or offset")
    sizes, steps = cast("tuple[Any, ...]", shape), cast("tuple[Any, ...]", stride)
    if len(sizes) > MOST_DIMENSIONS or not _ALL_INTEGERS.issuperset(map(type, sizes + steps)):
        refuse("a tensor with an impossible shape or stride")
    span = _span(sizes, steps)
    here = storage.numel * storage.dtype.itemsize
    if span < 0 or offset >= _LARGEST:
        refuse("a tensor with an impossible shape or stride")
    if span and (offset + span) * dtype.itemsize > here:
        refuse(
            f"a tensor reaches beyond its storage: expected {(offset + span) * dtype.itemsize:,} bytes, found {here:,}"
        )
    return PickledTensor(storage, dtype, offset, sizes, steps)


_ALL_INTEGERS = frozenset({int})


@lru_cache(maxsize=4096)
def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last, both included; −1 if no tensor has such a shape."""
    if len(shape) != len(stride) or min((*shape, *stride), default=0) < 0:
        return -1
    if max((*shape, *stride), default=0) >= _LARGEST or prod(size or 1 for size in shape) >= _LARGEST:
        return -1
    return 0 if 0 in shape else 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _check_grad(tensor: PickledTensor, requires_grad: object, hooks: object) -> None:
    if type(requires_grad) is not bool or not (hooks is None or isinstance(hooks, dict)):
        refuse("a tensor with an impossible gradient or hooks")
    if requires_grad and tensor.unsupported is None and not (is_floating(tensor.dtype) or tensor.dtype.kind == "c"):
        refuse(f"a tensor of dtype {tensor.dtype.name} that requires a gradient")


def _check_state(state: Any) -> None:
    """Whether the attributes of a tensor are no more than that."""
    parts = cast("tuple[Any, ...]", state if type(state) is tuple else (state, None))
    if len(parts) != 2:  # noqa: PLR2004  # the attributes in __dict__, those in slots
        refuse("a tensor with an impossible state")
    for part in parts:
        if part is None or part == ():
            continue
        if not isinstance(part, dict):
            refuse(f"a tensor whose state is a {kind_of(part)}")
        for name in cast("Mapping[Any, Any]", part):
            if type(name) is not str or name in _SETS_VALUES or name.startswith("__") or name in _HOOKS:
                refuse(f"a tensor whose state sets {name!r:.100}")


_HOOKS = frozenset({"_grad", "_backward_hooks", "_post_accumulate_grad_hooks"})

REBUILD: dict[str, Callable[..., object]] = {
    "_rebuild_tensor": tensor_v1,
    "_rebuild_tensor_v2": tensor_v2,
    "_rebuild_tensor_v3": tensor_v3,
    "_rebuild_parameter": parameter,
    "_rebuild_parameter_with_state": parameter_with_state,
    "_rebuild_device_tensor_from_cpu_tensor": device_tensor,
    "_rebuild_sparse_tensor": _unsupported("sparse"),
    "_rebuild_sparse_csr_tensor": _unsupported("sparse"),
    "_rebuild_nested_tensor": _unsupported("nested"),
    "_rebuild_qtensor": _unsupported("quantized"),
    "_rebuild_meta_tensor_no_storage": _unsupported("on the meta device, without data"),
    "_rebuild_wrapper_subclass": _unsupported("of a tensor subclass"),
    "_rebuild_device_tensor_from_numpy": _unsupported("of a device that stores numpy arrays"),
    "_rebuild_xla_tensor": _unsupported("of a device that stores numpy arrays"),
}
