"""What is known of the archive before never changes what is read of the next."""

from pathlib import Path
from random import Random

import torch

from support.containers import assert_equal_states, repacked, saved
from swa_cli.errors import CheckpointError
from swa_cli.formats import forget_latest, open_checkpoint
from swa_cli.formats.torch.zip_reader import ZipDirectory
from swa_cli.system.storage import open_file

STATE = {f"w{number}": torch.full((number % 3 + 1,), float(number)) for number in range(12)}


def extents_of(path: Path) -> dict[str, tuple[int, int]]:
    with open_file(path) as file:
        return ZipDirectory(file).extents


def outcome(path: Path) -> object:
    """What is read: where each tensor lies; or why it is not."""
    try:
        return dict(open_checkpoint(path).tensors)
    except CheckpointError as error:
        return str(error)


def test_archives_of_a_run_share_what_is_known_of_them(tmp_path):
    first = saved(STATE, tmp_path / "epoch-1.pt")
    second = saved({name: tensor + 1 for name, tensor in STATE.items()}, tmp_path / "epoch-2.pt")
    longer = saved({name: tensor.repeat(2) for name, tensor in STATE.items()}, tmp_path / "epoch-3.pt")

    known = extents_of(first)

    assert extents_of(second) is known
    assert extents_of(longer) is not known
    assert extents_of(saved(STATE, tmp_path / "epoch-10.pt")) is not known  # all names are longer


def test_a_damaged_archive_is_read_as_if_it_were_the_first(tmp_path):
    """Any byte of the headers and the directory may be another than in the file before."""
    honest = saved(STATE, tmp_path / "epoch-1.pt")
    damaged = saved({name: tensor + 1 for name, tensor in STATE.items()}, tmp_path / "epoch-2.pt")
    content, chosen = damaged.read_bytes(), Random(5)
    headers = [content.index(b"epoch-2/" + name.encode()) - 30 for name in ("version", "data/7", "data/11", "data.pkl")]
    directory = content.index(b"PK\1\2")
    places = {at for header in headers for at in range(header, header + 45)}
    places |= {*chosen.sample(range(directory, len(content)), 300)}
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= 1 << chosen.randrange(8)
        damaged.write_bytes(changed)
        forget_latest()
        expected = outcome(damaged)
        forget_latest()
        open_checkpoint(honest)

        found = outcome(damaged)

        assert found == expected, place


def test_files_of_one_layout_keep_their_own_tensors(tmp_path):
    """The same storages at the same places, under other names, in another order, and as other views."""
    tensors = [torch.arange(6.0) + 10 * number for number in range(4)]
    states = [
        dict(zip("abcd", tensors, strict=True)),
        dict(zip("abcd", [tensors[1], tensors[0], *tensors[2:]], strict=True)),
        dict(zip("dcba", tensors, strict=True)),
        {f"module.{name}": tensor for name, tensor in zip("abcd", tensors, strict=True)},
        {name: tensor.view(2, 3).t() for name, tensor in zip("abcd", tensors, strict=True)},
        {name: tensor.view(torch.int32) for name, tensor in zip("abcd", tensors, strict=True)},
        {"a": tensors[0], "b": tensors[0], "c": tensors[1], "d": tensors[2]},
    ]
    for state in (*states, *reversed(states)):
        path = saved(state, tmp_path / "x.pt")

        assert_equal_states(
            open_checkpoint(path), {name.removeprefix("module."): tensor for name, tensor in state.items()}
        )


def test_a_storage_that_no_longer_fits_is_found_after_an_honest_file(tmp_path):
    path = saved(STATE, tmp_path / "x.pt")
    open_checkpoint(path)
    shorter = saved({**STATE, "w2": torch.ones(2)}, tmp_path / "y.pt")
    pickled = {}

    def kept(name: str, content: bytes):
        if name.endswith("data.pkl"):
            pickled["data"] = content
        return (content,)

    repacked(path, kept)
    repacked(shorter, lambda name, content: (pickled["data"] if name.endswith("data.pkl") else content,))

    assert "expected 12 bytes, found 8" in str(outcome(shorter))
