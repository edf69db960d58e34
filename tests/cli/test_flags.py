"""What the library says of an option, as a command line has it."""

import ast
import re
from pathlib import Path

import pytest
import torch

import swa_cli
from swa_cli.cli.flags import flags_of
from swa_cli.config.settings import sections, settings
from swa_cli.errors import OutputError
from swa_cli.system.atomic_file import check_output

PACKAGE = Path(swa_cli.__file__).parent


@pytest.mark.parametrize(
    ("name", "value", "of", "expected"),
    [
        ("key", None, None, "--key"),
        ("key", "model ema", None, "--key 'model ema'"),
        ("from_step", 100, None, "--from 100"),
        ("weights", (1, 1, 2), None, "--weights 1,1,2"),
        ("sources", None, None, "SOURCES"),
        ("force", True, None, "--force"),
        ("best_by_val", True, None, "--best-by-val"),
        ("best_by_val", False, None, "--no-best-by-val"),
        ("model", "file.py:Name", None, "--model file.py:Name"),
        ("model.init_args", None, None, "--model-arg"),
        ("ignore_index", 255, "task", "--task-arg ignore_index=255"),
        ("resize", True, "task", "--task-arg resize=true"),
        ("graph", None, "task", "--task-arg graph=..."),
        ("metrics", None, None, "eval.metrics"),
        ("out", None, None, "--out"),
    ],
)
def test_an_option_is_named_by_its_flag(name, value, of, expected):
    assert flags_of()(name, value, of) == expected


def test_a_command_s_own_flag_goes_before():
    assert flags_of({"sources": "--sources"})("sources", None, None) == "--sources"


def test_a_field_has_the_same_flag_in_all_sections():
    flags: dict[str, set[str]] = {}
    for section in sections():
        for setting in settings(section):
            if setting.flags and setting.name not in {"class_path", "init_args"}:
                flags.setdefault(setting.name, set()).add(setting.flags[0])

    assert {name: found for name, found in flags.items() if len(found) > 1} == {}


def test_the_library_names_arguments_and_the_command_flags(run_swa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2)}, "1.pt")
    taken = tmp_path / "`force=True`.safetensors"
    taken.touch()

    with pytest.raises(OutputError) as caught:
        check_output(taken, overwrite=False)
    result = run_swa("average", "1.pt", "-o", taken.name)

    assert str(caught.value) == (f"{taken} exists already. Name another output, or replace it with `force=True`.")
    assert result.stderr == (f"error: {taken.name} exists already. Name another output, or replace it with --force.\n")


def test_the_library_names_no_flags():
    named = [
        (path.name, node.lineno, node.value)
        for path in sorted((PACKAGE).rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in {"cli", "config"}
        for tree in [ast.parse(path.read_text(encoding="utf-8"))]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"(?<![\w-])--[a-z]", node.value) and node.value not in docstrings(tree)
    ]

    assert [found for found in named if "docker run" not in found[2]] == []


def docstrings(tree: ast.AST) -> set[str]:
    return {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
