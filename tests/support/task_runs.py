"""The samples of several tasks, small: trained in a second or two, then run through the commands."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from swa_cli.user.import_object import call_target

SAMPLES = Path(__file__).parents[2] / "sample_configs"

Scores = dict[str, float]
Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Small:
    """A sample with small arguments.

    Attributes:
        recipe: of ``train_task.py``.
        model, data: ``file.py:Name`` beside the recipes, or ``package.module.Name``; and its arguments.
        task, metrics: as the configuration has them.
    """

    recipe: str
    model: tuple[str, dict[str, Any]]
    data: tuple[str, dict[str, Any]]
    task: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run left."""

    small: Small
    result: dict[str, Any]
    stdout: str
    folder: Path

    def row(self, kind: str) -> Scores:
        """The scores of the first row of that kind."""
        return next(row["metrics"] for row in self.result["candidates"] if row["kind"] == kind)

    def outputs(self, kind: str, forward: Forward) -> list[tuple[Any, Any]]:
        """Of each test batch what the average, or the first checkpoint, gives for it, and the batch."""
        if kind == "swa":
            state = load_file(self.folder / "swa.safetensors")
        else:
            state = torch.load(min((self.folder / "ckpts").iterdir()), weights_only=True)["state_dict"]
        model = built(self.small.model)
        unknown = model.load_state_dict(state, strict=False).missing_keys  # of tied weights safetensors keeps one
        assert all(name == "lm_head.weight" for name in unknown)
        if unknown:
            model.tie_weights()
        model.eval()
        data = built(self.small.data)
        data.setup("test")
        with torch.no_grad():
            return [(forward(model, batch), batch) for batch in data.test_dataloader()]


def place_of(target: str) -> str:
    """``file.py:Name`` is a sample's."""
    return str(SAMPLES / target) if ".py:" in target else target


def built(target: tuple[str, Mapping[str, Any]]) -> Any:
    name, arguments = target
    return call_target(place_of(name), arguments, what="sample")


def ran(small: Small, run_swa, tmp_path: Path, monkeypatch) -> Ran:
    """Train three checkpoints, write the configuration, ``swa run``; then ``swa eval`` with flags gives the same."""
    monkeypatch.syspath_prepend(SAMPLES)
    train_task = import_module("train_task")
    recipe = replace(
        train_task.RECIPES[small.recipe], model=partial(built, small.model), data=partial(built, small.data)
    )
    train_task.train(recipe, tmp_path / "ckpts", epochs=5, keep=3)
    config = {
        "model": {"class_path": place_of(small.model[0]), "init_args": small.model[1]},
        "data": {"class_path": place_of(small.data[0]), "init_args": small.data[1]},
        "task": small.task,
        "average": {"sources": ["ckpts"], "output": "swa.safetensors"},
        "eval": {
            "compare_ensemble": True,
            "metrics": small.metrics,
            "json": "run.json",
            "csv": "run.csv",
            "markdown": "run.md",
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    run = run_swa("run", "--config", "run.yaml", "--device", "cpu")
    assert run.exit_code == 0, run.stderr
    again = run_swa("eval", "ckpts", "--config", "run.yaml", *_files("again"), "--device", "cpu")
    assert again.exit_code == 0, again.stderr
    for suffix in ("json", "csv", "md"):
        assert (tmp_path / f"again.{suffix}").read_text() == (tmp_path / f"run.{suffix}").read_text()
    result = json.loads((tmp_path / "run.json").read_text())
    _check_files(result, tmp_path, run.stdout)
    return Ran(small=small, result=result, stdout=run.stdout, folder=tmp_path)


def _files(stem: str) -> Iterator[str]:
    for flag, suffix in (("json", "json"), ("csv", "csv"), ("markdown", "md")):
        yield from (f"--{flag}", f"{stem}.{suffix}")


def _check_files(result: Mapping[str, Any], folder: Path, stdout: str) -> None:
    """CSV, Markdown and terminal say what the JSON says."""
    with (folder / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in result["candidates"]]
    for row, candidate in zip(rows, result["candidates"], strict=True):
        for name, number in candidate["metrics"].items():
            assert float(row[name]) == number
    sentence = result["decision"]["sentence"]
    assert f"**{sentence}**" in (folder / "run.md").read_text().replace("\\", "")
    assert stdout.rstrip().endswith(sentence)


def shown(result: Mapping[str, Any]) -> dict[str, bool]:
    """The scores in the table, and whether higher is better."""
    return {score["name"]: score["higher_is_better"] for score in result["scores"] if score["shown"]}


def log_softmax(logits: torch.Tensor) -> np.ndarray:
    """Over the last dimension, in float64."""
    wide = logits.double().numpy()
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
