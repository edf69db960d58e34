"""Where the pickle of a torch file makes tensors of storages, and how another tensor is put there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from swa_cli.errors import CheckpointError
from swa_cli.formats.dtypes import Dtype
from swa_cli.formats.tensor_layout import TensorSpec, row_major
from swa_cli.formats.torch import pickle_edit as edit
from swa_cli.formats.torch import pickle_tree as tree
from swa_cli.formats.torch.pickle_tree import Node
from swa_cli.formats.torch.rebuild import PickledTensor
from swa_cli.formats.torch.unpickle import STORAGES

Place = tuple[str, int, tuple[int, ...], tuple[int, ...], str]
"""Key of the storage, first element in it, shape, stride and dtype: the identity of a tensor in a file."""

_STORAGE_OF: dict[Dtype, str] = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
_REBUILD = {f"torch._utils _rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
_FROM_TYPE = {"torch._tensor _rebuild_from_type", "torch._tensor _rebuild_from_type_v2"}
_PARAMETER = "torch._utils _rebuild_parameter"
_FROM_TYPE_ARGUMENTS = 3
_LEAST_ARGUMENTS = 4
_DTYPE_AT = 6


@dataclass(frozen=True)
class Site:
    """A call that makes a tensor: ``owner[0]`` is the function, ``arguments`` the tuple of its arguments."""

    owner: list[Node]
    arguments: Node

    @property
    def place(self) -> Place | None:
        """What tensor it is, if that can be told."""
        storage, offset, *sizes = self.arguments.parts[:_LEAST_ARGUMENTS]
        shape, stride = (_numbers(size) for size in sizes)
        key = storage_key(storage)
        if key is None or not isinstance(offset.value, int) or shape is None or stride is None:
            return None
        return key, offset.value, shape, stride, self._dtype

    @property
    def _dtype(self) -> str:
        """The seventh argument, or else that of the storage."""
        if len(self.arguments.parts) > _DTYPE_AT:
            return str(self.arguments.parts[_DTYPE_AT].value).removeprefix("torch ")
        kind = str(self.arguments.parts[0].parts[0].parts[1].value).rpartition(" ")[2]
        return STORAGES[kind].name if kind in STORAGES else kind

    def replace(self, tensor: "Stored") -> None:
        """Let the call make ``tensor``, as a parameter or a view of its kind if the one before was one."""
        rest = self.arguments.parts[_LEAST_ARGUMENTS : _LEAST_ARGUMENTS + 2]
        function, arguments = tensor.call(rest)
        self.owner[0] = function
        self.arguments.name, self.arguments.code, self.arguments.marked = "TUPLE", b"t", True
        self.arguments.parts = arguments


class Stored:
    """A tensor in a storage of its own, row-major, as a torch file names it."""

    def __init__(self, key: str, spec: TensorSpec) -> None:
        self.key = key
        self.spec = spec
        kind = _STORAGE_OF.get(spec.dtype)
        names = edit.global_("torch", kind) if kind else edit.global_("torch.storage", "UntypedStorage")
        size = spec.numel if kind else spec.nbytes
        parts = (edit.plain("storage"), names, *(edit.plain(value) for value in (key, "cpu", size)))
        self._is_typed = kind is not None
        self._storage = edit.persistent(edit.tuple_(*parts))
        self._storage.shared = True

    def node(self) -> Node:
        """A tensor of this storage; of tied ones each is a call of its own."""
        function, arguments = self.call([])
        return edit.call(function, *arguments)

    def call(self, rest: list[Node]) -> tuple[Node, list[Node]]:
        """The function and the arguments that make it; ``rest`` are those that follow the stride."""
        shape = self.spec.shape
        arguments = [self._storage, edit.plain(0), edit.plain(shape), edit.plain(row_major(shape))]
        arguments += rest or [edit.plain(False)]  # noqa: FBT003  # requires_grad
        if len(arguments) == _LEAST_ARGUMENTS + 1:
            arguments.append(edit.call(edit.global_("collections", "OrderedDict")))  # backward hooks
        if self._is_typed:
            return edit.global_("torch._utils", "_rebuild_tensor_v2"), arguments
        dtype = edit.global_("torch", self.spec.dtype.name)
        return edit.global_("torch._utils", "_rebuild_tensor_v3"), [*arguments, dtype]


def place_of(tensor: PickledTensor) -> Place | None:
    """The same of a tensor as `swa_cli.formats.torch.unpickle` reads it."""
    if tensor.storage is None:
        return None
    return tensor.storage.key, tensor.storage_offset, tuple(tensor.shape), tuple(tensor.stride), tensor.dtype.name


def sites(root: Node) -> Iterator[Site]:
    """All calls in a tree that make a tensor of a storage."""
    for node in tree.walk(root):
        if node.name == "REDUCE" and node.parts[0].value in _REBUILD:
            yield _site(node.parts, node.parts[1])
        elif node.name == "REDUCE" and node.parts[0].value in _FROM_TYPE:
            inner = node.parts[1].parts
            if len(inner) >= _FROM_TYPE_ARGUMENTS and inner[0].value in _REBUILD:
                yield _site(inner, inner[2])


def tensor_of(node: Node) -> Site | None:
    """The call that makes a tensor, if that is what a value is; a parameter's is that of its data."""
    if node.name == "REDUCE" and str(node.parts[0].value).startswith(_PARAMETER) and node.parts[1].parts:
        node = node.parts[1].parts[0]
    if node.name != "REDUCE" or node.parts[0].value not in _REBUILD | _FROM_TYPE:
        return None
    return next(sites(node), None)


def storages(root: Node) -> Iterator[tuple[str, Node]]:
    """Keys of all storages that a tree names, and the nodes that name them."""
    for node in tree.walk(root):
        key = storage_key(node)
        if key is not None:
            yield key, node


def storage_key(node: Node) -> str | None:
    """The key of a storage."""
    if node.name != "BINPERSID":
        return None
    parts = node.parts[0].parts
    if len(parts) <= _FROM_TYPE_ARGUMENTS or parts[0].value != "storage" or not isinstance(parts[2].value, str):
        return None
    return cast("str | None", node.parts[0].parts[2].value)


def forget_sources(root: Node) -> None:
    """Name classes as such where the container of old adds their source code, which no other reads."""
    for node in list(tree.walk(root)):
        parts = node.parts[0].parts if node.name == "BINPERSID" else []
        if len(parts) > 1 and parts[0].value == "module":
            edit.become(node, parts[1])


def _site(owner: list[Node], arguments: Node) -> Site:
    if len(arguments.parts) < _LEAST_ARGUMENTS:
        msg = "a tensor is made in a way that cannot be written again."
        raise CheckpointError(msg)
    return Site(owner, arguments)


def _numbers(node: Node) -> tuple[int, ...] | None:
    """The integers of a tuple or a torch.Size."""
    if node.name == "REDUCE" and node.parts[0].value == "torch Size":
        inner = node.parts[1].parts
        return _numbers(inner[0]) if inner else ()
    if not node.name.startswith(("TUPLE", "EMPTY_TUPLE")):
        return None
    values = tuple(part.value for part in node.parts)
    return cast("tuple[int, ...]", values) if all(isinstance(value, int) for value in values) else None
