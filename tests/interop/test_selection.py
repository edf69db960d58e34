"""The directories of real trainers: which checkpoints are taken, in which order, and which are best."""

import json
from pathlib import Path

import pytest
import torch

from support.trainers import TrainerRun, run_lightning, run_timm, run_torchvision, run_transformers
from swa_cli.checkpoints import CheckpointSeries, Selection, find_checkpoints
from swa_cli.errors import SourceError

pytestmark = pytest.mark.slow

TRAINERS = {
    "timm": (run_timm, ["metric"]),
    "lightning": (run_lightning, ["val_loss"]),
    "transformers": (run_transformers, ["eval_loss", "eval_accuracy"]),
    "torchvision": (run_torchvision, []),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each trainer is run once, when a test first asks for it."""
    made: dict[str, TrainerRun] = {}

    def get(name: str) -> TrainerRun:
        if name not in made:
            torch.manual_seed(0)
            made[name] = TRAINERS[name][0](tmp_path_factory.mktemp(name) / "run")
        return made[name]

    return get


def paths(found: CheckpointSeries) -> list[Path]:
    return [Path(checkpoint.path) for checkpoint in found.checkpoints]


@pytest.mark.parametrize("name", TRAINERS)
def test_every_checkpoint_is_taken_once_in_the_order_of_training(runs, name):
    run = runs(name)

    found = find_checkpoints([run.folder])

    assert paths(found) == [saved.path for saved in run.saved]
    assert [member.step for member in found.members] == [saved.step for saved in run.saved]
    assert len(run.saved) >= 5
    for checkpoint, saved in zip(found.checkpoints, run.saved, strict=True):
        assert set(checkpoint.keys()) == set(saved.state)
        assert all(torch.equal(checkpoint.get_tensor(key), tensor) for key, tensor in saved.state.items())


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("timm", ["last.pth.tar", "model_best.pth.tar"]),
        ("lightning", ["last.ckpt"]),
        ("torchvision", ["checkpoint.pth"]),
    ],
)
def test_copies_and_links_are_said(runs, name, copies):
    run = runs(name)

    notices = [notice for notice in find_checkpoints([run.folder]).notices if "counted once" in notice]

    assert sorted(Path(notice.split(" ")[0]).name for notice in notices) == copies


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    ("name", "metric"), [(name, metric) for name, (_, all_of) in TRAINERS.items() for metric in all_of]
)
def test_the_best_are_the_best_in_both_directions(runs, name, metric, mode):
    run = runs(name)
    values = [saved.metrics[metric] for saved in run.saved]
    pairs = sorted(enumerate(values), key=lambda pair: (pair[1] if mode == "min" else -pair[1], -pair[0]))
    expected = [run.saved[number].path for number in sorted(number for number, _ in pairs[:3])]

    found = find_checkpoints([run.folder], selection=Selection(best=3, metric=metric, mode=mode))

    assert paths(found) == expected
    every = find_checkpoints([run.folder]).members
    assert [member.metrics[metric] for member in every] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("name", TRAINERS)
def test_what_the_library_loads_is_what_we_read(runs, name):
    run = runs(name)
    middle = run.saved[len(run.saved) // 2]

    model = run.load(middle.path)

    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in middle.state.items())


@pytest.mark.parametrize("name", TRAINERS)
def test_inspect_shows_them(runs, run_swa, name):
    run = runs(name)

    result = run_swa("inspect", run.folder, "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    sources = [file for file in report["files"] if file["status"] == "source"]
    assert [file["path"] for file in sources] == [str(saved.path) for saved in run.saved]
    assert set(TRAINERS[name][1]) <= set(report["metrics"])
    assert sources[0]["ema"] == {"timm": ["state_dict_ema"], "torchvision": ["model_ema"]}.get(name, [])
    elements = sum(tensor.numel() for tensor in run.saved[0].state.values() if tensor.is_floating_point())
    assert sources[0]["parameters"] == elements


def test_a_trainer_s_final_model_is_taken_alone_and_that_is_said(tmp_path):
    run = run_transformers(tmp_path / "out", final_model=True, steps=6)

    (checkpoint,) = find_checkpoints([run.folder]).checkpoints

    assert checkpoint.path == run.folder / "model.safetensors"
    assert any("holds checkpoints itself" in notice for notice in find_checkpoints([run.folder]).notices)
    assert paths(find_checkpoints([run.folder / "checkpoint-*"])) == [saved.path for saved in run.saved]


def test_several_runs_of_lightning_are_refused(tmp_path):
    for _ in range(2):
        run_lightning(tmp_path, epochs=1)

    with pytest.raises(SourceError, match=r"several runs:\n  lightning_logs/version_0/checkpoints\n  lightning_logs/"):
        find_checkpoints([tmp_path])
