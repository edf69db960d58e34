"""Torch files to be written: a state_dict alone, or the structure of another file with other weights in it."""

import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from swa_cli.checkpoints import Provenance, strip_wrappers
from swa_cli.checkpoints.dtypes import BY_NAME
from swa_cli.checkpoints.safetensors_file import PROVENANCE
from swa_cli.checkpoints.torch_file import TorchState, read_state
from swa_cli.checkpoints.torch_pickle import PickledStorage
from swa_cli.checkpoints.unwrap import strip_beside
from swa_cli.errors import CheckpointError
from swa_cli.outputs import pickle_tree as tree
from swa_cli.outputs.layout import Contents, Crc, OutputFile
from swa_cli.outputs.pickle_tree import Node
from swa_cli.outputs.torch_sites import Place, Stored, place_of, sites, storages
from swa_cli.outputs.zip_writer import Record, frame_archive, plan_archive

_FOLDER = "archive/"
_BEFORE = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
_AFTER = {"version": b"3\n"}
_BLOCK = 1 << 20
_OPTIMIZER = {"opt", "optim", "optimizer", "optimizers"} | {
    f"{name}_{what}" for name in ("opt", "optim", "optimizer") for what in ("state", "states", "state_dict", "dict")
}

_PARTS_OF_ID = 5  # of a storage: "storage", its kind, key, device and size
_BYTES = BY_NAME["uint8"]


def torch_file(contents: Contents, *, name: str) -> OutputFile:
    """A file that ``torch.load`` gives as a dict of all tensors of ``contents``, tied ones in one storage."""
    stored = {short: Stored(str(key), spec) for key, (short, spec) in enumerate(contents.specs.items())}
    entries = {short: stored[short].node() for short in contents.specs}
    entries |= {short: stored[kept].node() for short, kept in contents.tied.items()}
    entries |= {short: tree.plain(value) for short, value in contents.extra.items()}
    return _archive(tree.dict_(entries), stored, {}, contents.provenance, name)


def torch_file_like(path: Path, key: str | None, contents: Contents, *, name: str) -> tuple[OutputFile, list[str]]:
    """The file at ``path`` once more, with the tensors of ``contents`` in place of its own.

    Everything else stays as it is, and is never run, but for the state of the optimizer and other state_dicts (an EMA,
    say): those are left out, as they belong to other weights.

    Args:
        key: dotted key of the state_dict in the file.
        contents: with the names of the tensors in the file, without wrappers.

    Returns:
        The file, and the keys of what is left out.

    Raises:
        CheckpointError: the file cannot be read, or its structure cannot be kept.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = read_state(descriptor, key)
        root = tree.read_tree(found.file.pickle, found.file.start)
        left_out = list(_not_of_the_average(root, found))
        tree.drop_items(root, left_out)
        stored, kept = _put_tensors(root, found, contents)
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error
    finally:
        os.close(descriptor)
    _put_extra(root, found, contents)
    copied = {key: (path, *place) for key, place in kept.items()}
    return _archive(root, stored, copied, contents.provenance, name), left_out


def _not_of_the_average(root: Node, found: TorchState) -> Iterator[str]:
    """Keys of the top entries that belong to other weights than these."""
    top = found.where.split(".", maxsplit=1)[0]
    for key, value in tree.items(root) if found.where else ():
        name = key.value
        if not isinstance(name, str) or name == top:
            continue
        about_training = name in _OPTIMIZER or ("optim" in name.lower() and any(storages(value)))
        if about_training or name in found.alternatives:
            yield name


def _places(found: TorchState, contents: Contents) -> dict[Place, str]:
    """Which tensor of ``contents`` is to be put where the file has one."""
    raw = strip_wrappers({name: name for name in found.tensors})
    places: dict[Place, str] = {}
    for short in (*contents.specs, *contents.tied):
        place = place_of(found.tensors[raw[short]])
        if place is None:  # pragma: no cover  # a tensor that could not be read is refused before
            continue
        places[place] = contents.tied.get(short, short)
    return places


def _put_tensors(
    root: Node, found: TorchState, contents: Contents
) -> tuple[dict[str, Stored], dict[str, tuple[int, int]]]:
    """Put all tensors in their places; what was put there, and where in the file the storages lie that are kept."""
    places = _places(found, contents)
    wanted = {id(site.arguments): (site, places[place]) for site in sites(root) if (place := site.place) in places}
    own = {id(site.arguments.parts[0]) for site, _ in wanted.values()}
    kept: dict[str, tuple[int, int]] = {}
    for key, node in storages(root):
        parts = node.parts[0].parts
        if any(part.name != "NONE" for part in parts[_PARTS_OF_ID:]):
            msg = "it keeps views of storages, as torch no longer does. Load it with torch.load and save it again."
            raise CheckpointError(msg)
        del parts[_PARTS_OF_ID:]  # the container of old had one more
        if id(node) not in own:
            kept[key] = found.file.place(PickledStorage(key, _BYTES))
    keys = (str(number) for number in count() if str(number) not in kept)
    stored = {short: Stored(key, spec) for (short, spec), key in zip(contents.specs.items(), keys, strict=False)}
    for site, short in wanted.values():
        site.replace(stored[short])
    return stored, kept


def _put_extra(root: Node, found: TorchState, contents: Contents) -> None:
    """Put what a module keeps of its own (``_extra_state``), as far as the file has it, in its place."""
    state: Node | None = root
    for part in [found.where] if found.where in {key.value for key, _ in tree.items(root)} else found.where.split("."):
        entries = {key.value: value for key, value in tree.items(state)} if state else {}
        state = entries.get(part) if part else state
    raw = strip_beside([name for name in found.state if isinstance(name, str)], found.tensors)
    if state:
        tree.set_items(
            state, {raw[short]: tree.plain(value) for short, value in contents.extra.items() if short in raw}
        )


def _archive(
    root: Node,
    stored: Mapping[str, Stored],
    kept: Mapping[str, tuple[Path, int, int]],
    provenance: Provenance,
    name: str,
) -> OutputFile:
    """The archive that holds the pickle of ``root``, the tensors, and storages that are copied from another file."""
    records = {"data.pkl": tree.write_tree(root), **_BEFORE}
    records |= {f"data/{tensor.key}": tensor.spec.nbytes for tensor in stored.values()}
    records |= {f"data/{key}": size for key, (_, _, size) in kept.items()}
    records |= {**_AFTER, PROVENANCE: _as_record(provenance)}
    archive = plan_archive([Record(name=_FOLDER + record, content=content) for record, content in records.items()])

    def frame(provenance: Provenance, crc: Crc) -> Iterator[tuple[int, bytes]]:
        for key, (path, first, size) in kept.items():
            yield from _copied(path, first, size, archive.offsets[f"{_FOLDER}data/{key}"])
        yield from frame_archive(archive, {_FOLDER + PROVENANCE: _as_record(provenance)}, crc)

    return OutputFile(
        name=name,
        size=archive.size,
        offsets={short: archive.offsets[f"{_FOLDER}data/{tensor.key}"] for short, tensor in stored.items()},
        frame=frame,
    )


def _copied(path: Path, first: int, size: int, to: int) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        stream.seek(first)
        for done in range(0, size, _BLOCK):
            yield to + done, stream.read(min(_BLOCK, size - done))


def _as_record(provenance: Provenance) -> bytes:
    return provenance.model_dump_json().encode()
