"""Several ranks under torchrun give what one process gives, or nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.ranks_program import __file__ as program
from swa_cli.averaging import average, distributed, plan_average, verify
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import UsageError
from swa_cli.outputs import Target
from swa_cli.system.process_group import ProcessGroup

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A run of three checkpoints, with tied tensors and integers, and a folder as Hugging Face leaves it."""
    (tmp_path / "run").mkdir()
    for step in (1, 2, 3):
        shared = torch.randn(300, 20)
        state = {f"{name}.weight": torch.randn(200, 30) for name in "abcdef"}
        state |= {"in.weight": shared, "out.weight": shared, "bn.num_batches_tracked": torch.tensor(step)}
        torch.save({"model": state, "epoch": step}, tmp_path / "run" / f"{step}.pt")
    return tmp_path


def start(folder: Path, ranks: int, *arguments: str, hang: int | None = None) -> "subprocess.Popen[str]":
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"COLUMNS": "200"}
    if hang is not None:
        environment["HANG_RANK"] = str(hang)
    return subprocess.Popen(
        [*torchrun, program, "average", "run", "-o", "out", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(folder: Path, ranks: int, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and what our own lines on standard error say."""
    process = start(folder, ranks, *arguments)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, ours(stderr)


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


def ours(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith(("error:", "note:"))]


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_give_the_tensors_of_one_process(folder, ranks):
    average(plan_average(find_checkpoints([folder / "run"]).checkpoints), folder / "one.safetensors")

    code, stdout, said = run(folder, ranks)

    assert (code, said) == (0, ["note: tied tensors are averaged and written once: out.weight = in.weight."])
    assert stdout.startswith("Averaged 3 checkpoints (run/1.pt to run/3.pt) into out.\nRead ")
    one, together = open_single(folder / "one.safetensors"), open_single(folder / "out")
    assert set(together.tensors) == set(one.tensors)
    for name in one.tensors:
        assert torch.equal(together.get_tensor(name), one.get_tensor(name))
    assert len(together.files) >= ranks
    assert verify(together).n_sources == 3
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_shards_of_another_checkpoint(folder):
    (folder / "model").mkdir()
    average(
        plan_average(find_checkpoints([folder / "run"]).checkpoints),
        Target(path=folder / "model", max_shard_size=60_000),
    )
    (folder / "model" / "config.json").write_text('{"model_type": "none"}')

    code, _, _ = run(folder, 2, "--like", "model")

    assert code == 0
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == sorted(path.name for path in (folder / "model").iterdir())
    assert verify(open_single(folder / "out")).n_sources == 3


@pytest.mark.parametrize("killed", [0, 1, 2])
@pytest.mark.parametrize("exists", [True, False])
def test_a_rank_that_is_killed_ends_all_with_one_message_and_no_output(folder, killed, exists):
    if exists:
        target = Target(path=folder / "out", max_shard_size=60_000)
        average(plan_average(find_checkpoints([folder / "run"]).checkpoints[:2]), target)
    before = {path.name: path.read_bytes() for path in (folder / "out").iterdir()} if exists else {}
    process = start(folder, 3, "--force", hang=killed)
    wait_for(process, lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    time.sleep(0.5)  # the others have done their share, and wait

    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode != 0
    assert stdout == ""
    said = [line for line in ours(stderr) if line.startswith("error:")]
    assert len(said) == 1, stderr
    assert re.search(
        r"another rank ended.*; nothing was written", said[0]
    )  # told by the rank's silence, or by torchrun
    if exists:
        assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == before
    else:
        assert not (folder / "out").exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def process_of(rank: int, torchrun: int) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == torchrun and f"\0RANK={rank}\0" in (path / "environ").read_text():
                return int(path.name)
    raise AssertionError(f"no rank {rank}")


def test_a_rank_that_hears_late_of_the_end_does_not_tell_it_again(folder):
    process = start(folder, 3, hang=2)
    wait_for(process, lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    first, late = process_of(0, process.pid), process_of(1, process.pid)
    os.kill(late, signal.SIGSTOP)

    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    wait_for(process, lambda: not Path(f"/proc/{first}/fd/0").exists())
    os.kill(late, signal.SIGCONT)
    stderr = process.communicate(timeout=60)[1]

    said = [line for line in ours(stderr) if line.startswith("error:")]
    assert len(said) == 1, stderr


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ((), "out exists already", 1),
        (("--last", "9", "--force"), "--last 9: there are only 3 checkpoints", 1),
        (("-o", "swa.safetensors"), "several ranks write a directory of shards", 2),
        (("-o", "no/out"), "there is no directory", 1),
    ],
)
def test_an_error_is_said_once(folder, arguments, message, code):
    (folder / "out").mkdir()
    target = Target(path=folder / "out", max_shard_size=60_000)
    average(plan_average(find_checkpoints([folder / "run"]).checkpoints), target)

    process = start(folder, 2, *arguments)
    stdout, stderr = process.communicate(timeout=120)

    assert (process.returncode, stdout) == (1, "")  # torchrun's own code
    said = [line for line in ours(stderr) if line.startswith("error:")]
    assert len(said) == 1, stderr
    assert message in said[0]
    assert f"exitcode  : {code}" in stderr


def test_a_source_that_one_rank_finds_damaged(folder):
    """NaN in the tensor of one rank's share: the others hear of it."""
    contents = torch.load(folder / "run" / "2.pt")
    contents["model"]["d.weight"][7, 7] = torch.nan
    torch.save(contents, folder / "run" / "2.pt")

    code, _, said = run(folder, 3)

    assert code == 1
    errors = [line for line in said if line.startswith("error:")]
    assert len(errors) == 1
    assert "run/2.pt: tensor d.weight holds nan at index [7, 7]" in errors[0]
    assert not (folder / "out").exists()


def test_a_single_file_is_refused(folder):
    plan = plan_average(find_checkpoints([folder / "run"]).checkpoints)

    with pytest.raises(UsageError, match=r"Give `output` the name of one, without \.pt"):
        distributed.shared_out(Target(path=folder / "out.pt"), plan.bytes_to_write, ProcessGroup(size=2))


def test_shards_are_small_enough_for_all_ranks(tmp_path):
    save_file({f"w{number}": torch.zeros(1000) for number in range(10)}, tmp_path / "1.safetensors")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)

    shared = distributed.shared_out(Target(path=tmp_path / "out"), plan.bytes_to_write, ProcessGroup(size=4))
    smaller = distributed.shared_out(
        Target(path=tmp_path / "out", max_shard_size=5000), plan.bytes_to_write, ProcessGroup(size=4)
    )

    assert (shared.max_shard_size, smaller.max_shard_size) == (10_000, 5000)
