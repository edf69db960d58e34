"""The options of the commands are those of the configuration."""

import re
import subprocess
import sys

import pytest

from swa_cli.cli.parameters import parse_arguments
from swa_cli.config.settings import settings
from swa_cli.errors import UsageError


@pytest.mark.parametrize(
    ("command", "sections"),
    [
        ("average", ["average"]),
        ("bn-update", ["bn_update", "model", "data"]),
        ("eval", ["eval", "model", "data", "task"]),
    ],
)
def test_a_command_has_a_flag_for_every_key_of_its_sections(command, sections):
    shown = subprocess.run(
        [sys.executable, "-m", "swa_cli", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "400", "NO_COLOR": "1"},
    ).stdout

    options = dict(re.findall(r"^│ +(--[\w-]+|[A-Z]{2,})(.*)│$", shown, flags=re.MULTILINE))
    expected = [setting for section in sections for setting in settings(section) if setting.flags]

    names = {setting.flags[0].partition("/")[0]: setting for setting in expected}
    assert set(options) == {*names, "--config", "--debug", "--help"}
    for flag, setting in names.items():
        assert setting.option.help in options[flag]


def test_what_several_sections_have_is_set_in_all_of_them(run_swa, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: torch.nn.Identity\ndata: torch.nn.Identity\n"
        "average: {sources: [gone], output: swa.safetensors, device: cpu}\n"
    )

    result = run_swa("run", "--config", tmp_path / "run.yaml", "--device", "cuda:77")

    assert result.exit_code == 1
    assert "device cuda:77 is not there" in result.stderr


def test_a_former_flag_is_read_and_not_shown(run_swa):
    shown = run_swa("eval", "--help").stdout
    alone = run_swa("eval", "--at-once", "0")
    both = run_swa("eval", "--at-once", "2", "--max-resident-models", "3")

    assert "--at-once" not in shown
    assert "Invalid value for '--at-once'" in alone.stderr
    assert both.exit_code == 2
    assert both.stderr == (
        "error: --max-resident-models and --at-once are names of the same option. Give one of them.\n"
    )


@pytest.mark.parametrize("argument", ["width", "=3", "a-b=3"])
def test_an_argument_that_is_none_is_refused(argument):
    with pytest.raises(UsageError, match=re.escape(f"cannot read the argument {argument!r}: expected key=value.")):
        parse_arguments([argument])


def test_a_misspelt_flag_names_the_nearest(run_swa):
    result = run_swa("average", "x.pt", "--outptu", "y.pt")

    assert result.exit_code == 2
    assert "--outptu" in result.stderr
    assert "--output" in result.stderr
