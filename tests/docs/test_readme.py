"""The README says what the programs do."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from support.results import FULL
from swa_cli import errors
from swa_cli.cli.commands import COMMANDS
from swa_cli.config.load import load_config
from swa_cli.config.settings import sections, settings
from swa_cli.report.json_report import as_mapping

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(start: str, language: str) -> str:
    after = README[README.index(start) :]
    match = re.search(rf"```{language}\n(.*?)```", after, flags=re.DOTALL)
    assert match
    return match.group(1)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_mentioned(command):
    assert f"swa {command}" in README


def test_every_exit_code_of_an_error_is_documented():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SwaError)]

    for code in {kind.exit_code for kind in kinds}:
        assert f"| {code} | " in README
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_every_flag_in_the_readme_exists():
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--keep", "--swa-lr", "--out"}  # the script's
    known = set()
    for command in COMMANDS:
        text = subprocess.run(
            [sys.executable, "-m", "swa_cli", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "NO_COLOR": "1"},
        ).stdout
        known |= set(re.findall(r"--[a-z][a-z-]+", text))

    assert mentioned <= known | {"--help"}


def test_the_yaml_in_the_readme_has_every_key(tmp_path):
    (tmp_path / "run.yaml").write_text(block("and this has every key", "yaml"))
    written = yaml.safe_load((tmp_path / "run.yaml").read_text())

    load_config(tmp_path / "run.yaml")

    assert set(written) == set(sections())
    for name in sections():
        assert set(written[name]) == {setting.name for setting in settings(name)}


def test_the_library_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpts").mkdir()
    for step in range(12):
        torch.save({"w": torch.full((2,), float(step))}, tmp_path / "ckpts" / f"epoch-{step}.pt")

    exec(block("## As a library", "python"), {})

    from safetensors.torch import load_file

    assert load_file(tmp_path / "swa.safetensors")["w"].tolist() == [6.5, 6.5]


def test_the_data_module_example_runs(tmp_path, monkeypatch):
    from PIL import Image

    for part in ("train", "test"):
        (tmp_path / "images" / part / "cat").mkdir(parents=True)
        Image.new("RGB", (80, 90)).save(tmp_path / "images" / part / "cat" / "1.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}

    exec(block("## Writing a data module", "python"), names)

    for loader in (names["Data"]().train_dataloader(), names["Data"]().test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (1, 3, 64, 64)
        assert labels.tolist() == [0]


def test_the_json_example_has_the_shape_of_the_real_one():
    example = json.loads(block("writes the same (`-`", "json"))
    real = json.loads(json.dumps(as_mapping(FULL)))

    assert set(example) <= set(real)
    for part in (lambda of: of["candidates"][0], lambda of: of["candidates"][0]["metrics"], lambda of: of["decision"]):
        assert set(part(example)) <= set(part(real))
    assert set(example["comparisons"][0]) <= set(real["comparisons"][0])


def test_ci_runs_the_readme_s_test_command():
    assert "pytest" in block("<!-- test command -->", "sh")
    assert "swa demo" in block("<!-- demo command -->", "sh")
    assert "<!-- test command -->" in (Path(__file__).parents[2] / ".ci" / "run").read_text()
