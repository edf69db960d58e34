"""One way to read files, be they here or behind a URL."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from fsspec.config import conf

from swa_cli.system.storage import Url, is_there, locate, open_file, read_file, storage_of

CONTENT = Random(0).randbytes(100_000)


@pytest.fixture(params=["local", "memory", "store"])
def folder(request, tmp_path, memory, store):
    """A folder with ``a.bin``, ``b/c.bin`` and ``b/d/e.bin``, in each place that files can lie."""
    for name in ("a.bin", "b/c.bin", "b/d/e.bin"):
        if request.param == "local":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(CONTENT)
        elif request.param == "memory":
            memory.pipe_file(f"/run/{name}", CONTENT)
        else:
            store.add(f"run/{name}", CONTENT)
    return tmp_path if request.param == "local" else Url(f"{request.param}://run")


def test_any_bytes_are_read(folder):
    with open_file(folder / "a.bin") as file:
        assert file.size == file.stamp.size == len(CONTENT)
        assert file.read(0, 10) == CONTENT[:10]
        assert file.read(99_990, 100) == CONTENT[-10:]
        assert file.read(200_000, 5) == b""
        assert file.read(7, 0) == b""
    assert read_file(folder / "a.bin") == CONTENT


def test_many_views_are_filled_one_after_the_other(folder):
    chosen = Random(1)
    buffers = [bytearray(chosen.choice([0, 0, 1, 7, 40])) for _ in range(5000)]
    size = sum(map(len, buffers))

    with open_file(folder / "a.bin") as file:
        assert file.read_into(123, [memoryview(buffer) for buffer in buffers]) == 0
        assert b"".join(buffers) == CONTENT[123 : 123 + size]
        assert file.read_into(99_990, [memoryview(bytearray(7)), memoryview(bytearray(7))]) == 4
        assert file.read_into(100_000, [memoryview(bytearray(3))]) == 3
        assert file.read_into(5, []) == 0


def test_threads_share_a_file(folder):
    def read(seed: int) -> bool:
        chosen = Random(seed)
        for _ in range(50):
            start = chosen.randrange(len(CONTENT))
            view = bytearray(chosen.randrange(1, 3000))
            missing = file.read_into(start, [memoryview(view)])
            if bytes(view[: len(view) - missing]) != CONTENT[start : start + len(view)]:
                return False
        return True

    with open_file(folder / "a.bin") as file, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(16)))


def test_directories_are_listed(folder):
    storage = storage_of(folder)

    assert sorted(storage.listing(folder)) == [(folder / "a.bin", True, False), (folder / "b", False, True)]
    assert sorted(storage.files_below(folder)) == [folder / name for name in ("a.bin", "b/c.bin", "b/d/e.bin")]
    assert storage.exists(folder / "b" / "c.bin")
    assert storage.exists(folder / "b")
    assert not storage.exists(folder / "c.bin")
    assert is_there(folder / "a.bin")
    assert not is_there(folder / "c.bin")


def test_a_stamp_is_that_of_the_contents(folder, memory, store):
    path = folder / "a.bin"
    storage = storage_of(path)
    before = storage.stamp(path)

    with open_file(path) as file:
        assert file.stamp == before == storage.stamp(path)
    if isinstance(path, Path):
        path.write_bytes(CONTENT[::-1])
        os.utime(path, (1, 1))
    else:
        memory.pipe_file("/run/a.bin", CONTENT[::-1])
        store.add("run/a.bin", CONTENT[::-1])
    assert storage.stamp(path) != before
    assert storage.stamp(path).size == before.size
    assert storage.stamp(path).identity == before.identity


def test_what_cannot_be_opened_is_said_in_the_same_words(folder):
    with pytest.raises(FileNotFoundError) as missing:
        open_file(folder / "c.bin")
    with pytest.raises(IsADirectoryError) as directory:
        open_file(folder / "b")
    with pytest.raises(OSError, match="it holds 100,000 bytes, expected at most 99,999"):
        read_file(folder / "a.bin", most=99_999)

    assert missing.value.strerror == "No such file or directory"
    assert missing.value.filename == str(folder / "c.bin") or missing.value.filename == folder / "c.bin"
    assert directory.value.strerror == "it is a directory, not a regular file"


def test_each_range_is_one_request(store):
    store.add("run/a.bin", CONTENT)

    with open_file(Url("store://run/a.bin")) as file:
        assert store.requests == []
        file.read_into(1000, [memoryview(bytearray(10)), memoryview(bytearray(20))])
        file.read(99_990, 50)
        file.read(100_000, 50)

    assert store.requests == [("run/a.bin", 1000, 1030), ("run/a.bin", 99_990, 100_000)]


def test_a_server_may_send_less_than_was_asked_for(store):
    store.add("run/a.bin", CONTENT)
    store.answer = lambda _, content: content[:777]
    views = [memoryview(bytearray(1000)) for _ in range(5)]

    with open_file(Url("store://run/a.bin")) as file:
        assert file.read_into(50, views) == 0

    assert b"".join(views) == CONTENT[50:5050]


def test_an_object_that_shrank_lacks_bytes(store):
    store.add("run/a.bin", CONTENT)

    with open_file(Url("store://run/a.bin")) as file:
        store.add("run/a.bin", CONTENT[:1000])
        assert file.read_into(990, [memoryview(bytearray(6)), memoryview(bytearray(30))]) == 26


@pytest.mark.parametrize(
    ("raised", "number", "reason"),
    [
        (RuntimeError("An error occurred (SlowDown).\nTry again"), errno.EIO, "An error occurred (SlowDown)"),
        (KeyError(), errno.EIO, "KeyError"),
        (FileNotFoundError("run/a.bin"), errno.ENOENT, "No such file or directory"),
        (PermissionError("Forbidden"), errno.EACCES, "Permission denied"),
        (TimeoutError(), errno.ETIMEDOUT, "Connection timed out"),
        (OSError(errno.ENOTCONN, "not connected"), errno.ENOTCONN, "not connected"),
    ],
)
def test_whatever_a_file_system_raises_is_an_os_error_with_a_reason(store, raised, number, reason):
    store.add("run/a.bin", CONTENT)

    def fail(*_: object) -> bytes:
        raise raised

    store.answer = fail

    with open_file(Url("store://run/a.bin")) as file, pytest.raises(OSError) as error:
        file.read(0, 1)
    assert (error.value.errno, error.value.strerror) == (number, reason)


def test_unknown_schemes_and_chains_in_names_are_refused():
    with pytest.raises(OSError) as unknown:
        open_file(Url("nowhere://run/a.bin"))
    with pytest.raises(OSError) as chained:
        open_file(Url("memory://run") / "x::file" / "etc" / "passwd")

    assert unknown.value.strerror == "Protocol not known: nowhere"
    assert chained.value.strerror == "a name in a URL holds no '::'"


def test_a_size_must_be_known(memory, monkeypatch):
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: {"name": "/run/a.bin", "type": "file", "size": None})

    with pytest.raises(OSError, match="its size is not known"):
        open_file(Url("memory://run/a.bin"))


def test_a_chain_before_the_url_is_for_fsspec(tmp_path, memory, monkeypatch):
    memory.pipe_file("/run/a.bin", CONTENT)
    monkeypatch.setitem(conf, "filecache", {"cache_storage": str(tmp_path)})

    assert read_file(locate("filecache::memory://run/a.bin")) == CONTENT


def test_a_url_is_no_path_of_this_machine():
    url = Url("s3://bucket/run/1.pt")

    with pytest.raises(TypeError, match=r"s3://bucket/run/1\.pt is a URL, not a path of this machine"):
        os.stat(url)  # noqa: PTH116
    assert locate(str(url)) == url
    assert isinstance(url.with_name("2.pt"), Url)
    assert str(url.with_name("2.pt")) == "s3://bucket/run/2.pt"
    assert str(url.parent.parent) == "s3://bucket"
    assert str(url.parent.joined("../other/2.pt")) == "s3://bucket/other/2.pt"
    assert not isinstance(locate("s3:bucket"), Url)
