"""``swa inspect``: what there is, and what would be picked."""

import ast
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file

from swa_cli.checkpoints import Selection, find_checkpoints, inspect_checkpoints


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints with an EMA and a metric, a copy of one, an average, and nothing else."""
    target = tmp_path / "ckpts"
    target.mkdir()
    for epoch in range(3):
        weights = {"module.w": torch.full((3,), epoch / 3), "module.n": torch.tensor(epoch)}
        weights["module.tied"] = weights["module.w"]
        ema = {"module.w": torch.zeros(3)}
        contents = {"state_dict": weights, "state_dict_ema": ema, "epoch": epoch, "acc": (0.5, 0.75, 0.25)[epoch]}
        torch.save(contents, target / f"e{epoch}.pt")
    shutil.copy(target / "e1.pt", target / "best.pt")
    return target


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_a_directory_is_shown_in_the_order_of_averaging(run_swa, folder):
    result = run_swa("inspect", "ckpts")

    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("3 checkpoints, ordered by epoch")
    table = rows(result.stdout)
    assert [row[:3] for row in table[:3]] == [["e0.pt", "0", "0.5"], ["e1.pt", "1", "0.75"], ["e2.pt", "2", "0.25"]]
    assert table[3][0] == "best.pt"
    assert table[3][-1] == "same as step 1"
    assert (
        "All: torch, zip; weights under state_dict; module. stripped; 3 tensors, 3 parameters, float32 (2), int64 (1), "
        "20 B; EMA under state_dict_ema."
    ) in result.stdout
    assert table[4:] == [
        ["--last 1", "1", "2"],
        ["--first 1", "1", "0"],
        ["--every 2", "2", "0, 2"],
        ["--from 0 --to 2", "3", "0, 1, 2"],
        ["--best 1 --metric acc --mode min", "1", "2"],
        ["--best 1 --metric acc --mode max", "1", "1"],
    ]


def test_what_is_shown_as_picked_is_what_is_averaged(run_swa, folder):
    shown = run_swa("inspect", "ckpts", "--best", 2, "--metric", "acc", "--mode", "max", "--json")
    planned = run_swa("average", "ckpts", "--best", 2, "--metric", "acc", "--mode", "max", "--dry-run")

    (pick,) = json.loads(shown.stdout)["picks"]
    assert pick == {"flags": "--best 2 --metric acc --mode max", "paths": ["ckpts/e0.pt", "ckpts/e1.pt"]}
    assert [row[0] for row in rows(planned.stdout)] == pick["paths"]


def test_each_example_is_what_the_flags_pick(folder):
    for pick in inspect_checkpoints([folder]).picks:
        named = {name: ast.literal_eval(value) for name, value in re.findall(r"`(\w+)=(.*?)`", pick.flags)}
        run = find_checkpoints([folder], selection=Selection(**named))
        assert tuple(file.path for file in run.checkpoints) == pick.paths


def test_the_json_has_everything(run_swa, folder):
    save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, folder / "e9.safetensors", {"epoch": "9", "acc": "nan"})

    result = json.loads(run_swa("inspect", "ckpts", "--json").stdout)

    assert (result["schema_version"], result["ordered_by"], result["metrics"]) == (1, "epoch", ["acc"])
    assert [file["path"] for file in result["files"]] == [
        "ckpts/e0.pt",
        "ckpts/e1.pt",
        "ckpts/e2.pt",
        "ckpts/e9.safetensors",
        "ckpts/best.pt",
    ]
    first, *_, last, copy = result["files"]
    assert first["file_bytes"] == (folder / "e0.pt").stat().st_size
    del first["file_bytes"]
    assert first == {
        "path": "ckpts/e0.pt",
        "status": "source",
        "step": 0,
        "counters": {"epoch": 0},
        "metrics": {"acc": 0.5},
        "container": "torch, zip",
        "key": "state_dict",
        "prefixes_stripped": ["module."],
        "ema": ["state_dict_ema"],
        "other_weights": [],
        "optimizer_is_empty": None,
        "average_of": None,
        "combine": None,
        "tensors": 3,
        "parameters": 3,
        "dtypes": {"float32": 2, "int64": 1},
        "weight_bytes": 20,
    }
    assert (last["container"], last["key"], last["dtypes"]) == ("safetensors", "", {"bfloat16": 1})
    assert last["metrics"] == {"acc": "nan"}
    assert (copy["status"], copy["copy_of"]) == ("copy", "ckpts/e1.pt")
    assert any("holds the same weights as" in notice for notice in result["notices"])


def test_a_file_that_cannot_be_read_is_shown_and_the_others_too(run_swa, folder):
    (folder / "broken.pt").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text("{")

    result = run_swa("inspect", "ckpts")
    as_json = run_swa("inspect", "ckpts", "--json")

    assert result.exit_code == as_json.exit_code == 1
    shown = {row[0]: row for row in rows(result.stdout)}
    assert {"e0.pt", "e1.pt", "e2.pt", "best.pt"} <= {*shown}
    assert shown["broken.pt"][-1].startswith("the file is empty. Its writing was probably cut short")
    assert shown["model.safetensors.index.json"][-1].startswith("not a whole index")
    assert result.stderr.endswith(
        "error: files that cannot be read:\n  ckpts/broken.pt\n  ckpts/model.safetensors.index.json\n"
        "Leave them out with --exclude, or save them again.\n"
    )
    statuses = [file["status"] for file in json.loads(as_json.stdout)["files"]]
    assert statuses == ["source"] * 3 + ["copy"] + ["unreadable"] * 2


def test_a_selection_that_cannot_be_ends_in_its_message(run_swa, folder):
    result = run_swa("inspect", "ckpts", "--last", 4)

    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        "error: --last 4: there are only 3 checkpoints in ckpts.",
    )
    assert len(rows(result.stdout)) == 4


def test_what_needs_an_order_says_once_why_there_is_none(run_swa, folder):
    torch.save({"w": torch.ones(1)}, folder / "final.pt")

    table = {row[0]: row for row in rows(run_swa("inspect", "ckpts").stdout)}

    assert table["--last, --first, --every, --from, --to"][-1].startswith("no step is known of ckpts/final.pt")
    assert table["--best 2 --metric acc --mode min"][-1].startswith("--metric acc: 3 of 4 checkpoints have it")
    assert "--best 2 --metric acc --mode max" not in table


def test_one_file_and_an_average_of_ours(run_swa, folder):
    run_swa("average", "ckpts", "-o", "ckpts/swa.safetensors", "--integers", "last")

    inside, named = run_swa("inspect", "ckpts"), run_swa("inspect", "ckpts/swa.safetensors")

    assert rows(inside.stdout)[4][::4] == ["swa.safetensors", "written by swa-cli"]
    assert [row[0] for row in rows(named.stdout)] == ["swa.safetensors"]
    assert named.exit_code == 0
    assert "safetensors; 3 tensors, 3 parameters" in named.stdout
    assert "written by swa-cli, the average of 3 checkpoints." in named.stdout


def test_the_configuration_s_average_is_looked_at(run_swa, folder, tmp_path):
    (tmp_path / "run.yaml").write_text("average: {sources: ckpts, last: 2}\n")

    by_file = run_swa("inspect", "--config", "run.yaml", "--json")
    nothing = run_swa("inspect")

    assert json.loads(by_file.stdout)["picks"][0]["paths"] == ["ckpts/e1.pt", "ckpts/e2.pt"]
    assert (nothing.exit_code, nothing.stderr.splitlines()[0]) == (
        2,
        "error: no checkpoints given: name it with SOURCES, or as average.sources in the configuration.",
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits(run_swa, folder, monkeypatch, columns):
    for epoch in range(3):
        (folder / f"e{epoch}.pt").rename(folder / f"epoch={epoch}-step={epoch}00-val_loss=0.1{epoch}-acc=0.5.ckpt")
    monkeypatch.setenv("COLUMNS", str(columns))

    lines = run_swa("inspect", "ckpts").stdout.splitlines()

    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("┏") for line in lines) == 2


def test_more_metrics_than_columns_and_what_else_a_file_holds(run_swa, tmp_path):
    (tmp_path / "ckpts").mkdir()
    for epoch in range(2):
        weights = {"w": torch.full((1,), float(epoch))}
        metrics = {name: float(epoch) for name in "abcde"}
        state = {0: {"momentum_buffer": torch.ones(1)}} if epoch else {}
        optimizer = {"state": state, "param_groups": []}
        contents = {
            "state_dict": weights,
            "teacher": weights,
            "metrics": metrics,
            "optimizer": optimizer,
            "epoch": epoch,
        }
        torch.save(contents, tmp_path / "ckpts" / f"{epoch}.pt")

    result = run_swa("inspect", "ckpts")

    assert [row[:5] for row in rows(result.stdout)[:2]] == [["0.pt", "0", "0", "0", "0"], ["1.pt", "1", "1", "1", "1"]]
    assert "Metrics too, see --json: d, e" in result.stdout
    assert "other weights under teacher; an optimizer without state." in result.stdout
    assert "other weights under teacher; an optimizer with its state." in result.stdout
    assert "saved before training, it seems (an empty optimizer, where others' is not): ckpts/0.pt." in result.stderr


@pytest.mark.parametrize("link", ["symlink", "hard link"])
def test_a_link_to_a_copy_is_the_same_as_the_original(run_swa, folder, link):
    """Lightning with save_last="link" beside another ModelCheckpoint leaves it."""
    if link == "symlink":
        (folder / "last.pt").symlink_to("best.pt")
    else:
        (folder / "last.pt").hardlink_to(folder / "best.pt")

    result = run_swa("inspect", "ckpts")

    assert result.exit_code == 0, result.stderr
    notes = {row[0]: row[-1] for row in rows(result.stdout) if len(row) > 3}
    assert notes["best.pt"] == "same as step 1"
    assert notes["last.pt"].startswith("same as ")


def test_an_average_in_a_folder_of_its_own_can_be_named_by_it(run_swa, folder):
    assert run_swa("average", "ckpts", "--integers", "last", "-o", "out", "--max-shard-size", "10B").exit_code == 0

    result = run_swa("inspect", "out")

    assert result.exit_code == 0, result.stderr
    assert "left out" not in result.stderr
    assert "written by swa-cli, the average of 3 checkpoints" in result.stdout


def test_nothing_but_averages_and_a_range(run_swa, folder, tmp_path):
    (tmp_path / "own").mkdir()
    assert run_swa("average", "ckpts", "--integers", "last", "-o", "own/swa.pt").exit_code == 0

    result = run_swa("inspect", "own", "--from", "3")

    assert "bug" not in result.stderr
    assert "no checkpoint but averages that swa-cli wrote" in result.stdout + result.stderr
