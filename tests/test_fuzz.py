"""Damaged files of every kind: each is read within its bounds or refused, whatever the damage.

File ``n`` is always the same; ``--fuzz N`` says how many there are, and a failure names the one that failed.
"""

import argparse
import io
import resource
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random

import safetensors.torch
import torch
from torch import nn

from swa_cli.checkpoints import open_checkpoint
from swa_cli.errors import CheckpointError

SLOWEST = 2.0
MOST_MEMORY = 500 << 20
LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
OPCODES = b"(.012FIJKLMNPQRSTUVXabcde}giohjl]pqrstu)GBC" + bytes(range(0x80, 0x99))


def originals() -> list[bytes]:
    torch.manual_seed(0)
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = OrderedDict(
        {
            "module.w": base,
            "module.tied": base,
            "module.turned": base.permute(2, 0, 1),
            "module.wide": base[:, :1].expand(2, 5, 4),
            "module.b": torch.ones(3, dtype=torch.bfloat16),
            "module.n": torch.tensor(7),
            "module._extra_state": {"scale": [1.0, None, True]},
        }
    )
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    trained = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, names={"a", "b"}),
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }
    contents = (trained, {"model": module, "ema": module, "rng": torch.get_rng_state()[:8]}, state)
    files = [safetensors.torch.save({"w": base.contiguous(), "b": torch.ones(2), "n": torch.tensor(7)}, {"step": "3"})]
    for content in contents:
        for legacy in (False, True):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
            files.append(stream.getvalue())
    stream = io.BytesIO()
    torch.save(trained, stream, pickle_protocol=5)
    return [*files, stream.getvalue()]


def flip(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)


def replace(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    data[chosen.randrange(len(data))] = chosen.randrange(256)


def truncate(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    del data[chosen.randrange(len(data)) :]


def insert(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    at = chosen.randrange(len(data))
    data[at:at] = chosen.randbytes(chosen.randint(1, 8))


def insert_opcodes(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    at = chosen.randrange(len(data))
    data[at:at] = bytes(chosen.choices(OPCODES, k=chosen.randint(1, 6)))


def replace_opcode(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    data[chosen.randrange(len(data))] = chosen.choice(OPCODES)


def repeat(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    first = chosen.randrange(len(data))
    part = data[first : first + chosen.randint(1, 40)]
    data[first:first] = part * chosen.choice((1, 2, 50))


def splice(data: bytearray, chosen: Random, others: list[bytes]) -> None:
    other = chosen.choice(others)
    at, first = chosen.randrange(len(data)), chosen.randrange(len(other))
    size = chosen.randint(1, 200)
    data[at : at + chosen.choice((0, size))] = other[first : first + size]


def edit_length(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    size = chosen.choice((1, 2, 4, 8))
    at = chosen.randrange(max(1, len(data) - size))
    data[at : at + size] = (chosen.choice(LENGTHS) % (1 << 8 * size)).to_bytes(size, "little")


MUTATIONS: tuple[Callable[[bytearray, Random, list[bytes]], None], ...] = (
    *(flip, replace, truncate, insert, insert_opcodes, replace_opcode, repeat, splice, edit_length),
)


def damaged(index: int, files: list[bytes]) -> bytes:
    """File number ``index``: some of its bytes are changed; of a zip half of the time those of its pickle alone."""
    chosen = Random(index)
    original = chosen.choice(files)
    if not original.startswith(b"PK") or chosen.random() < 0.5:
        return mutated(original, chosen, files)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(original)) as source, zipfile.ZipFile(stream, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            target.writestr(
                info.filename, mutated(content, chosen, files) if info.filename.endswith("data.pkl") else content
            )
    return stream.getvalue()


def mutated(content: bytes, chosen: Random, files: list[bytes]) -> bytes:
    data = bytearray(content)
    for _ in range(chosen.choice((1, 1, 2, 4, 8))):
        chosen.choice(MUTATIONS)(data, chosen, files)
        if not data:
            break
    return bytes(data)


def read_all(path: Path) -> bool:
    """Open the file and read its tensors; whether it could be read."""
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.tensors:
            checkpoint.get_tensor(name)
    except CheckpointError:
        return False
    return True


def seconds_to_read(path: Path) -> float:
    started = time.monotonic()
    read_all(path)
    return time.monotonic() - started


def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, request):
    files, path = originals(), tmp_path / "x.pt"
    for content in files:
        path.write_bytes(content)
        assert read_all(path)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(request.config.getoption("--fuzz")):
        path.write_bytes(damaged(index, files))
        try:
            slow = seconds_to_read(path) > SLOWEST and seconds_to_read(path) > SLOWEST  # the machine may have been busy
        except Exception as error:
            error.add_note(f"file {index} of the fuzz test")
            raise
        assert not slow, f"file {index} of the fuzz test takes too long"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024

    assert grown < MOST_MEMORY
