"""Which files are taken, and in which order."""

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import Selection, find_checkpoints, short_names
from swa_cli.errors import CheckpointError, SourceError
from swa_cli.formats import open_checkpoint
from swa_cli.formats.training_step import natural_key, step_in_name


def save(path: Path, **counters: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"w": torch.randn(1)}, **counters}, path)
    return path


def names(run) -> list[str]:
    return [checkpoint.path.name for checkpoint in run.checkpoints]


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("epoch-17.pt", 17),
        ("epoch=3-step=1200.ckpt", 1200),
        ("epoch=3-val_loss=0.21.ckpt", 3),
        ("checkpoint-9.pth.tar", 9),
        ("checkpoint-500/model.safetensors", 500),
        ("model_0004999.pth", 4999),
        ("resnet50-epoch9.pt", 9),
        ("vit_b_16_iter_300.pth", 300),
        ("ckpt_12.pt", 12),
        ("last.ckpt", None),
        ("unit5.pt", 5),
    ],
)
def test_the_step_in_a_name(path, step):
    assert step_in_name(Path(path)) == step


def test_names_sort_as_numbers():
    shuffled = [Path(f"epoch-{n}.pt") for n in (10, 9, 100, 1)]

    assert [path.name for path in sorted(shuffled, key=natural_key)] == [
        "epoch-1.pt",
        "epoch-9.pt",
        "epoch-10.pt",
        "epoch-100.pt",
    ]


def test_a_directory_is_ordered_by_step_nine_before_ten(tmp_path):
    for epoch in (10, 9, 11, 100):
        save(tmp_path / f"epoch-{epoch}.pt")

    run = find_checkpoints([tmp_path])

    assert names(run) == ["epoch-9.pt", "epoch-10.pt", "epoch-11.pt", "epoch-100.pt"]
    assert [member.step for member in run.members] == [9, 10, 11, 100]
    assert run.ordered_by == "number in the name"


def test_the_step_in_the_contents_goes_before_the_name(tmp_path):
    save(tmp_path / "a1.pt", global_step=300, epoch=3)
    save(tmp_path / "b2.pt", global_step=100, epoch=1)
    save(tmp_path / "c3.pt", global_step=200, epoch=2)

    run = find_checkpoints([tmp_path])

    assert names(run) == ["b2.pt", "c3.pt", "a1.pt"]
    assert [member.step for member in run.members] == [100, 200, 300]
    assert run.ordered_by == "global_step"


def test_a_counter_that_tells_nothing_apart_is_passed_over(tmp_path):
    save(tmp_path / "b.pt", global_step=0, epoch=2)
    save(tmp_path / "a.pt", global_step=0, epoch=5)

    assert names(find_checkpoints([tmp_path])) == ["b.pt", "a.pt"]


def test_without_any_step_the_order_is_that_of_names_and_said(tmp_path):
    save(tmp_path / "best.pt")
    save(tmp_path / "again.pt")

    run = find_checkpoints([tmp_path])

    assert names(run) == ["again.pt", "best.pt"]
    assert [member.step for member in run.members] == [None, None]
    assert any("no steps could be told apart" in notice for notice in run.notices)


def test_the_order_of_arguments_does_not_matter(tmp_path):
    paths = [save(tmp_path / f"{name}.pt", epoch=epoch) for epoch, name in enumerate("dcbae")]
    shuffled = random.sample(paths, len(paths))

    assert (
        names(find_checkpoints(shuffled)) == names(find_checkpoints(paths)) == ["d.pt", "c.pt", "b.pt", "a.pt", "e.pt"]
    )


def test_last_takes_the_newest(tmp_path):
    for epoch in range(12):
        save(tmp_path / f"epoch-{epoch}.pt")

    assert names(find_checkpoints([tmp_path], selection=Selection(last=2))) == ["epoch-10.pt", "epoch-11.pt"]
    with pytest.raises(SourceError, match="`last=13`: there are only 12 checkpoints"):
        find_checkpoints([tmp_path], selection=Selection(last=13))


def test_links_count_once(tmp_path):
    save(tmp_path / "checkpoint-1.pth.tar")
    save(tmp_path / "checkpoint-2.pth.tar")
    os.link(tmp_path / "checkpoint-2.pth.tar", tmp_path / "best.pth.tar")
    (tmp_path / "last.pth.tar").symlink_to("checkpoint-2.pth.tar")

    run = find_checkpoints([tmp_path, tmp_path / "checkpoint-1.pth.tar"])

    assert names(run) == ["checkpoint-1.pth.tar", "checkpoint-2.pth.tar"]
    assert sorted(notice.split(" is ")[0] for notice in run.notices) == [
        str(tmp_path / "best.pth.tar"),
        str(tmp_path / "last.pth.tar"),
    ]


def test_copies_count_once_and_leave_the_steps_as_they_are(tmp_path):
    """Lightning's last.ckpt is a copy of the newest, with its global_step."""
    for epoch in (1, 2, 3):
        save(tmp_path / f"epoch={epoch}.ckpt", global_step=100 * epoch)
    shutil.copy(tmp_path / "epoch=3.ckpt", tmp_path / "a-copy.ckpt")
    shutil.copy(tmp_path / "epoch=3.ckpt", tmp_path / "last.ckpt")

    run = find_checkpoints([tmp_path])

    assert names(run) == ["epoch=1.ckpt", "epoch=2.ckpt", "epoch=3.ckpt"]
    assert [member.step for member in run.members] == [100, 200, 300]
    original = tmp_path / "epoch=3.ckpt"
    assert run.notices == tuple(
        f"{tmp_path / name} holds the same weights as {original}: counted once."
        for name in ("a-copy.ckpt", "last.ckpt")
    )


def test_equal_samples_are_not_enough_to_be_a_copy(tmp_path):
    weights = torch.zeros(2_000_000)
    torch.save({"w": weights}, tmp_path / "a.pt")
    weights[-1] = 1
    torch.save({"w": weights}, tmp_path / "b.pt")

    assert names(find_checkpoints([tmp_path])) == ["a.pt", "b.pt"]


def test_files_named_after_two_steps_are_two_checkpoints_even_if_equal(tmp_path):
    for step in (0, 1):
        torch.save({"w": torch.ones(3)}, tmp_path / f"epoch-{step}.pt")
    torch.save({"w": torch.ones(3)}, tmp_path / "best.pt")

    assert names(find_checkpoints([tmp_path])) == ["epoch-0.pt", "epoch-1.pt"]


def test_equal_weights_at_other_steps_are_no_copies(tmp_path):
    for epoch in (1, 2):
        torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": epoch}, tmp_path / f"{epoch}.pt")

    assert names(find_checkpoints([tmp_path])) == ["1.pt", "2.pt"]


def test_names_with_equal_numbers_keep_one_order(tmp_path):
    paths = [save(tmp_path / name) for name in ("ck-1.pt", "ck-01.pt", "ck-001.pt")]

    for order in itertools.permutations(paths):
        assert names(find_checkpoints(order)) == ["ck-001.pt", "ck-01.pt", "ck-1.pt"]


def test_how_a_path_is_spelt_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        save(tmp_path / f"{name}.pt")

    spelt = [tmp_path / "a.pt", Path("b.pt"), Path("..", tmp_path.name, "c.pt")]

    assert names(find_checkpoints(spelt)) == names(find_checkpoints([tmp_path])) == ["a.pt", "b.pt", "c.pt"]


def test_what_is_no_file_is_passed_over_or_named(tmp_path):
    save(tmp_path / "1.pt")
    (tmp_path / "2.pt").symlink_to("gone")
    os.mkfifo(tmp_path / "3.pt")

    assert names(find_checkpoints([tmp_path])) == ["1.pt"]
    assert names(find_checkpoints([tmp_path / "*.pt"])) == ["1.pt"]
    with pytest.raises(SourceError, match=r"3\.pt is neither a file nor a directory"):
        find_checkpoints([tmp_path / "3.pt"])
    with pytest.raises(CheckpointError, match=r"3\.pt: cannot be read: it is a FIFO, not a regular file"):
        open_checkpoint(tmp_path / "3.pt")


def test_a_hugging_face_run_is_found_one_level_down(tmp_path):
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"w": torch.full((1,), float(step))}, tmp_path / f"checkpoint-{step}" / "model.safetensors")
        for side in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth"):
            torch.save({"state": torch.ones(1)}, tmp_path / f"checkpoint-{step}" / side)

    run = find_checkpoints([tmp_path])

    assert [member.step for member in run.members] == [500, 1000]
    assert names(run) == ["model.safetensors"] * 2
    paths = [checkpoint.path for checkpoint in run.checkpoints]
    assert short_names(paths) == ["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"]


def test_patterns_are_expanded(tmp_path):
    for name in ("epoch-1.pt", "epoch-2.pt", "other-3.pt"):
        save(tmp_path / name)

    assert names(find_checkpoints([tmp_path / "epoch-*.pt"])) == ["epoch-1.pt", "epoch-2.pt"]
    with pytest.raises(SourceError, match=r"no file matches .*nothing-\*"):
        find_checkpoints([tmp_path / "nothing-*.pt"])


def test_an_earlier_average_is_left_out_unless_named(tmp_path):
    save(tmp_path / "epoch-1.pt")
    save(tmp_path / "epoch-2.pt")
    average(plan_average(find_checkpoints([tmp_path]).checkpoints), tmp_path / "swa.safetensors")

    run = find_checkpoints([tmp_path])

    assert names(run) == ["epoch-1.pt", "epoch-2.pt"]
    assert any("swa.safetensors was written by swa-cli" in notice for notice in run.notices)
    assert names(find_checkpoints([tmp_path / "swa.safetensors"])) == ["swa.safetensors"]


@pytest.mark.parametrize("name", ["swa.safetensors", "swa.pt", "epoch-3.safetensors"])
def test_an_earlier_average_is_left_out_under_a_key_too(tmp_path, name):
    for step in (1, 2):
        state = {"v": torch.full((3,), float(step)), "w": torch.full((3,), 2.0 * step)}
        torch.save({"ema": state, "model": {"w": torch.zeros(3)}}, tmp_path / f"epoch-{step}.pt")
    sources = find_checkpoints([tmp_path], key="ema").checkpoints
    average(plan_average(sources), tmp_path / name)

    run = find_checkpoints([tmp_path], key="ema")

    assert names(run) == ["epoch-1.pt", "epoch-2.pt"]
    assert any(f"{name} was written by swa-cli" in notice for notice in run.notices)
    with pytest.raises(CheckpointError, match="has no key 'ema'"):
        find_checkpoints([tmp_path / name], key="ema")


def test_a_flat_file_of_others_is_no_average_of_ours(tmp_path):
    torch.save({"ema": {"w": torch.zeros(3)}}, tmp_path / "epoch-1.pt")
    save_file({"w": torch.zeros(3)}, tmp_path / "epoch-2.safetensors")

    with pytest.raises(CheckpointError, match=r"epoch-2\.safetensors: a safetensors file is flat and has no key 'ema'"):
        find_checkpoints([tmp_path], key="ema")


def test_other_weights_in_the_files_are_mentioned(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(1)}, "state_dict_ema": {"w": torch.ones(1)}}, tmp_path / "1.pt")

    assert find_checkpoints([tmp_path]).notices == (
        "the files hold other weights too, left out: state_dict_ema. To use those: `key='state_dict_ema'`.",
    )


def test_a_directory_without_checkpoints_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")

    with pytest.raises(SourceError, match=r"no checkpoints in .*\.safetensors, \.pt, \.pth, \.ckpt, \.pth\.tar"):
        find_checkpoints([tmp_path])


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"no such file or directory: .*gone"):
        find_checkpoints([tmp_path / "gone"])


def test_the_same_weights_in_two_containers_count_once(tmp_path):
    for step in (100, 200):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        state = {"b": torch.full((3,), float(step)), "a": torch.full((2,), float(step))}
        torch.save(state, folder / "pytorch_model.bin")
        if step == 100:
            save_file(state, folder / "model.safetensors")
    torch.save({"state_dict": state, "epoch": 2}, tmp_path / "checkpoint-200" / "extra.ckpt")

    run = find_checkpoints([tmp_path])

    assert [member.step for member in run.members] == [100, 200]
    assert sum("holds the same weights as" in notice for notice in run.notices) == 2


def test_a_trainers_final_model_beside_its_checkpoints_is_said(tmp_path):
    for step in (100, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"w": torch.full((3,), float(step))}, tmp_path / f"checkpoint-{step}" / "model.safetensors")
    save_file({"w": torch.full((3,), 200.0)}, tmp_path / "model.safetensors")

    (notice,) = find_checkpoints([tmp_path]).notices
    assert f"{tmp_path} holds checkpoints itself: those in its folders are left out (checkpoint-100, che" in notice
    assert f"To take them: '{tmp_path}/checkpoint-*'." in notice
    assert len(find_checkpoints([tmp_path / "checkpoint-*"]).checkpoints) == 2


def run_of_lightning(folder: Path, version: int, epochs: int) -> Path:
    checkpoints = folder / "lightning_logs" / f"version_{version}" / "checkpoints"
    for epoch in range(epochs):
        save(checkpoints / f"epoch={epoch}-step={10 * epoch + 10}.ckpt", epoch=epoch, global_step=10 * epoch + 10)
    return checkpoints


def test_a_run_of_lightning_is_found_three_levels_down(tmp_path):
    checkpoints = run_of_lightning(tmp_path, 0, 3)
    save(tmp_path / ".tmp" / "epoch=9.ckpt")
    save(checkpoints / ".half" / "epoch=9.ckpt")
    save(checkpoints / ".epoch=9.ckpt")

    run = find_checkpoints([tmp_path])

    assert [member.step for member in run.members] == [10, 20, 30]
    assert run.notices == (f"{tmp_path} holds no checkpoints itself: those in {checkpoints} are taken.",)


def test_several_runs_are_refused_and_named(tmp_path):
    for version, epochs in ((0, 2), (1, 1)):
        run_of_lightning(tmp_path, version, epochs)
    for run in ("a", "b"):
        for epoch in (1, 2):
            save(tmp_path / "side by side" / run / f"epoch-{epoch}.pt")

    with pytest.raises(
        SourceError, match=r"several runs:\n  version_0/checkpoints\n  version_1/checkpoints\nName the one that is"
    ):
        find_checkpoints([tmp_path / "lightning_logs"])
    with pytest.raises(SourceError, match=r"several runs:\n  a\n  b\n"):
        find_checkpoints([tmp_path / "side by side"])
    assert len(find_checkpoints([tmp_path / "lightning_logs" / "version_0"]).checkpoints) == 2


@pytest.mark.parametrize(
    "flags",
    [
        {"include": ("version_1",)},
        {"include": ("version_1/*/*",)},
        {"exclude": ("version_0",)},
        {"include": ("epoch=0*",), "exclude": ("version_0",)},
    ],
)
def test_what_is_not_meant_is_no_other_run(tmp_path, flags):
    for version in (0, 1):
        run_of_lightning(tmp_path, version, 3)

    run = find_checkpoints([tmp_path / "lightning_logs"], selection=Selection(**flags))

    assert {checkpoint.path.parent.parent.name for checkpoint in run.checkpoints} == {"version_1"}
    assert not any("matches none" in notice for notice in run.notices)
    with pytest.raises(SourceError, match=r"several runs:(?s:.*)or its files with `include`\."):
        find_checkpoints([tmp_path / "lightning_logs"], selection=Selection(include=("*",)))
    with pytest.raises(SourceError, match=r"none of the \d+ files in .* is left after `include='nothing'`"):
        find_checkpoints([tmp_path / "lightning_logs"], selection=Selection(include=("nothing",)))


def test_patterns_reach_below_a_final_model(tmp_path):
    for step in (1, 2):
        save(tmp_path / f"checkpoint-{step}" / "pytorch_model.bin")
    save(tmp_path / "pytorch_model.bin")

    assert len(find_checkpoints([tmp_path]).checkpoints) == 1
    found = find_checkpoints([tmp_path], selection=Selection(include=("checkpoint-*",))).members
    assert [member.step for member in found] == [1, 2]


def test_what_lies_deeper_than_four_levels_is_not_looked_for(tmp_path):
    save(tmp_path / "a" / "b" / "c" / "d" / "1.pt")

    assert names(find_checkpoints([tmp_path])) == ["1.pt"]
    (tmp_path / "a").rename(tmp_path / "x")
    (tmp_path / "y").mkdir()
    (tmp_path / "x").rename(tmp_path / "y" / "x")
    with pytest.raises(SourceError, match="nor 4 levels below"):
        find_checkpoints([tmp_path])


def test_an_average_is_named_however_it_is_spelt(tmp_path, monkeypatch):
    save(tmp_path / "epoch-1.pt")
    average(plan_average(find_checkpoints([tmp_path]).checkpoints), tmp_path / "swa.safetensors")
    monkeypatch.chdir(tmp_path)

    save(tmp_path / "epoch-1.pt")

    run = find_checkpoints([tmp_path, Path("swa.safetensors")])

    assert sorted(names(run)) == ["epoch-1.pt", "swa.safetensors"]


@pytest.mark.parametrize("pattern", ["checkpoint-10", "checkpoint-10/*", "run/checkpoint-10/*", "*/model.pt"])
@pytest.mark.parametrize("sources", ["run", "run/checkpoint-*", "each"])
def test_a_pattern_matches_however_the_files_are_named(tmp_path, monkeypatch, pattern, sources):
    """A folder, a pattern of our own, or what the shell made of it."""
    monkeypatch.chdir(tmp_path)
    for step in (10, 20, 30):
        save(Path(f"run/checkpoint-{step}/model.pt"))
    named = sorted(Path("run").iterdir()) if sources == "each" else [Path(sources)]
    if pattern == "*/model.pt":
        with pytest.raises(SourceError, match="none of the 3 files in"):
            find_checkpoints(named, selection=Selection(exclude=(pattern,)))
        return

    found = find_checkpoints(named, selection=Selection(exclude=(pattern,)))

    assert [member.step for member in found.members] == [20, 30]


def test_an_error_of_the_selection_says_what_explains_it(tmp_path):
    save(tmp_path / "model.pt")
    for step in (10, 20):
        save(tmp_path / f"checkpoint-{step}" / "model.pt")

    with pytest.raises(SourceError) as error:
        find_checkpoints([tmp_path], selection=Selection(last=3))

    first, second = str(error.value).splitlines()
    assert first == f"`last=3`: there is only 1 checkpoint in {tmp_path}."
    assert second.startswith(f"  note: {tmp_path} holds checkpoints itself: those in its folders are left out")
