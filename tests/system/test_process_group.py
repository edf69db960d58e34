"""Ranks as threads of one process: what they agree on, and what becomes of an error."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from support.rank_threads import together
from swa_cli.averaging import Engine, average, plan_average, verify
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import CheckpointError, MismatchError, NonFiniteError, OutputError, RankError
from swa_cli.formats.provenance_text import read_provenance
from swa_cli.outputs import Target
from swa_cli.system import process_group as ranks_module
from swa_cli.system.process_group import ALONE, ProcessGroup


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


@pytest.mark.parametrize("size", [2, 5, 9])
@pytest.mark.parametrize("checksum", [True, False])
def test_however_many_there_are_the_tensors_are_the_same(folder, size, checksum):
    average(plan_of(folder), folder / "one.safetensors")
    target = Target(path=folder / "out")

    results = together(
        size,
        lambda ranks: average(plan_of(folder), target, group=ranks, checksum=checksum, engine=Engine(device="cpu")),
    )

    assert all(result.n_averaged == 3 for result in results)
    assert all(result.frozen_bn == ("frozen",) for result in results)
    one, many = open_single(folder / "one.safetensors"), open_single(folder / "out")
    assert all(torch.equal(one.get_tensor(name), many.get_tensor(name)) for name in one.tensors)
    assert verify(many).has_checksums is checksum
    records = [read_provenance(average.metadata) for average in (one, many)]
    assert [record and record.frozen_bn for record in records] == [("frozen",), ("frozen",)]


def test_an_error_of_one_is_an_error_of_all(folder):
    contents = torch.load(folder / "run" / "2.pt")
    contents["c.weight"][3, 4] = torch.inf
    torch.save(contents, folder / "run" / "2.pt")
    target = Target(path=folder / "out")

    errors = together(3, lambda ranks: average(plan_of(folder), target, group=ranks))

    assert {type(error) for error in errors} == {NonFiniteError}
    assert len({str(error) for error in errors}) == 1
    assert [path.name for path in folder.iterdir()] == ["run"]


def test_a_folder_that_cannot_be_made_is_one_error(folder):
    errors = together(2, lambda ranks: average(plan_of(folder), Target(path=folder / "no" / "out"), group=ranks))

    assert {type(error) for error in errors} == {OutputError}
    assert f"there is no directory {folder / 'no'}" in str(errors[0])


def test_a_source_that_one_finds_changed_while_it_looks_for_frozen_layers_ends_all(folder):
    def work(ranks: ProcessGroup):
        plan = plan_of(folder)
        ranks.own(lambda: None)
        if ranks.rank == 0:
            torch.save({}, folder / "run" / "2.pt")
        return average(plan, Target(path=folder / "out"), group=ranks)

    errors = together(2, work)

    assert {type(error) for error in errors} == {CheckpointError}
    assert all("2.pt was changed while it was read" in str(error) for error in errors)
    assert [path.name for path in folder.iterdir()] == ["run"]


def test_an_output_that_appears_meanwhile_is_kept(folder):
    @contextmanager
    def late(*_, **__):
        yield lambda _: None
        (folder / "out").mkdir(exist_ok=True)
        (folder / "out" / "mine.txt").write_text("mine")

    errors = together(2, lambda ranks: average(plan_of(folder), Target(path=folder / "out"), group=ranks, track=late))

    assert {type(error) for error in errors} == {OutputError}
    assert (folder / "out" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["out", "run"]


def test_ranks_that_see_other_files_do_not_go_on(folder):
    def work(ranks: ProcessGroup):
        plan = plan_average(find_checkpoints([folder / "run"]).checkpoints[: 2 + ranks.rank])
        return average(plan, Target(path=folder / "out"), group=ranks)

    errors = together(2, work)

    assert {type(error) for error in errors} == {MismatchError}
    assert "the ranks do not see the same checkpoints" in str(errors[0])


def test_a_bug_on_one_rank_is_told_to_all():
    def work(ranks: ProcessGroup):
        def part() -> int:
            if ranks.rank == 1:
                raise AssertionError("never")
            return ranks.rank

        return ranks.gather(part)

    errors = together(3, work)

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


def test_a_rank_s_own_value_need_not_be_fit_to_be_sent():
    found = together(3, lambda ranks: ranks.own(lambda: lambda: ranks.rank)())

    assert found == [0, 1, 2]


def test_the_first_does_a_step_for_all():
    found = together(3, lambda ranks: ranks.first(lambda: f"by rank {ranks.rank}"))

    assert found == ["by rank 0"] * 3


@pytest.mark.parametrize(("values", "same"), [([4, 4, 4], True), ([4, 4, 5], False), ([[1], [1], [1]], True)])
def test_whether_all_ranks_have_the_same(values, same):
    assert together(3, lambda ranks: ranks.same(lambda: values[ranks.rank])) == [same] * 3


def test_only_the_first_has_the_result_of_the_last_step():
    assert together(3, lambda ranks: ranks.finish(lambda: "done")) == ["done", None, None]


def test_an_error_of_the_last_step_is_one_of_all_ranks():
    def fail() -> None:
        raise OutputError("no space")

    errors = together(3, lambda ranks: ranks.finish(fail))

    assert [str(error) for error in errors] == ["no space"] * 3


def test_the_last_step_needs_no_other_rank():
    """As where torchrun has ended a rank that had nothing left to do."""

    class Gone:
        def gather(self, value):
            raise RankError("another rank ended")

        def wait_for_first(self) -> None: ...

    assert ProcessGroup(rank=0, size=2, transport=Gone()).finish(lambda: "done") == "done"
    with pytest.raises(RankError):
        ProcessGroup(rank=1, size=2, transport=Gone()).finish(lambda: "done")


def test_an_error_on_a_rank_s_own_data_names_the_rank():
    def work(ranks: ProcessGroup):
        def part() -> None:
            if ranks.rank == 2:
                raise CheckpointError("batch 7: NaN")

        return ranks.gather(part, own_data=True)

    assert {str(error) for error in together(3, work)} == {"rank 2: batch 7: NaN"}


def test_a_single_process_is_a_group_of_one():
    def fail() -> None:
        raise AssertionError("a bug")

    assert (ALONE.gather(lambda: 1), ALONE.own(lambda: 2), ALONE.first(lambda: 3), ALONE.finish(lambda: 4)) == (
        [1], 2, 3, 4,
    )  # fmt: skip
    assert ALONE.same(fail)  # as nothing could differ
    with pytest.raises(AssertionError, match="a bug"):  # with its own traceback
        ALONE.own(fail)


def test_a_single_process_does_without_torch():
    code = (
        "import sys; from swa_cli.system.torchrun import process_group\n"
        "with process_group() as group: print(group.size, group.own(lambda: 1), 'torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "1", "False"]
