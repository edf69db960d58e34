"""The reference pages are what the code gives now."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from swa_cli import errors
from swa_cli.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def generate(*arguments: str, docs: Path = ROOT / "docs") -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(docs / "generate.py"), *arguments]
    return subprocess.run(script, capture_output=True, text=True, check=False)


def test_no_page_is_stale():
    done = generate("--check")

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_a_stale_page_is_named_and_mended(tmp_path):
    docs = tmp_path / "docs"
    (docs / "reference").mkdir(parents=True)
    (docs / "generate.py").write_text((ROOT / "docs" / "generate.py").read_text())
    page = docs / "reference" / "exit-codes.md"
    page.write_text("# Codes\n\n<!-- generated: exit-codes -->\nold\n<!-- /generated -->\n\nThe end.\n")

    checked = generate("--check", docs=docs)
    unchanged = page.read_text()
    written = generate(docs=docs)

    assert (checked.returncode, checked.stdout) == (1, "stale: docs/reference/exit-codes.md\n")
    assert "old" in unchanged
    assert written.returncode == 0
    assert page.read_text().startswith("# Codes\n")
    assert page.read_text().endswith("The end.\n")
    assert "| 1 | `CheckpointError` |" in page.read_text()
    assert generate("--check", docs=docs).returncode == 0


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_page_of_commands_has_every_option_of_the_help(command):
    section = (REFERENCE / "cli.md").read_text().split(f"\n## swa {command}\n")[1].split("\n## ")[0]
    shown = subprocess.run(
        [sys.executable, "-m", "swa_cli", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "NO_COLOR": "1"},
    ).stdout
    options = set(re.findall(r"^│ +(?:\* +)?(--[a-z-]+)", shown, flags=re.MULTILINE))

    written = set(re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE))

    assert written == options - {"--help"}


def test_every_kind_of_error_is_listed_with_its_code():
    page = (REFERENCE / "exit-codes.md").read_text()

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SwaError) and kind is not errors.SwaError:
            assert f"| {kind.exit_code} | `{name}` | " in page
