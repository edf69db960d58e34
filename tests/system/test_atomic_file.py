"""A file is published whole or not at all."""

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from swa_cli.errors import OutputError
from swa_cli.system.atomic_file import check_output, check_space, publish, writer_at


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_content_appears_under_the_name(tmp_path):
    with publish(tmp_path / "out", overwrite=False) as stream:
        stream.write(b"new")
        assert not (tmp_path / "out").exists()

    assert (tmp_path / "out").read_bytes() == b"new"
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "out").write_bytes(b"old")

    def interrupted():
        with publish(tmp_path / "out", overwrite=True) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()

    assert (tmp_path / "out").read_bytes() == b"old"
    assert listing(tmp_path) == ["out"]


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        with publish(tmp_path / "out", overwrite=False) as stream:
            stream.write(b"x")
    finally:
        os.umask(previous)

    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")

    with publish(tmp_path / "link", overwrite=True) as stream:
        stream.write(b"new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_an_existing_file_is_kept_without_overwrite(tmp_path):
    (tmp_path / "out").write_bytes(b"old")

    with pytest.raises(OutputError, match=r"out exists already\. .*replace it with `force=True`"):
        check_output(tmp_path / "out", overwrite=False)


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    def race():
        with publish(tmp_path / "out", overwrite=False) as stream:
            stream.write(b"mine")
            (tmp_path / "out").write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists already"):
        race()
    assert (tmp_path / "out").read_bytes() == b"theirs"
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("target", "message"),
    [("nowhere/out", "there is no directory"), (".", "it is a directory"), ("/dev/null", "not a regular file")],
)
def test_what_cannot_be_written_is_said_beforehand(tmp_path, target, message):
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / target, overwrite=True)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("out", "it is a symbolic link that leads to itself"),
        ("gone/x", "it is a symbolic link to .*gone/x, and there is no directory .*gone"),
        ("x" * 300, "File name too long"),
        ("file/x", "Not a directory|there is no directory"),
    ],
)
def test_a_link_that_cannot_be_written_through_is_said_beforehand(tmp_path, link, message):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "out").symlink_to(link)
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/x"])
def test_a_name_that_no_file_can_have_is_said_beforehand(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        check_output(tmp_path / name, overwrite=True)


def test_a_dangling_link_is_written_through(tmp_path):
    (tmp_path / "out").symlink_to("new")
    check_output(tmp_path / "out", overwrite=False)


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def overflow():
        with publish(tmp_path / "out", overwrite=True) as stream:
            stream.write(b"x" * 10_000)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*out: File too large\. Nothing was left behind"):
            overflow()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out").read_bytes() == b"old"
    assert listing(tmp_path) == ["out"]


def test_what_does_not_fit_is_said_before_the_work(tmp_path):
    with pytest.raises(OutputError, match=r"it takes 1,000,000,000,000,000,000 bytes, and [\d,]+ are free there"):
        check_space(tmp_path / "out", 10**18)


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path):
    with publish(tmp_path / ("x" * 250), overwrite=False) as stream:
        stream.write(b"x")

    assert listing(tmp_path) == ["x" * 250]


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)

    def write():
        with publish(tmp_path / "out", overwrite=False) as stream:
            stream.write(b"x")

    with pytest.raises(OutputError, match=r"No space left on device\. Nothing was left behind; free some space"):
        write()
    assert listing(tmp_path) == []


SLOW = """
import sys, time, typer
from pathlib import Path
from swa_cli.cli.ending import exit_on_error
from swa_cli.system.atomic_file import publish
target = Path(sys.argv.pop())
def main():
    with exit_on_error(debug=False), publish(target, overwrite=False) as stream:
        stream.write(b"half")
        stream.flush()
        print("writing", flush=True)
        time.sleep(60)
typer.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, tmp_path / "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(listing(tmp_path)) == 1

    process.send_signal(number)
    process.communicate(timeout=30)

    assert process.returncode == {signal.SIGINT: 130}.get(number, 128 + number)
    assert listing(tmp_path) == []


def test_a_write_that_the_system_cuts_short_is_gone_on_with(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:3], offset))
    with (tmp_path / "f").open("wb") as stream:
        writer_at(stream.fileno())(5, memoryview(b"0123456789"))

    assert (tmp_path / "f").read_bytes() == b"\0" * 5 + b"0123456789"


def test_advice_that_a_file_system_does_not_take_is_no_error(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    with (tmp_path / "f").open("wb") as stream:
        writer_at(stream.fileno())(0, memoryview(bytes(1 << 20)))

    assert (tmp_path / "f").stat().st_size == 1 << 20
