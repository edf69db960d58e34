"""Nothing is opened before it is known to be a regular file: a FIFO would wait for ever, a device may change."""

import os
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from support.containers import STATE, saved
from swa_cli.system import regular_files, temporary_paths
from swa_cli.system.atomic_directory import publish_folder
from swa_cli.system.atomic_file import publish
from swa_cli.system.regular_files import open_regular, read_regular


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))


@contextmanager
def at_most(seconds: int) -> Generator[None]:
    def late(*_: object) -> None:
        pytest.fail(f"waited for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (os.mkfifo, "it is a FIFO, not a regular file"),
    "link": (lambda path: (os.mkfifo(f"{path}.fifo"), path.symlink_to(f"{path}.fifo"))[1], "it is a FIFO"),
    "socket": (make_socket, "it is a socket, not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a regular file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make, message = KINDS[kind]
    make(tmp_path / "x")
    monkeypatch.setattr(regular_files, "os", SimpleNamespace(**{**vars(os), "open": None}))

    with pytest.raises(OSError, match=message):
        open_regular(tmp_path / "x")


def test_a_fifo_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x")
    (tmp_path / "y").touch()
    was_file = (tmp_path / "y").stat()
    monkeypatch.setattr(regular_files, "os", SimpleNamespace(**{**vars(os), "stat": lambda *_, **__: was_file}))

    with pytest.raises(OSError, match="it is a FIFO"):
        open_regular(tmp_path / "x")


def test_a_directory_a_name_that_is_none_and_a_link_are_said(tmp_path):
    (tmp_path / "link").symlink_to(saved(STATE, tmp_path / "x.pt"))

    with pytest.raises(IsADirectoryError, match="it is a directory"):
        open_regular(tmp_path)
    with pytest.raises(OSError, match="a file name holds no null character"):
        open_regular(Path("a\0b"))
    with pytest.raises(OSError, match="it is a symbolic link"):
        open_regular(tmp_path / "link", follow=False)
    assert read_regular(tmp_path / "link") == (tmp_path / "x.pt").read_bytes()
    with pytest.raises(OSError, match=r"expected at most 10"):
        read_regular(tmp_path / "link", most=10)


COMMANDS = (
    ("inspect fifo.pt", "neither a file nor a directory"),
    ("inspect hf", "pytorch_model.bin"),
    ("verify fifo.pt", "it is a FIFO"),
    ("verify model.safetensors.index.json", "it is a FIFO"),
    ("verify hf", "no record"),
    ("average fifo.pt -o swa.pt", "neither a file nor a directory"),
    ("average 1.pt --like fifo.pt -o swa.pt", "it is a FIFO"),
    ("average --config config.yaml", "it is a FIFO"),
    ("bn-update fifo.pt --model torch.nn.BatchNorm1d --data x.py:Data -o swa.pt", "FIFO"),
    ("eval --from-records records.npz", "it is a FIFO"),
    ("eval --from-records records.parquet", "it is a FIFO"),
)


@pytest.mark.parametrize(("command", "message"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_no_command_waits_for_a_fifo(tmp_path, run_swa, command, message):
    (tmp_path / "hf").mkdir()
    saved(STATE, tmp_path / "hf" / "pytorch_model.bin")
    saved(STATE, tmp_path / "1.pt")
    (tmp_path / "x.py").write_text("class Data: ...")
    names = ("fifo.pt", "records.npz", "records.parquet", "config.yaml", "model.safetensors.index.json")
    for name in (*names, "hf/trainer_state.json"):
        os.mkfifo(tmp_path / name)

    with at_most(seconds=60):
        result = run_swa(*command.split())

    assert message in " ".join((result.stderr + result.stdout).split())
    assert "a bug in swa" not in result.stderr
    assert (result.exit_code == 0) == (command == "inspect hf")


@pytest.mark.parametrize("kind", [temporary_paths.TEMPORARY, temporary_paths.REPLACED])
@pytest.mark.parametrize("make", [os.mkfifo, make_socket, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_named_like_a_left_over_is_not_waited_for(tmp_path, monkeypatch, kind, make):
    monkeypatch.chdir(tmp_path)
    for name in ("out.pt", "folder"):
        make(tmp_path / f".{name}.1-{0:08x}{kind}")

    with publish(tmp_path / "out.pt", overwrite=False) as stream:
        torch.save(STATE, stream)
    with publish_folder(tmp_path / "folder", lambda: None) as folder:
        (folder / "x").touch()

    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"out.pt", "folder"}
