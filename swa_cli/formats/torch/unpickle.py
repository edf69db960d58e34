"""What the pickle of a torch checkpoint means: tensors become records of where they lie, and nothing is run.

Plain containers and the functions that rebuild tensors have a meaning here (`swa_cli.formats.torch.rebuild`); every
other global stays the inert record that `swa_cli.formats.torch.pickle_vm` makes of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from swa_cli.formats.dtypes import BY_NAME, Dtype
from swa_cli.formats.torch import rebuild
from swa_cli.formats.torch.inert_objects import Inert, refuse
from swa_cli.formats.torch.pickle_vm import NotKeptError, run
from swa_cli.formats.torch.rebuild import REBUILD, PickledStorage
from swa_cli.formats.torch.tensor_runs import TensorRuns

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
_OLD_TENSORS = tuple(name.replace("Storage", "Tensor") for name in STORAGES if name != "UntypedStorage")
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # in the protocol that torch.save writes
_LARGEST = 1 << 62


class StorageKind(NamedTuple):
    """A class of storages."""

    name: str
    dtype: Dtype


@dataclass(frozen=True, kw_only=True)
class Pickled:
    """What a pickle holds, the storages it names (by key), and the byte where it ends."""

    contents: Any
    storages: Mapping[str, PickledStorage]
    end: int


@dataclass(frozen=True, kw_only=True)
class TorchFile:
    """What a torch file holds: its contents, the pickle that describes them, and where it keeps storages.

    ``place`` gives a storage's first byte in the file and its size.
    """

    contents: Any
    pickle: bytes
    """Begins at ``start`` of these bytes."""
    start: int
    place: Callable[[PickledStorage], tuple[int, int]]
    metadata: Mapping[str, str]
    """What swa-cli says of a file that it wrote."""
    layout: object = None
    """The same object for files whose storages lie at the same places; None where that is not known."""
    storages: Mapping[str, PickledStorage]
    """All that the pickle names, by key."""
    check_storages: Callable[[], None]
    """Raises CheckpointError for any storage that the pickle names and the file does not hold whole, read or not."""


def read_pickle(data: bytes, start: int = 0, *, legacy: bool = False, in_runs: bool = True) -> Pickled:
    """Read the pickle that begins at ``start``.

    Args:
        legacy: it is one of the format from before torch 1.6, which names storages in another way.
        in_runs: read many tensors at once where they are written as torch writes them; the result is the same.

    Raises:
        EOFError: ``data`` ends before the pickle does.
        Exception: of any other kind, when ``data`` is damaged.
    """
    storages: dict[str, PickledStorage] = {}
    views: dict[object, PickledStorage] = {}

    def find_persistent(pid: Any) -> object:
        if type(pid) is not tuple or not pid:
            refuse("a persistent id that torch does not write")
        parts = cast("tuple[Any, ...]", pid)
        if legacy and parts[0] == "module" and len(parts) == 4:  # noqa: PLR2004  # a class, its file and its source
            return parts[1]
        if parts[0] != "storage" or len(parts) != (6 if legacy else 5):
            refuse("a persistent id that torch does not write")
        _, what, key, location, numel = parts[:5]
        _check_storage(key, location, numel)
        if type(what) is not StorageKind:
            return _unknown_kind(what)
        if legacy and what.name == "UntypedStorage":
            refuse("torch itself cannot read a storage without a type in a file of this format")
        storage = PickledStorage(key, what.dtype, 0, numel)
        first = storages.setdefault(key, storage)
        if first is not storage and first != storage:
            if numel or first.numel:  # empty ones of several types may have one key
                refuse(f"storage {key!r:.100} is named as two different ones")
            return storage
        return _view(first, parts[5], storages, views) if legacy and parts[5] is not None else first

    runs = TensorRuns(storages, find_persistent)
    try:
        contents, end = run(data, start, _find_global, find_persistent, runs.take if in_runs else None)
    except NotKeptError:
        if not in_runs:
            raise
        return read_pickle(data, start, legacy=legacy, in_runs=False)
    runs.keep()
    return Pickled(contents=contents, storages=storages, end=end)


def _check_storage(key: object, location: object, numel: object) -> None:
    if type(key) is not str or type(location) is not str or location == "meta":
        refuse("a storage without a key or a place")
    if type(numel) is not int or not 0 <= numel < _LARGEST:
        refuse(f"storage {key!r:.100} has an impossible size")


def _unknown_kind(what: object) -> Inert:
    if type(what) is not Inert or what.is_made or not what.name.endswith("Storage"):
        refuse("a storage of what is no kind of storage")
    return Inert("torch", "a storage of an unknown kind", is_made=True)


def _view(
    root: PickledStorage, view: Any, storages: Mapping[str, PickledStorage], views: dict[object, PickledStorage]
) -> PickledStorage:
    """Part of a storage, as files from before torch 0.4 name it: by a key of its own, the first element, how many."""
    key, first, numel = view
    if (key, first, numel) == (root.key, 0, root.numel):  # the whole of it
        return root
    if type(key) is not str or key in storages or type(first) is not int or type(numel) is not int:
        refuse("a view of something that is no storage")
    if first < 0 or numel < 0 or first + numel > root.numel:
        refuse("a view reaches beyond its storage")
    made = PickledStorage(root.key, root.dtype, first * root.dtype.itemsize, numel)
    if views.setdefault(key, made) != made:
        refuse("a view of a storage is named as two different ones")
    return views[key]


def _find_global(module: str, name: str) -> object:
    module = _RENAMED.get(module, module)
    found = _KNOWN.get((module, name))
    return Inert(module, name) if found is None else found


_KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): rebuild.ordered_dict,
    ("collections", "Counter"): rebuild.counter,
    ("collections", "defaultdict"): rebuild.default_dict,
    ("builtins", "set"): rebuild.set_,
    ("_codecs", "encode"): rebuild.encode,
    ("torch", "Size"): rebuild.size,
    ("torch", "device"): rebuild.device,
    ("torch", "Tensor"): rebuild.old_tensor,
    ("torch.nn.parameter", "Parameter"): rebuild.old_parameter,
    **{("torch._utils", name): function for name, function in REBUILD.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): rebuild.from_type_v2,
    ("torch._tensor", "_rebuild_from_type"): rebuild.from_type,
    ("torch.tensor", "_rebuild_from_type"): rebuild.from_type,
    **{(module, name): rebuild.old_tensor for module in ("torch", "torch.cuda") for name in _OLD_TENSORS},
    **{
        (module, name): StorageKind(name, dtype)
        for module in ("torch", "torch.storage", "torch.cuda")
        for name, dtype in STORAGES.items()
    },
    **{("torch", name): dtype for name, dtype in BY_NAME.items()},
}
