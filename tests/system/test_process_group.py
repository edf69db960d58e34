"""Ranks as threads of one process: what they agree on, and what becomes of an error."""

from pathlib import Path

import pytest
import torch

from support.rank_threads import together
from swa_cli.averaging import Engine, average, plan_average, verify
from swa_cli.averaging.distributed import average_together
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import CheckpointError, MismatchError, NonFiniteError, OutputError
from swa_cli.formats.provenance_text import read_provenance
from swa_cli.outputs import Target
from swa_cli.system import process_group as ranks_module
from swa_cli.system.process_group import Ranks


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    for step in (1, 2, 3):
        state = {f"{name}.weight": torch.randn(20, 30) for name in "abcdef"}
        state |= {"frozen.running_mean": torch.ones(3), "frozen.running_var": torch.ones(3)}
        torch.save(state | {"bn.num_batches_tracked": torch.tensor(step)}, tmp_path / "run" / f"{step}.pt")
    return tmp_path


def plan_of(folder: Path):
    return plan_average(find_checkpoints([folder / "run"]).checkpoints)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("checksum", [True, False])
def test_however_many_there_are_the_tensors_are_the_same(folder, monkeypatch, size, checksum):
    average(plan_of(folder), folder / "one.safetensors")
    target = Target(path=folder / "out")

    results = together(
        size,
        monkeypatch,
        lambda ranks: average_together(plan_of(folder), target, ranks, checksum=checksum, engine=Engine(device="cpu")),
    )

    assert all(result.n_averaged == 3 for result in results)
    assert all(result.frozen_bn == ("frozen",) for result in results)
    one, many = open_single(folder / "one.safetensors"), open_single(folder / "out")
    assert all(torch.equal(one.get_tensor(name), many.get_tensor(name)) for name in one.tensors)
    assert verify(many).has_checksums is checksum
    records = [read_provenance(average.metadata) for average in (one, many)]
    assert [record and record.frozen_bn for record in records] == [("frozen",), ("frozen",)]


def test_an_error_of_one_is_an_error_of_all(folder, monkeypatch):
    contents = torch.load(folder / "run" / "2.pt")
    contents["c.weight"][3, 4] = torch.inf
    torch.save(contents, folder / "run" / "2.pt")
    target = Target(path=folder / "out")

    errors = together(3, monkeypatch, lambda ranks: average_together(plan_of(folder), target, ranks))

    assert {type(error) for error in errors} == {NonFiniteError}
    assert len({str(error) for error in errors}) == 1
    assert [path.name for path in folder.iterdir()] == ["run"]


def test_a_source_that_one_finds_changed_while_it_looks_for_frozen_layers_ends_all(folder, monkeypatch):
    def work(ranks: Ranks):
        plan = plan_of(folder)
        ranks.step(lambda: None)
        if ranks.rank == 0:
            torch.save({}, folder / "run" / "2.pt")
        return average_together(plan, Target(path=folder / "out"), ranks)

    errors = together(2, monkeypatch, work)

    assert {type(error) for error in errors} == {CheckpointError}
    assert all("2.pt was changed while it was read" in str(error) for error in errors)
    assert [path.name for path in folder.iterdir()] == ["run"]


def test_an_output_that_appears_meanwhile_is_kept(folder, monkeypatch):
    target = Target(path=folder / "out")

    def work(ranks: Ranks):
        plan = plan_of(folder)
        step = Ranks.step
        if ranks.rank == 0:

            def late(self, part):
                (folder / "out").mkdir(exist_ok=True)
                (folder / "out" / "mine.txt").write_text("mine")
                return step(self, part)

            object.__setattr__(ranks, "tell", lambda part: late(ranks, part))
        else:
            object.__setattr__(ranks, "tell", lambda _: ranks.step(lambda: None))
        return average_together(plan, target, ranks)

    errors = together(2, monkeypatch, work)

    assert {type(error) for error in errors} == {OutputError}
    assert (folder / "out" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["out", "run"]


def test_ranks_that_see_other_files_do_not_go_on(folder, monkeypatch):
    def work(ranks: Ranks):
        plan = plan_average(find_checkpoints([folder / "run"]).checkpoints[: 2 + ranks.rank])
        return average_together(plan, Target(path=folder / "out"), ranks)

    errors = together(2, monkeypatch, work)

    assert {type(error) for error in errors} == {MismatchError}
    assert "the ranks do not see the same checkpoints" in str(errors[0])


def test_a_bug_on_one_rank_is_told_to_all(monkeypatch):
    def work(ranks: Ranks):
        def part() -> int:
            if ranks.rank == 1:
                raise AssertionError("never")
            return ranks.rank

        return ranks.step(part)

    errors = together(3, monkeypatch, work)

    assert {str(error) for error in errors} == {"rank 1 failed: AssertionError: never."}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 1, "cuda")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 1, "cuda")),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, (3, 4, 2, "cuda:1")),
    ],
)
def test_what_torchrun_says(monkeypatch, environment, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    found = ranks_module.own_rank(), ranks_module.world_size(), ranks_module.local_size()

    assert (*found, ranks_module.own_device("cuda")) == expected
    assert ranks_module.own_device("cuda:0") == "cuda:0"


def test_the_first_that_is_left_speaks(monkeypatch):
    host = ranks_module.socket.gethostname()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for peers in ([], [(host, 2**22 + 1)], [(host, 1)], [("elsewhere", 2**22 + 1)]):
        monkeypatch.setattr(ranks_module, "_peers", [*peers, (host, 2)])
        said.append(ranks_module.is_reporting_rank())

    assert said == [False, True, False, False]
