"""What all programs have: help, version, bugs, interruptions."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_debug_shows_the_traceback(run_swa):
    result = run_swa("average", "gone", "-o", "x.safetensors", "--debug")

    assert "Traceback (most recent call last)" in result.stderr
    assert "error: no such file or directory: gone" in result.stderr


def test_ctrl_c_ends_with_130_and_no_output(run_swa, run_folder, tmp_path, monkeypatch):
    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)  # as from the keyboard, while the threads work

    monkeypatch.setattr("swa_cli.averaging.cpu.put", interrupt)
    result = run_swa("average", "ckpts", "-o", "swa.safetensors")

    assert result.exit_code == 130
    assert result.stderr == "error: interrupted; nothing was left half-written.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpts", "mycode.py"]


def test_a_bug_of_ours_is_owned_up_to(run_swa, run_folder, monkeypatch):
    monkeypatch.setattr("swa_cli.pipeline.average.plan_average", int)  # which takes no such arguments
    result = run_swa("average", "ckpts", "-o", "swa.safetensors")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: a bug in swa-cli: TypeError: ")
    assert "Traceback" not in result.stderr


COMMANDS = ["", "inspect", "average", "bn-update", "eval", "run", "demo"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_torch_nor_torchvision(command):
    code = (
        "import sys\n"
        "from swa_cli.cli.main import swa\n"
        "try: swa()\n"
        "except SystemExit as end: assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'yaml', 'sklearn', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command_line = [sys.executable, "-c", code, *command.split(), "--help"]
    result = subprocess.run(command_line, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage" in result.stdout


@pytest.mark.parametrize("program", ["swa-average", "swa-bn-update", "swa-eval", "swa"])
def test_the_programs_are_installed(program):
    result = subprocess.run([Path(sys.executable).with_name(program), "-h"], capture_output=True, text=True, check=True)

    assert program in result.stdout
    assert "--install-completion" in result.stdout


def test_the_version(run_swa):
    from importlib.metadata import version

    assert run_swa("--version").stdout.strip() == version("swa-cli")


@pytest.mark.parametrize("wrong", [("--combine", "medan"), ("--integers", "agre"), ("--dtype", "float3")])
def test_a_value_that_is_no_choice_is_named_with_the_choices(run_swa, wrong):
    result = run_swa("average", "ckpts", "-o", "x.safetensors", *wrong)

    assert result.exit_code == 2
    assert f"Invalid value for '{wrong[0]}': '{wrong[1]}' is not one of" in result.stderr
