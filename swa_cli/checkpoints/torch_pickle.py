"""Reading the pickle of a torch checkpoint without running anything in it.

Of all the things that a pickle can name, only plain containers are real here. The functions that rebuild tensors give
records of where the tensor lies; passengers known to be harmless (argparse Namespaces, paths, numpy numbers and
arrays) become inert stand-ins that keep nothing; everything else does too, and its name is reported.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, cast

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
_NUMPY = ("scalar", "_reconstruct")
_PATHS = ("PosixPath", "WindowsPath", "Path", "PurePath", "PurePosixPath", "PureWindowsPath")
_HARMLESS_MODULES = ("numpy.dtypes", "torch.sparse", "torch.cuda.sparse")
_HARMLESS = {
    "argparse.Namespace",
    "_codecs.encode",
    *(
        f"builtins.{name}"
        for name in (
            *("set", "frozenset", "complex", "bytearray", "slice", "range"),
            *("dict", "list", "tuple", "int", "float", "str", "bool", "bytes"),
        )
    ),
    *(f"numpy.{name}" for name in ("dtype", "ndarray")),
    *(f"{module}.{name}" for module in ("numpy.core.multiarray", "numpy._core.multiarray") for name in _NUMPY),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),  # Python 3.13 has the latter
    *(f"torch.{name}" for name in ("device", "Tensor", "storage.TypedStorage", "serialization._get_layout")),
    *(f"torch.{module}" for module in ("nn.parameter.Parameter", "nn.parameter.Buffer", "_tensor.Tensor")),
    *(f"torch.{name}Storage" for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")),
    *(f"{module}.{name.removesuffix('Storage')}Tensor" for module in ("torch", "torch.cuda") for name in _STORAGES),
    "torch.torch_version.TorchVersion",
}
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # in the protocol that torch.save writes
_KEYS = (str, int, float, bytes, type(None))
_LONGEST_NAME = 200


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

    def __repr__(self) -> str:
        return "(not read)"

    def __setitem__(self, key: object, value: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> "_Inert":
        return self

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...


def read_pickle(data: bytes) -> tuple[object, list[str]]:
    """The object that ``data`` describes, and the names of all globals that are not known to be harmless.

    Raises:
        Exception: of any kind, when ``data`` is damaged.
    """
    reader = _Reader(data)
    try:
        contents = reader.load()
    except Exception:
        if not reader.blocked:  # otherwise a stand-in was used as what it stands for
            raise
        contents = None
    return contents, sorted(reader.blocked)


if TYPE_CHECKING:

    class _Unpickler:
        """What `_Reader` uses of ``pickle._Unpickler``."""

        stack: list[Any]
        append: Callable[[object], None]
        dispatch: ClassVar[dict[int, Callable[..., None]]]

        def __init__(self, file: BinaryIO, *, encoding: str) -> None: ...
        def load(self) -> object: ...
        def read(self, size: int) -> bytes: ...
        def pop_mark(self) -> list[Any]: ...
else:
    # The one written in Python: in the other the steps below cannot be replaced, and a damaged file can make its memo
    # grow to any size.
    _Unpickler = pickle._Unpickler  # noqa: SLF001


class _Reader(_Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.blocked: set[str] = set()
        self.size = len(data)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{_RENAMED.get(module, module)}.{name}"
        if full in _REAL:
            return _REAL[full]
        if module in {"torch", "torch.storage", "torch.cuda"} and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch":
            found = getattr(torch, name, None)
            if isinstance(found, (torch.dtype, torch.layout, torch.qscheme, torch.memory_format)):
                return found
        if full not in _HARMLESS and module not in _HARMLESS_MODULES:
            self.blocked.add(full[:_LONGEST_NAME])
        return _Inert

    def persistent_load(self, pid: Any) -> PickledStorage:
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(key, str):
            msg = "unknown persistent id"
            raise pickle.UnpicklingError(msg)
        return PickledStorage(key=key, dtype=dtype if isinstance(dtype, torch.dtype) else torch.uint8)

    def _set(self, target: Any, key: object, value: object) -> None:
        """Put an entry in a dict; a key whose hash could take for ever (tuples of tuples) becomes a stand-in."""
        parts = cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)
        target[key if all(isinstance(part, _KEYS) for part in parts) else _Inert()] = value

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(self.stack[-1], key, value)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(self.stack[-1], key, value)

    def load_set(self) -> None:
        self.append(_Inert())

    def load_additems(self) -> None:
        self.pop_mark()

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(_Inert())

    def load_build(self) -> None:
        self.stack.pop()  # no object here has a state

    def load_bytearray(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        if length > self.size:
            msg = "a bytearray longer than the file"
            raise pickle.UnpicklingError(msg)
        self.read(length)
        self.append(_Inert())

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **_Unpickler.dispatch,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.EMPTY_SET[0]: load_set,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray,
    }


def _empty_dict(*_: object) -> dict[Any, Any]:
    """An OrderedDict, Counter or defaultdict; its entries follow in the pickle."""
    return {}


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
    **{f"collections.{name}": _empty_dict for name in ("OrderedDict", "defaultdict", "Counter")},
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
