"""Whenever a run is killed, its output is the old one whole or the new one whole, and the next run tidies up.

``pytest tests/processes/test_kills.py --kills 200`` kills that many runs of each kind of output.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.killed import __file__ as killed_script
from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import OutputError
from swa_cli.outputs import Like, Target
from swa_cli.system import atomic_directory, atomic_file, temporary_paths

pytestmark = pytest.mark.slow

KINDS = {
    "file": ("out.safetensors", "-", "-"),
    "torch file": ("out.pt", "-", "-"),
    "like a torch file": ("out.pth", "run-0/step-1.pt", "-"),
    "shards": ("out", "-", "1500000"),
    "like a folder": ("out", "model", "-"),
}


@pytest.fixture
def folder(tmp_path):
    """Two runs, and a folder as Hugging Face leaves it."""
    for run in (0, 1):
        (tmp_path / f"run-{run}").mkdir()
        for step in (1, 2, 3):
            state = {f"{name}.weight": torch.randn(250_000) for name in "abcdefgh"}
            torch.save({"model": state, "optimizer": {}, "epoch": step}, tmp_path / f"run-{run}" / f"step-{step}.pt")
    (tmp_path / "model").mkdir()
    save_file({f"{name}.weight": torch.zeros(250_000) for name in "abcdefgh"}, tmp_path / "model/model.safetensors")
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def start(folder: Path, run: int, kind: str) -> "subprocess.Popen[bytes]":
    arguments = [sys.executable, killed_script, f"run-{run}", *KINDS[kind]]
    process = subprocess.Popen(arguments, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


def go(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()


def finish(folder: Path, run: int, kind: str) -> float:
    """Let a run end by itself; the seconds that it took."""
    with start(folder, run, kind) as process:
        begin = time.perf_counter()
        go(process)
        assert process.wait() == 0
        return time.perf_counter() - begin


def wait_until_it_writes(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    """What is not in place yet has a hidden name."""
    while process.poll() is None and not hidden(folder):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_leaves_the_old_output_or_the_new_one(folder, kind, request):
    output = folder / KINDS[kind][0]
    whole: dict[str, int] = {}
    seconds = 0.0
    for run in (1, 0):
        seconds = finish(folder, run, kind)
        whole[digest(output)] = run
    before = visible(folder)
    assert hidden(folder) == []
    left_something = 0

    for number in range(request.config.getoption("--kills")):
        with start(folder, 1 - whole[digest(output)], kind) as process:
            go(process)
            if number % 2:
                time.sleep(random.uniform(0, 1.1 * seconds))
            else:
                wait_until_it_writes(folder, process)
            process.kill()

        assert digest(output) in whole
        assert visible(folder) == before
        assert open_single(output).tensors
        left_something += hidden(folder) != []

    finish(folder, 1, kind)
    assert whole[digest(output)] == 1
    assert hidden(folder) == []
    assert left_something > 0, "no run was killed while it wrote"


def test_what_a_killed_run_left_is_no_checkpoint(folder):
    while not hidden(folder):
        with start(folder, 0, "shards") as process:
            go(process)
            time.sleep(random.uniform(0, 0.05))
            process.kill()
    for path in folder.iterdir():
        if not path.name.startswith((".", "run-0")):
            shutil.rmtree(path)

    found = find_checkpoints([folder]).checkpoints

    assert [checkpoint.path.name for checkpoint in found] == ["step-1.pt", "step-2.pt", "step-3.pt"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_under_way_is_left_alone(folder, kind):
    """What another run writes to the same target at the same time is not taken for what a killed one left."""
    finish(folder, 0, kind)
    first, second = start(folder, 0, kind), start(folder, 1, kind)
    with first, second:
        go(first)
        go(second)
        codes = {first.wait(), second.wait()}

    assert codes == {0}
    assert hidden(folder) == []
    assert open_single(folder / KINDS[kind][0]).tensors


@pytest.mark.parametrize(
    ("folder", "step"), [(True, "_open_folder"), (True, "lock"), (False, "lock")], ids=["made", "opened", "a file"]
)
def test_what_another_run_clears_before_it_is_locked_is_made_again(tmp_path, monkeypatch, folder, step):
    """A new temporary file or folder looks like what a killed run left until its lock is held."""
    target, after = tmp_path / "out", getattr(temporary_paths, step)
    cleared: list[Path] = []

    def cleared_before(*arguments: object, **options: object) -> object:
        if not cleared:
            cleared.extend(tmp_path.iterdir())
            for path in cleared:
                temporary_paths.remove(path)
        return after(*arguments, **options)

    monkeypatch.setattr(temporary_paths, step, cleared_before)

    with temporary_paths.temporary(target, folder=folder) as (path, descriptor):
        assert cleared == [path]
        assert path.is_dir() == folder
        assert os.path.samestat(path.stat(), os.fstat(descriptor))
        temporary_paths.clear(target)
        assert path.exists()


def test_where_names_cannot_change_places_a_kill_in_between_is_undone(folder, monkeypatch):
    """File systems without renameat2: the old folder is moved away first, and put back by the next run."""
    target = Target(path=folder / "out", max_shard_size=1_500_000)
    plans = [plan_average(find_checkpoints([folder / f"run-{run}"]).checkpoints) for run in (0, 1)]
    average(plans[0], target)
    first = digest(target.path)
    refused = OSError(22, "Invalid argument")
    monkeypatch.setattr(atomic_directory, "_exchange", lambda *_: (_ for _ in ()).throw(refused))

    average(plans[1], target, overwrite=True)

    second = digest(target.path)
    assert second != first
    assert hidden(folder) == []

    rename = Path.rename
    moves: list[Path] = []

    def killed_after_the_first(path: Path, to: Path) -> Path:
        moves.append(path)
        if path.name == "out":
            return rename(path, to)
        raise SystemExit

    monkeypatch.setattr(Path, "rename", killed_after_the_first)
    with pytest.raises(SystemExit):
        atomic_directory._replace_in_two_steps(folder / "model", target.path)
    monkeypatch.undo()
    assert moves[:2] == [target.path, folder / "model"]
    assert not target.path.exists()

    with pytest.raises(OutputError, match="exists already"):
        average(plans[0], target)

    assert digest(target.path) == second
    assert hidden(folder) == []


@pytest.fixture
def small_disk(folder):
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_the_old_output_and_nothing_else(folder, small_disk, kind, monkeypatch):
    name, like, shard = KINDS[kind]
    structure = None if like == "-" else Like(checkpoint=open_single(folder / like), key=None)
    target = Target(path=small_disk / name, like=structure, max_shard_size=None if shard == "-" else int(shard))
    plans = [plan_average(find_checkpoints([folder / f"run-{run}"]).checkpoints) for run in (0, 1)]
    average(plans[0], target)
    before = digest(target.path)
    (small_disk / "other").write_bytes(bytes(8_000_000))

    with pytest.raises(OutputError, match=r"it takes 8,\d{3},\d{3} bytes, and \d,\d{3},\d{3} are free there"):
        average(plans[1], target, overwrite=True)
    for module in (atomic_file, atomic_directory):  # as when another program fills the disk meanwhile
        monkeypatch.setattr(module, "check_space", lambda *_: None)
    with pytest.raises(OutputError, match=r"No space left on device\. Nothing was left behind; free some space"):
        average(plans[1], target, overwrite=True)

    assert digest(target.path) == before
    assert (visible(small_disk), hidden(small_disk)) == (sorted(["other", name]), [])

    (small_disk / "other").unlink()
    average(plans[1], target, overwrite=True)
    assert digest(target.path) != before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_ended_leaves_nothing(folder, kind, number):
    output, like, shard = KINDS[kind]
    form = [*(["--like", like] if like != "-" else []), *(["--max-shard-size", shard] if shard != "-" else [])]
    program = [sys.executable, "-m", "swa_cli", "average", "run-0", "-o", output, *form]
    for _ in range(4):
        with subprocess.Popen(program, cwd=folder, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 10
            while not hidden(folder) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(number)
            process.wait()

        assert hidden(folder) == []
        if (folder / output).exists():
            assert open_single(folder / output).tensors
            shutil.rmtree(folder / output) if (folder / output).is_dir() else (folder / output).unlink()
