"""Safetensors parts of torch.distributed.checkpoint: a directory of them is one checkpoint, or is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support.dcp_parts import INFO, save_part, save_parts, shards, state_of
from support.processes import torchrun
from support.references import mean_rounded_once
from support.runs import same
from swa_cli.averaging import average, plan_average, verify
from swa_cli.checkpoints import find_checkpoints, inspect_checkpoints, open_single
from swa_cli.errors import CheckpointError, MismatchError, SourceError, UsageError, VerifyError
from swa_cli.formats import open_checkpoint
from swa_cli.outputs import Like, Target, check_target

PROGRAM = Path(__file__).parents[1] / "support" / "dcp_program.py"
STEPS = (1, 2, 10)


def run_of(folder: Path, ranks: int, files: int = 1) -> Path:
    """A directory for each step."""
    for step in STEPS:
        save_parts(state_of(step), folder / f"step-{step}", ranks, files=files)
    return folder


def check_average(run: Path, output: Path) -> None:
    """Average a run of all `STEPS` and compare each bit with the mean of the whole tensors."""
    average(plan_average(find_checkpoints([run]).checkpoints), output)

    result = load_file(output)
    states = [state_of(step) for step in STEPS]
    assert result.keys() == states[0].keys()
    for name, tensor in result.items():
        expected = states[0][name] if name == "w.count" else mean_rounded_once([state[name] for state in states])
        assert same(tensor, expected), name


@pytest.mark.parametrize(("ranks", "files"), [(1, 1), (2, 1), (3, 2), (4, 1), (8, 3)])
def test_a_run_of_directories_is_averaged_as_if_each_were_one_file(tmp_path, ranks, files):
    run = run_of(tmp_path / "run", ranks, files)

    series = find_checkpoints([run])

    assert series.steps == STEPS
    assert [checkpoint.path for checkpoint in series.checkpoints] == [run / f"step-{step}" for step in STEPS]
    for step, checkpoint in zip(STEPS, series.checkpoints, strict=True):
        for name, tensor in state_of(step).items():
            assert same(checkpoint.get_tensor(name), tensor), name
    check_average(run, tmp_path / "average.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "files"), [(2, 1), (3, 2), (4, 1)])
def test_what_torch_writes_is_averaged_and_is_as_the_parts_made_here(tmp_path, ranks, files):
    for step in STEPS:
        torch.save(state_of(step), tmp_path / f"step-{step}.pt")
    written = torchrun(tmp_path, ranks, PROGRAM, tmp_path, files)
    assert written.returncode == 0, written.stderr

    check_average(tmp_path / "run", tmp_path / "average.safetensors")
    ours = save_parts(state_of(1), tmp_path / "ours", ranks, files=files)
    theirs = [tmp_path / "run" / "step-1" / path.name for path in sorted(ours.iterdir())]
    for path, other in zip(sorted(ours.iterdir()), theirs, strict=True):
        expected, found = load_file(path), load_file(other)
        for name in expected.keys() - {name for name in expected if name.startswith("w")}:  # on any one rank
            assert same(found[name], expected[name]), (path, name)
            assert starts_in(other)[name] == starts_in(path)[name]


def starts_in(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as opened:
        return json.loads(opened.metadata()[INFO])


def test_each_directory_is_inspected_as_one_checkpoint(tmp_path):
    found = inspect_checkpoints([run_of(tmp_path / "run", 3)])

    members = found.survey.order.members
    assert [member.path.name for member in members] == ["step-1", "step-2", "step-10"]
    assert {member.checkpoint.container for member in members} == {
        "torch.distributed.checkpoint (safetensors), 3 parts"
    }
    assert all(len(member.checkpoint.stamps) == 3 for member in members)
    assert any("does not record how many parts a checkpoint has" in notice for notice in found.notices)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("checksum", [True, False])
def test_verify_finds_a_flipped_bit_in_any_part(tmp_path, rank, checksum):
    run = run_of(tmp_path / "run", 3)
    output = tmp_path / "average.safetensors"
    average(plan_average(find_checkpoints([run]).checkpoints), output, checksum=checksum)
    verify(open_checkpoint(output))
    part = run / "step-2" / f"shard-{rank:05}-model-00001-of-00001.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)

    with pytest.raises(VerifyError) as error:
        verify(open_checkpoint(output))

    last = list(load_file(part))[-1]
    assert (str(part) if checksum else f"tensor {last}") in str(error.value)


def test_sources_that_were_moved_are_found(tmp_path):
    run = run_of(tmp_path / "run", 2)
    output = tmp_path / "average.safetensors"
    average(plan_average(find_checkpoints([run]).checkpoints), output)
    (tmp_path / "elsewhere").mkdir()
    run.rename(tmp_path / "elsewhere" / "moved")

    with pytest.raises(SourceError, match=r"step-1 is not there"):
        verify(open_checkpoint(output))
    assert verify(open_checkpoint(output), sources=tmp_path / "elsewhere").n_sources == 3


def part(directory: Path, rank: int, file: int = 1, files: int = 1) -> Path:
    return directory / f"shard-{rank:05}-model-{file:05}-of-{files:05}.safetensors"


def lose_a_rank(directory: Path) -> None:
    part(directory, 2).unlink()


def lose_a_corner(directory: Path) -> None:
    part(directory, 4).unlink()


def lose_files(directory: Path) -> None:
    shutil.rmtree(directory)
    save_parts(state_of(1), directory, 2, files=2)
    for rank in (1, 2):
        part(directory, rank, 1, 2).unlink()


def mix_ranks(directory: Path) -> None:
    other = save_parts(state_of(2), directory.parent / "other", 3)
    for rank in (1, 2, 3):
        shutil.copy(part(other, rank), directory)
    shutil.rmtree(other)


def mix_files(directory: Path) -> None:
    part(directory, 2).rename(part(directory, 2, 1, 2))


def edited(directory: Path, change: Callable[[dict[str, torch.Tensor], dict[str, dict[str, object]]], object]) -> None:
    """Write the second part anew with a change."""
    path = part(directory, 2)
    tensors, starts = load_file(path), starts_in(path)
    result = change(tensors, starts)  # pyright: ignore
    save_part(path, tensors, result if isinstance(result, str) else starts)


def start_of(name: str, start: object) -> Callable[..., object]:
    return lambda _tensors, starts: starts.update({name: {"saved_offsets": start}})


DAMAGE = {
    "a rank is missing": (lose_a_rank, r"step-1: these of its parts are missing:\n.*shard-00002-model-\*"),
    "the last rank is missing": (
        lose_a_corner,
        r"step-1: tensor [cg]\.\w+: expected [\d,]+ elements, of float\d+ \[.*\], found [\d,]+ in shard-00001",
    ),
    "a file of each rank is missing": (lose_files, r"step-1: these of its parts are missing:\n.*shard-\*-model-00001"),
    "parts of two saves": (
        mix_ranks,
        r"step-1: tensor [rcg]\.\w+: \[[\d:, ]+\] in shard-0000\d.*safetensors and \[.*\] in shard-0000\d\S+ overlap",
    ),
    "files of two saves": (
        mix_files,
        r"step-1: shard-00001\S+-of-00001.safetensors and shard-00002\S+ are parts of two",
    ),
    "another dtype": (
        lambda directory: edited(directory, lambda tensors, _: tensors.update({"r.even": tensors["r.even"].double()})),
        r"step-1: tensor r\.even is float32 \[3, 4\] in shard-00001\S+ and float64 \[3, 4\] in shard-00002\S+\. Files",
    ),
    "another shape": (
        lambda directory: edited(directory, lambda tensors, _: tensors.update({"r.even": tensors["r.even"][:2]})),
        r"step-1: tensor r\.even: expected 48 elements, of float32 \[12, 4\], found 44 in shard-00001",
    ),
    "overlapping boxes": (
        lambda directory: edited(directory, start_of("r.even", [2, 0])),
        r"step-1: tensor r\.even: \[0:3, 0:4\] in shard-00001\S+ and \[2:5, 0:4\] in shard-00002\S+ overlap",
    ),
    "a box far away": (
        lambda directory: edited(directory, start_of("r.even", [10**30, 0])),
        r"step-1: tensor r\.even: expected [\d,]+ elements, of float32 \[1000\d+, 4\], found 48",
    ),
    **{
        f"an offset {start}": (
            lambda directory, start=start: edited(directory, start_of("r.even", start)),
            r"shard-00002\S+: (DCP_SHARDING_INFO, which says|tensor r\.even is float32 \[3, 4\], and DCP_SHARD)",
        )
        for start in ([-1, 0], [0], [0, 0, 0], ["3", 0], [3.0, 0], [True, 0], None, "3")
    },
    "no offset": (
        lambda directory: edited(directory, lambda _, starts: starts.pop("r.even") and None),
        r"shard-00002\S+: tensor r\.even is float32 \[3, 4\], and DCP_SHARDING_INFO says that it starts at None",
    ),
    **{
        f"offsets {text[:9]}": (
            lambda directory, text=text: edited(directory, lambda _tensors, _starts: text),
            r"shard-00002\S+: DCP_SHARDING_INFO, which says where its shards start, cannot be read \(.+\)\. It is",
        )
        for text in (
            "",
            "[]",
            "{",
            '{"r.even": [0, 0]}',
            "[" * 10_000,
            "[," * 100_000,
            "\ud800".encode(errors="replace").decode(),
        )
    },
    "a truncated part": (
        lambda directory: part(directory, 2).write_bytes(part(directory, 2).read_bytes()[:-1]),
        r"shard-00002\S+: not a whole safetensors file",
    ),
    "a part without offsets": (
        lambda directory: save_file(load_file(part(directory, 2)), part(directory, 2)),
        r"shard-00002\S+: DCP_SHARDING_INFO, which says where its shards start, cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_parts_that_do_not_make_up_a_checkpoint_are_refused(tmp_path, damage):
    damaged, message = DAMAGE[damage]
    run = run_of(tmp_path / "run", 4)
    damaged(run / "step-1")

    with pytest.raises(CheckpointError, match=message) as error:
        find_checkpoints([run])

    assert str(run / "step-1") in str(error.value)


def test_a_part_by_itself_is_refused(tmp_path):
    run = run_of(tmp_path / "run", 4)

    for paths in ([part(run / "step-1", 1)], [part(run / f"step-{step}", 3) for step in STEPS]):
        with pytest.raises(
            CheckpointError, match=r"is one of the 4 parts of a checkpoint\. Name their directory, "
        ) as error:
            find_checkpoints(paths)
        assert f"{paths[0]} is" in str(error.value)


def test_a_part_under_another_name_is_refused_unless_it_is_whole(tmp_path):
    shutil.copy(part(save_parts(state_of(1), tmp_path / "four", 4), 2), tmp_path / "part.safetensors")
    shutil.copy(part(save_parts(state_of(1), tmp_path / "one", 1), 1), tmp_path / "whole.safetensors")

    with pytest.raises(CheckpointError, match=r"part\.safetensors: tensor \S+: expected \d+ elements, of "):
        open_checkpoint(tmp_path / "part.safetensors")
    whole = open_checkpoint(tmp_path / "whole.safetensors")
    assert whole.container == "safetensors"
    assert same(whole.get_tensor("g.even"), state_of(1)["g.even"])


def test_the_only_part_is_a_checkpoint(tmp_path):
    directory = save_parts(state_of(1), tmp_path / "step-7", 1)

    for path in (directory, part(directory, 1)):
        checkpoint = open_single(path)
        assert same(checkpoint.get_tensor("r.uneven"), state_of(1)["r.uneven"])
        assert checkpoint.path == path


def test_a_run_that_lost_the_last_part_of_one_step_is_refused(tmp_path):
    run = tmp_path / "run"
    rows = {name: tensor for name, tensor in state_of(1).items() if name.startswith("r.e")}
    for step in STEPS:
        save_parts(rows, run / f"step-{step}", 2)
    part(run / "step-2", 2).unlink()

    with pytest.raises(
        MismatchError, match=r"step-2: r\.even: expected float32 \[12, 4\] as in step-1, found .*\[6, 4\]"
    ):
        plan_average(find_checkpoints([run]).checkpoints)


def test_the_directory_is_found_by_any_name_for_it(tmp_path, monkeypatch):
    directory = save_parts(state_of(1), tmp_path / "step-7", 2)
    monkeypatch.chdir(directory)

    for source in (directory, Path(), Path("../step-7"), tmp_path / "*", tmp_path):
        series = find_checkpoints([source])
        assert [checkpoint.path.name for checkpoint in series.checkpoints] == ["step-7"]
        assert series.steps == (7,)


def test_no_output_has_this_form(tmp_path):
    checkpoint = open_checkpoint(save_parts(state_of(1), tmp_path / "step-1", 2))

    for output in (tmp_path / "average", tmp_path / "average.safetensors"):
        with pytest.raises(
            UsageError, match=r"step-1 is a checkpoint of torch\.distributed.*a form that outputs do not"
        ):
            check_target(Target(path=output, like=Like(checkpoint=checkpoint, key=None)), overwrite=False)


def test_a_key_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"step-1: its files are flat and have no key 'model'; leave out `key`"):
        open_checkpoint(save_parts(state_of(1), tmp_path / "step-1", 2), key="model")


def test_wrappers_are_stripped_from_the_whole_names(tmp_path):
    directory = tmp_path / "step-1"
    directory.mkdir()
    for rank, start, values in shards("r.even", state_of(1)["r.even"], 2):
        names = {"module.r.even": values, **({"module.own": torch.ones(2)} if rank else {})}
        starts = {"module.r.even": {"saved_offsets": start}, "module.own": {"saved_offsets": [0]}}
        save_part(part(directory, rank + 1), names, starts)

    checkpoint = open_checkpoint(directory)

    assert checkpoint.keys() == ("own", "r.even")
    assert checkpoint.stripped == ("module.",)


def test_whole_files_with_an_index_stay_those_of_hugging_face(tmp_path):
    """As the writer has them without save_distributed."""
    state = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    for number, name in enumerate(state, start=1):
        start = {name: {"saved_offsets": [0] * state[name].ndim}}
        save_part(tmp_path / f"model-{number:05}-of-00002.safetensors", {name: state[name]}, start)
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))

    (checkpoint,) = find_checkpoints([tmp_path]).checkpoints

    assert checkpoint.container == "safetensors, 2 shards"
    assert all(same(checkpoint.get_tensor(name), tensor) for name, tensor in state.items())


def test_files_of_these_names_without_offsets_are_refused_by_their_names(tmp_path):
    for rank in (1, 2):
        save_file({"w": torch.randn(2)}, part(tmp_path, rank))

    with pytest.raises(SourceError, match="by their names, these files are parts of one checkpoint"):
        find_checkpoints([tmp_path])
