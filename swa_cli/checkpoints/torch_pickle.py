"""Reading the pickle of a torch checkpoint without running anything in it.

Of all the things that a pickle can name, only plain containers are real here. The functions that rebuild tensors give
records of where the tensor lies; passengers known to be harmless (argparse Namespaces, paths, numpy numbers and
arrays) become inert stand-ins that keep nothing; everything else does too, and its name is reported.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# The pickles' own names of the kinds of storage, and what their elements are.
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_HARMLESS_MODULES = ("numpy.dtypes",)
_HARMLESS = {
    "argparse.Namespace",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"{module}.{name}"
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("scalar", "_reconstruct")
    ),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")  # where Python 3.13 keeps them
        for name in ("PosixPath", "WindowsPath", "Path", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"torch.{name}" for name in ("device", "Tensor", "storage.TypedStorage", "serialization._get_layout")),
    *(f"torch.{module}" for module in ("nn.parameter.Parameter", "nn.parameter.Buffer", "_tensor.Tensor")),
}


@dataclass(frozen=True, kw_only=True)
class PickledStorage:
    """A storage as the pickle names it: the record ``data/<key>`` of the archive."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class PickledTensor:
    """A tensor as the pickle describes it, sizes in elements; unchecked against the archive.

    ``unsupported`` says why it cannot be read, if so ("sparse"); the other fields then mean nothing.
    """

    storage: PickledStorage | None = None
    dtype: torch.dtype = torch.uint8
    storage_offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    unsupported: str | None = None


class _Inert:
    """Stands for anything that is not to be built: takes whatever a pickle does to an object, keeps nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> "_Inert":
        return self

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...


class _InertDict(dict[Any, Any]):
    """A defaultdict or Counter without its factory."""

    def __init__(self, *_: object) -> None:
        super().__init__()


def read_pickle(data: bytes) -> tuple[object, list[str]]:
    """The object that ``data`` describes, and the names of all globals that are not known to be harmless.

    Raises:
        Exception: of any kind, when ``data`` is damaged.
    """
    reader = _Reader(io.BytesIO(data), encoding="utf-8")
    try:
        contents = reader.load()
    except Exception:
        if not reader.blocked:  # otherwise a stand-in was used as what it stands for
            raise
        contents = None
    return contents, sorted(reader.blocked)


# The one written in Python: the other one lets a damaged file allocate any amount of memory.
class _Reader(pickle._Unpickler):  # type: ignore[name-defined]  # noqa: SLF001
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.blocked: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _REAL:
            return _REAL[full]
        if module in {"torch", "torch.storage"} and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(found := getattr(torch, name, None), (torch.dtype, torch.layout)):
            return found
        if full not in _HARMLESS and module not in _HARMLESS_MODULES:
            self.blocked.add(full)
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            msg = f"unknown persistent id {kind!r}"
            raise pickle.UnpicklingError(msg)
        return PickledStorage(key=str(key), dtype=dtype)


def _tensor(storage: PickledStorage, storage_offset: int, size: Any, stride: Any, *_: object) -> PickledTensor:
    return PickledTensor(
        storage=storage,
        dtype=storage.dtype,
        storage_offset=int(storage_offset),
        shape=tuple(int(length) for length in size),
        stride=tuple(int(step) for step in stride),
    )


def _tensor_v2(
    storage: PickledStorage,
    storage_offset: int,
    size: Any,
    stride: Any,
    *hints: object,
) -> PickledTensor:
    requires_grad_hooks_metadata = 3
    if (
        len(hints) == requires_grad_hooks_metadata and hints[-1]
    ):  # a lazy conjugate or negative, whose bytes are not its values
        return PickledTensor(unsupported="a lazy conjugate or negative")
    return _tensor(storage, storage_offset, size, stride)


def _tensor_v3(
    storage: PickledStorage,
    storage_offset: int,
    size: Any,
    stride: Any,
    requires_grad: object,
    hooks: object,
    dtype: torch.dtype,
    *metadata: object,
) -> PickledTensor:
    typed = PickledStorage(key=storage.key, dtype=dtype)
    return _tensor_v2(typed, storage_offset, size, stride, requires_grad, hooks, *metadata)


def _from_type(rebuild: Callable[..., Any], kind: object, args: tuple[Any, ...], state: object) -> Any:
    del kind, state
    return rebuild(*args)


def _parameter(data: Any, *_: object) -> Any:
    return data


def _unsupported(why: str) -> Callable[..., PickledTensor]:
    return lambda *_, **__: PickledTensor(unsupported=why)


_REAL: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _InertDict,
    "collections.Counter": _InertDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.int": int,
    "builtins.float": float,
    "builtins.str": str,
    "builtins.bool": bool,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_sparse_tensor": _unsupported("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _unsupported("sparse"),
    "torch._utils._rebuild_nested_tensor": _unsupported("nested"),
    "torch._utils._rebuild_qtensor": _unsupported("quantized"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unsupported("on the meta device, without data"),
    "torch._utils._rebuild_wrapper_subclass": _unsupported("of a tensor subclass"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unsupported("of a device that stores numpy arrays"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
}
