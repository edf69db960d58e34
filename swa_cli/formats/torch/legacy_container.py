"""The container that ``torch.save`` wrote before 1.6: pickles, then the storages, one after the other.

Five pickles: a magic number, the version of the format, facts of the machine, the contents, and the storages' keys. In
the order of the keys follows each storage: the number of its elements in eight bytes, then the elements.
"""

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import NoReturn, cast

from swa_cli.errors import CheckpointError
from swa_cli.formats.torch.rebuild import PickledStorage
from swa_cli.formats.torch.unpickle import Pickled, TorchFile, read_pickle
from swa_cli.system.storage import RandomAccess

_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_VERSION = 1001
_HEAD = 32
_FIRST_READ = 1 << 16
_COUNT = 8
_TAR_HEADER = 512


def looks_legacy(head: bytes) -> bool:
    """Whether a file that starts with these bytes is of this format; every protocol writes the number so."""
    return head.startswith(b"\x80") and _MAGIC in head[:_HEAD]


def read_legacy(file: RandomAccess) -> TorchFile:
    """What the file holds.

    Raises:
        CheckpointError: the file is of another machine's byte order, truncated or damaged.
        Exception: of any kind, when a pickle is damaged.
    """
    if _is_tar(file.read(0, _TAR_HEADER)):
        _refuse("it is a tar archive, too")
    data, start, pickled, keys, end = _read_pickles(file)
    places = _places(file, end, keys, pickled.storages)

    def place(storage: PickledStorage) -> tuple[int, int]:
        if storage.key not in places:
            msg = f"its storage {storage.key} is missing; the file is damaged."
            raise CheckpointError(msg)
        return places[storage.key]

    def check_storages() -> None:
        for storage in pickled.storages.values():
            place(storage)

    return TorchFile(
        contents=pickled.contents,
        pickle=data,
        start=start,
        place=place,
        metadata={},
        storages=pickled.storages,
        check_storages=check_storages,
    )


def _read_pickles(file: RandomAccess) -> tuple[bytes, int, Pickled, list[object], int]:
    """Read as much of the file as the pickles take; how much that is, they alone tell."""
    length = _FIRST_READ
    while True:
        data = file.read(0, length)
        try:
            return _parse(data)
        except EOFError:
            if len(data) < length:
                raise
        length *= 4


def _is_tar(head: bytes) -> bool:
    """Whether torch would read a file with this head as a tar archive, by the sum of its bytes as tar has it."""
    digits = head[148:156].strip(b"\0 ")
    if len(head) < _TAR_HEADER or not digits:
        return False
    rest = head[:148] + b" " * 8 + head[156:]
    sums = {sum(rest), sum(byte - 256 if byte > 127 else byte for byte in rest)}  # noqa: PLR2004  # as old ones sum
    return digits.isdigit() and int(digits, 8) in sums if not {*digits} - {*b"01234567"} else head[148] >> 7 == 1


def _parse(data: bytes) -> tuple[bytes, int, Pickled, list[object], int]:
    """The data, where in it the contents begin, what they are, the storages' keys, and where the pickles end."""
    magic = read_pickle(data)
    version = read_pickle(data, magic.end)
    machine = read_pickle(data, version.end)
    if (magic.contents, version.contents) != (int.from_bytes(_MAGIC, "little"), _VERSION) or not isinstance(
        machine.contents, dict
    ):
        _refuse("it does not begin as torch begins its files")
    if cast("dict[object, object]", machine.contents).get("little_endian") is not True:
        msg = "saved on a big-endian machine. Load it with torch.load there, and save it again."
        raise CheckpointError(msg)
    pickled = read_pickle(data, machine.end, legacy=True)
    keys = read_pickle(data, pickled.end)
    if not isinstance(keys.contents, list):
        _refuse("it does not list its storages")
    return data, machine.end, pickled, cast("list[object]", keys.contents), keys.end


def _places(
    file: RandomAccess, end: int, keys: list[object], storages: Mapping[str, PickledStorage]
) -> dict[str, tuple[int, int]]:
    """Where each storage lies: its first byte and its size."""
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if type(key) is not str or key not in storages or key in places:
            _refuse("it lists storages that its contents do not name")
        count = int.from_bytes(file.read(end, _COUNT), "little", signed=True)
        size = count * storages[key].dtype.itemsize
        places[key] = (end + _COUNT, size)
        end += _COUNT + size
        if count != storages[key].numel:
            _refuse(f"storage {key!r:.100} has {count:,} elements, and its pickle says {storages[key].numel:,}")
        if end > file.size:
            raise EOFError(f"storage {key} would end at byte {end:,}, the file has {file.size:,}")
    return places


def _refuse(reason: str) -> NoReturn:
    raise UnpicklingError(reason)
