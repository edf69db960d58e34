"""The structure of another torch file, with other weights in it."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import PurePath

from swa_cli.errors import CheckpointError, option, shortened
from swa_cli.formats.dtypes import BY_NAME
from swa_cli.formats.file_reader import open_same
from swa_cli.formats.output_layout import Contents, OutputFile
from swa_cli.formats.torch import pickle_edit as edit
from swa_cli.formats.torch import pickle_tree as tree
from swa_cli.formats.torch.pickle_tree import Node
from swa_cli.formats.torch.reader import TorchState, read_state
from swa_cli.formats.torch.rebuild import PickledStorage, PickledTensor
from swa_cli.formats.torch.state_dict import strip_beside, strip_wrappers
from swa_cli.formats.torch.tensor_calls import (
    Place,
    Site,
    Stored,
    forget_sources,
    place_of,
    sites,
    storage_key,
    storages,
    tensor_of,
)
from swa_cli.formats.torch.writer import CopiedStorage, archive_file
from swa_cli.system.storage import RandomAccess, Stamp

_PARTS_OF_ID = 5  # of a storage: "storage", its kind, key, device and size
_BYTES = BY_NAME["uint8"]
_DEEPEST = 8
_OPTIMIZER = {"opt", "optim", "optimizer", "optimizers"} | {
    f"{name}_{what}" for name in ("opt", "optim", "optimizer") for what in ("state", "states", "state_dict", "dict")
}


def torch_file_like(
    path: PurePath, stamp: Stamp, key: str | None, contents: Contents, *, name: str
) -> tuple[OutputFile, list[str]]:
    """The file at ``path`` once more, with the tensors of ``contents`` in place of its own.

    Everything else stays as it is, and is never run, but for the state of the optimizer and other state_dicts (an EMA,
    say): those are left out, as they belong to other weights.

    Args:
        stamp: of the file when it was opened.
        key: dotted key of the state_dict in the file.
        contents: with the names of the tensors in the file, without wrappers.

    Returns:
        The file, and the dotted keys of what is left out.

    Raises:
        CheckpointError: the file cannot be read, was changed, or its structure cannot be kept.
    """
    with _reading(path, stamp) as file:
        found = read_state(file, key)
        root = _read_tree(found)
        places = _places(found, contents)
        left_out = _drop_what_is_of_other_weights(root, found, set(contents.specs) | set(contents.tied), places)
        wanted = [(site, places[place]) for site in sites(root) if (place := site.place) in places]
        _check_all(contents, {short for _, short in wanted})
        kept = _kept_storages(root, found, wanted)
    _put_extra(root, found, contents)
    keys = (str(number) for number in count() if str(number) not in kept)
    stored = {short: Stored(key, spec) for (short, spec), key in zip(contents.specs.items(), keys, strict=False)}
    for site, short in wanted:
        site.replace(stored[short])
    copied = {
        key: CopiedStorage(path=path, stamp=stamp, offset=offset, size=size) for key, (offset, size) in kept.items()
    }
    return archive_file(root, stored, copied, contents.provenance, name=name), left_out


@contextmanager
def _reading(path: PurePath, stamp: Stamp) -> Generator[RandomAccess]:
    """Open a file, and put its name before what is wrong with it."""
    try:
        with open_same(path, stamp) as file:
            try:
                yield file
            except CheckpointError as error:
                msg = f"{path}: {error}"
                raise CheckpointError(msg) from error
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}."
        raise CheckpointError(msg) from error


def _read_tree(found: TorchState) -> Node:
    unnamed = [repr(key) for key, value in found.state.items() if type(value) is PickledTensor and type(key) is not str]
    if unnamed:
        msg = (
            f"its state_dict holds tensors under what are no names ({shortened(unnamed)}), which would keep old values."
        )
        raise CheckpointError(msg)
    try:
        return tree.read_tree(found.file.pickle, found.file.start)
    except Exception as error:
        msg = f"its pickle cannot be written again ({error}). Load it with torch.load and save it again."
        raise CheckpointError(msg) from error


def _places(found: TorchState, contents: Contents) -> dict[Place, str]:
    """Which tensor of ``contents`` is to be put where the file has one."""
    raw = strip_wrappers({name: name for name in found.tensors})
    places: dict[Place, str] = {}
    for short in (*contents.specs, *contents.tied):
        place, kept = place_of(found.tensors[raw[short]]), contents.tied.get(short, short)
        if place is not None:
            places[place] = kept
    return places


def _check_all(contents: Contents, wanted: set[str]) -> None:
    missed = [short for short, spec in contents.specs.items() if spec.numel and short not in wanted]
    if missed:
        msg = (
            f"its tensors {shortened(missed)} are made in a way that cannot be written again. Leave out "
            f"{option('like')}."
        )
        raise CheckpointError(msg)


def _drop_what_is_of_other_weights(
    root: Node, found: TorchState, names: set[str], places: Mapping[Place, str]
) -> list[str]:
    """Take out the optimizer's state and other state_dicts, wherever they lie; their dotted keys."""
    left_out: list[str] = []
    waiting: list[tuple[str, Node]] = [("", root)] if found.steps else []
    seen: set[int] = set()
    while waiting:
        prefix, node = waiting.pop()
        seen.add(id(node))
        dropped: list[str] = []
        for key, value in list(edit.items(node)):
            name = key.value
            if not isinstance(name, str):
                continue
            at_top = (
                not prefix and name != found.steps[0] and (_is_optimizer(name, value) or name in found.alternatives)
            )
            if at_top or _is_state_dict_of_others(value, names, places):
                dropped.append(name)
            elif id(value) not in seen and prefix.count(".") < _DEEPEST:
                waiting.append((f"{prefix}{name}.", value))
        edit.drop_items(node, dropped)
        left_out += [prefix + name for name in dropped]
    return left_out


def _is_optimizer(name: str, value: Node) -> bool:
    """Whether this is an optimizer's state, and not, say, options that are called ``opt``."""
    if name not in _OPTIMIZER and "optim" not in name.lower():
        return False
    is_empty = value.name in {"EMPTY_DICT", "EMPTY_LIST"} and not value.changes
    return is_empty or any(node.value == "param_groups" or storage_key(node) for node in tree.walk(value))


def _is_state_dict_of_others(value: Node, names: set[str], places: Mapping[Place, str]) -> bool:
    """Whether this maps names of the model's tensors to tensors, mostly, which are not those that are replaced."""
    tensors = {key.value: site for key, item in edit.items(value) if (site := tensor_of(item)) is not None}
    own = strip_wrappers({name: name for name in tensors if isinstance(name, str)})
    known = sum(name in names for name in own)
    return 2 * known > len(tensors) and not any(site.place in places for site in tensors.values())


def _kept_storages(root: Node, found: TorchState, wanted: list[tuple[Site, str]]) -> dict[str, tuple[int, int]]:
    """By their keys, where in the file the storages lie that something else than the weights needs."""
    own = {id(site.arguments.parts[0]): short for site, short in wanted}
    keys = {storage_key(site.arguments.parts[0]): short for site, short in wanted}
    kept: dict[str, tuple[int, int]] = {}
    forget_sources(root)
    for key, node in storages(root):
        parts = node.parts[0].parts
        if any(part.name != "NONE" for part in parts[_PARTS_OF_ID:]):
            msg = "it keeps views of storages, as torch no longer does. Load it with torch.load and save it again."
            raise CheckpointError(msg)
        del parts[_PARTS_OF_ID:]  # the container of old had one more
        if id(node) in own:
            continue
        if key in keys:
            msg = (
                f"beside the weights it holds another view of tensor {keys[key]}, which would keep its old values. "
                f"Save it without, or leave out {option('like')}."
            )
            raise CheckpointError(msg)
        kept[key] = found.file.place(PickledStorage(key, _BYTES))
    return kept


def _put_extra(root: Node, found: TorchState, contents: Contents) -> None:
    """Put what a module keeps of its own (``_extra_state``) in its place, or beside the tensors if it had none."""
    state: Node | None = root
    for part in found.steps:
        state = {key.value: value for key, value in edit.items(state)}.get(part) if state else None
    if state is None or not contents.extra:
        return
    raw = strip_beside([name for name in found.state if isinstance(name, str)], found.tensors)
    edit.set_items(state, {raw.get(short, short): edit.plain(value) for short, value in contents.extra.items()})
