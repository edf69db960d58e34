"""What the pickle of a torch checkpoint means: tensors become records of where they lie, and nothing is run.

Plain containers and the functions that rebuild tensors have a meaning here; every other global stays the inert record
that `swa_cli.checkpoints.pickle_machine` makes of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from swa_cli.checkpoints.dtypes import BY_NAME, Dtype
from swa_cli.checkpoints.inert import Inert, as_key
from swa_cli.checkpoints.pickle_machine import run

# The pickles' own names of the kinds of storage, and what their elements are.
STORAGES = {
    f"{name}Storage": BY_NAME[dtype]
    for name, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "ComplexDouble": "complex128",
        "ComplexFloat": "complex64",
        "Bool": "bool",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Untyped": "uint8",
    }.items()
}
_MOST_ARGUMENTS = 8
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # in the protocol that torch.save writes


@dataclass(slots=True)
class PickledStorage:
    """A storage as the pickle names it; ``start`` is the byte of it at which a view (of old files) begins."""

    key: str
    dtype: Dtype
    start: Any = 0


@dataclass(slots=True)
class PickledTensor:
    """A tensor as the pickle describes it, sizes in elements; unchecked, against the file and in itself.

    ``unsupported`` says why it cannot be read, if so ("sparse"); the other fields then mean nothing.
    """

    storage: PickledStorage | None = None
    dtype: Dtype = BY_NAME["uint8"]
    storage_offset: Any = 0
    shape: Any = ()
    stride: Any = ()
    unsupported: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pickled:
    """What a pickle holds, the storages it names (by key, each as it is named first), and the byte where it ends."""

    contents: Any
    storages: Mapping[str, PickledStorage]
    end: int


@dataclass(frozen=True, kw_only=True)
class TorchFile:
    """What a torch file holds: its contents, the pickle that describes them, and where it keeps storages.

    ``place`` tells a storage's first byte in the file and its size.
    """

    contents: Any
    pickle: bytes
    """Begins at ``start`` of these bytes."""
    start: int
    place: Callable[[PickledStorage], tuple[int, int]]
    metadata: Mapping[str, str]
    """What swa-cli says of a file that it wrote."""


def read_pickle(data: bytes, start: int = 0) -> Pickled:
    """Read the pickle that begins at ``start``.

    Raises:
        EOFError: ``data`` ends before the pickle does.
        Exception: of any other kind, when ``data`` is damaged.
    """
    storages: dict[str, PickledStorage] = {}

    def find_persistent(pid: Any) -> object:
        if type(pid) is not tuple or not 2 <= len(cast("tuple[Any, ...]", pid)) <= _MOST_ARGUMENTS:  # noqa: PLR2004
            return Inert("torch", "an unknown persistent id")
        kind, what, *rest = cast("tuple[Any, ...]", pid)
        if kind == "module":  # a class and its source
            return what
        if kind != "storage" or not isinstance(what, np.dtype) or not rest or type(rest[0]) is not str:
            return Inert("torch", "a storage of an unknown kind")
        key, view = rest[0], rest[3] if len(rest) > 3 else None  # noqa: PLR2004  # the key, where it was, its size
        storage = PickledStorage(key, cast("Dtype", what), 0 if view is None else view[1] * what.itemsize)
        storages.setdefault(key, storage)
        return storage

    contents, end = run(data, start, _find_global, find_persistent)
    return Pickled(contents=contents, storages=storages, end=end)


def _find_global(module: str, name: str) -> object:
    module = _RENAMED.get(module, module)
    found = _KNOWN.get((module, name))
    return Inert(module, name) if found is None else found


def _dict(entries: object = None) -> dict[Any, Any]:
    """An OrderedDict, Counter or defaultdict; its entries follow in the pickle, or stand in ``entries``."""
    if type(entries) is dict:
        return cast("dict[Any, Any]", entries)
    filled: dict[Any, Any] = {}
    if type(entries) is list:  # the pairs of an OrderedDict that Python 2 wrote
        pairs = cast("list[Any]", entries)
        for key, value in pairs:
            filled[as_key(key)] = value
        pairs.clear()  # nobody else holds the list; a forged pickle would have it copied any number of times
    return filled


def _size(lengths: object = ()) -> object:
    return lengths


def _tensor_v2(
    storage: object,
    storage_offset: object,
    size: object,
    stride: object,
    _requires_grad: object = None,
    _hooks: object = None,
    metadata: object = None,
) -> PickledTensor:
    if metadata:  # its bytes are not its values
        return PickledTensor(unsupported="a lazy conjugate or negative")
    if type(storage) is not PickledStorage:
        return PickledTensor(unsupported="in a storage of an unknown kind")
    return PickledTensor(storage, storage.dtype, storage_offset, size, stride)


def _tensor_v3(
    storage: object,
    storage_offset: object,
    size: object,
    stride: object,
    _requires_grad: object,
    _hooks: object,
    dtype: object,
    metadata: object = None,
) -> PickledTensor:
    tensor = _tensor_v2(storage, storage_offset, size, stride, metadata=metadata)
    if not isinstance(dtype, np.dtype):
        name = dtype.name if type(dtype) is Inert else "unknown"
        return PickledTensor(unsupported=f"of dtype {name}")
    tensor.dtype = dtype
    return tensor


def _parameter(data: object, _requires_grad: object = None, _hooks: object = None, _state: object = None) -> object:
    return data


def _from_type(rebuild: object, _kind: object, args: Any, _state: object = None) -> object:
    few = type(args) is tuple and len(cast("tuple[Any, ...]", args)) <= _MOST_ARGUMENTS
    if not few or rebuild not in _REBUILD.values():
        return PickledTensor(unsupported="of a tensor subclass")
    return cast("Callable[..., object]", rebuild)(*args)


def _unsupported(why: str) -> Callable[..., PickledTensor]:
    def rebuild(*_: object) -> PickledTensor:
        return PickledTensor(unsupported=why)

    return rebuild


_REBUILD: dict[str, Callable[..., object]] = {
    "_rebuild_tensor": _tensor_v2,  # without the last three arguments
    "_rebuild_tensor_v2": _tensor_v2,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_device_tensor_from_cpu_tensor": _parameter,
    "_rebuild_sparse_tensor": _unsupported("sparse"),
    "_rebuild_sparse_csr_tensor": _unsupported("sparse"),
    "_rebuild_nested_tensor": _unsupported("nested"),
    "_rebuild_qtensor": _unsupported("quantized"),
    "_rebuild_meta_tensor_no_storage": _unsupported("on the meta device, without data"),
    "_rebuild_wrapper_subclass": _unsupported("of a tensor subclass"),
    "_rebuild_device_tensor_from_numpy": _unsupported("of a device that stores numpy arrays"),
    "_rebuild_xla_tensor": _unsupported("of a device that stores numpy arrays"),
}
_KNOWN: dict[tuple[str, str], object] = {
    **{("collections", name): _dict for name in ("OrderedDict", "defaultdict", "Counter")},
    ("torch", "Size"): _size,
    **{("torch._utils", name): function for name, function in _REBUILD.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch._tensor", "_rebuild_from_type"): _from_type,
    **{(module, name): kind for module in ("torch", "torch.storage", "torch.cuda") for name, kind in STORAGES.items()},
    **{("torch", name): dtype for name, dtype in BY_NAME.items()},
}
