"""Digests of the sources, taken while they are averaged."""

import hashlib
import os
import threading

import pytest
import safetensors.torch
import torch

from support.runs import save_sharded
from swa_cli.averaging import Engine, average, plan_average
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import CheckpointError, NonFiniteError
from swa_cli.formats import checksums, open_checkpoint
from swa_cli.system.storage import Url, storage_of


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamps_of(*paths):
    return {path: storage_of(path).stamp(path) for path in paths}


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_they_are_those_of_the_whole_files(tmp_path, threads):
    paths = [tmp_path / str(size) for size in (0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 7)]
    for path in paths:
        path.write_bytes(os.urandom(int(path.name)))

    with checksums(stamps_of(*paths), threads=threads) as digests:
        found = digests()

    assert found == {path: sha256(path) for path in paths}


def test_every_source_is_hashed_whole_and_every_shard_of_it(tmp_path):
    for step in range(2):
        torch.save({"state_dict": {"w": torch.randn(500_000)}, "optimizer": torch.randn(900)}, tmp_path / f"{step}.pt")
    save_sharded({"w": torch.randn(500_000), "v": torch.randn(3)}, tmp_path / "2", {}, n=2)
    save_sharded({"w": torch.randn(500_000), "v": torch.randn(3)}, tmp_path / "3", {}, n=2)

    bare = average(
        plan_average(find_checkpoints([tmp_path / f"{step}.pt" for step in (0, 1)]).checkpoints),
        tmp_path / "a.safetensors",
        checksum=True,
    )
    sharded = average(
        plan_average(find_checkpoints([tmp_path / "2", tmp_path / "3"]).checkpoints),
        tmp_path / "b.safetensors",
        checksum=True,
    )

    assert bare.sha256 == {tmp_path / f"{step}.pt": sha256(tmp_path / f"{step}.pt") for step in (0, 1)}
    shards = sorted(path for step in (2, 3) for path in (tmp_path / str(step)).glob("*.safetensors"))
    assert len(shards) == 4
    assert sharded.sha256 == {path: sha256(path) for path in shards}


def test_nothing_is_hashed_unless_asked_for(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    monkeypatch.setattr("swa_cli.formats.file_checksums._Hashing._hash_block", lambda *_: pytest.fail("hashed"))

    assert average(plan_average([open_checkpoint(tmp_path / "1.pt")]), tmp_path / "o.safetensors").sha256 == {}


@pytest.mark.parametrize("kind", ["changed", "cut short", "removed"])
def test_a_file_that_is_no_longer_what_it_was_is_an_error(tmp_path, kind):
    path = tmp_path / "1.bin"
    path.write_bytes(b"x" * 3_000_000)
    stamps = stamps_of(path)
    if kind == "changed":
        os.utime(path, (1, 1))
    elif kind == "cut short":
        os.truncate(path, 1000)
    else:
        path.unlink()

    expected = r"1\.bin: cannot be read for its checksum: No such file" if kind == "removed" else "was changed while"
    with checksums(stamps, threads=1) as digests, pytest.raises(CheckpointError, match=expected):
        digests()


def test_a_file_that_shrinks_unnoticed_by_its_stamp_is_an_error(store):
    store.add("run/1.bin", b"x" * 3_000_000)
    url = Url("store://run/1.bin")
    stamps = stamps_of(url)
    store.answer = lambda _, content: b""

    with checksums(stamps, threads=1) as digests, pytest.raises(CheckpointError, match=r"1\.bin was changed while"):
        digests()


def test_an_error_of_the_hashing_ends_the_run_and_leaves_nothing(tmp_path, store):
    for step in range(3):
        store.add(f"run/{step}.safetensors", safetensors.torch.save({"w": torch.randn(500_000)}))
    plan = plan_average([open_checkpoint(Url(f"store://run/{step}.safetensors")) for step in range(3)])

    def fail(path, content):
        if path.endswith("1.safetensors") and threading.current_thread().name.startswith("swa-checksum"):
            raise OSError(5, "Input/output error")
        return content

    store.answer = fail

    with pytest.raises(CheckpointError, match=r"1\.safetensors: cannot be read for its checksum: Input/output error\."):
        average(plan, tmp_path / "o.safetensors", checksum=True, engine=Engine(threads=2))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_averaging_ends_the_hashing(store):
    """The file would take forever: there is always more of it."""
    store.add("run/1.bin", b"x" * 100)
    url = Url("store://run/1.bin")
    begun = threading.Event()

    class Endless(bytes):
        def __len__(self):
            return 10**15

        def __getitem__(self, part):
            begun.set()
            return b"x" * (part.stop - part.start)

    store.objects["run/1.bin"] = Endless()

    def fail_meanwhile() -> None:
        with checksums(stamps_of(url), threads=1):
            begun.wait()
            raise ValueError("meanwhile")

    with pytest.raises(ValueError, match="meanwhile"):
        fail_meanwhile()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("swa-checksum")]


def test_a_source_that_is_not_finite_is_told_although_it_is_hashed(tmp_path):
    torch.save({"w": torch.tensor([torch.nan])}, tmp_path / "1.pt")

    with pytest.raises(NonFiniteError, match=r"1\.pt: tensor w holds nan"):
        average(plan_average([open_checkpoint(tmp_path / "1.pt")]), tmp_path / "o.safetensors", checksum=True)


def test_the_flag_is_taken(run_swa, tmp_path):
    for step in range(2):
        torch.save({"w": torch.ones(3)}, tmp_path / f"epoch-{step}.pt")

    result = run_swa("average", "epoch-0.pt", "epoch-1.pt", "-o", "o.safetensors", "--checksum")

    assert result.exit_code == 0
    assert (tmp_path / "o.safetensors").exists()
