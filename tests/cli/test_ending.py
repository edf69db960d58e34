"""However a program ends, it says one thing on standard error, and its exit code is the documented one."""

import os
import subprocess
import sys

import pytest
import torch

from support.processes import SWA, python

pytestmark = pytest.mark.slow

CODE = """
import os, signal, sys, torch
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class ClosesStdout(Net):
    def __init__(self):
        super().__init__()
        sys.__stdout__.close()
        sys.stdout.close()

class ClosesBoth(Net):
    def __init__(self):
        super().__init__()
        os.close(1)
        os.close(2)

class Replaces(Net):
    def __init__(self):
        super().__init__()
        sys.stdout = sys.stderr = sys.__stdout__ = None

class Prints(Net):
    def __init__(self):
        super().__init__()
        os.write(1, b"from below Python\\n")
        print("from Python")

class Loud:
    def __del__(self):
        raise AttributeError("not now")

class Fails(Net):
    def forward(self, x):
        loud = Loud()
        raise ValueError("no")

class Ended(Net):
    def forward(self, x):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise RecursionError("something else") from error

class Data:
    def test_dataloader(self):
        return [(torch.randn(20, 3), torch.arange(20) % 2)]
"""
EVAL = ("eval", "ckpts", "--swa", "ckpts/1.pt", "--data", "code_.py:Data", "--model")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code_.py").write_text(CODE)
    (tmp_path / "ckpts").mkdir()
    for step in range(2):
        torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "ckpts" / f"{step}.pt")
    return tmp_path


def shell(folder, command):
    """What became of a command line of a shell's, in which ``swa`` is this program."""
    line = f'swa() {{ "{sys.executable}" -m swa_cli "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", ["swa inspect ckpts", "swa --help", "swa average ckpts -o a.pt"])
def test_a_closed_standard_output_is_said_before_the_work(folder, command):
    result = shell(folder, f"{command} >&-")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: standard output is closed")
    assert result.stderr.count("\n") == 1
    assert not (folder / "a.pt").exists()


@pytest.mark.parametrize("command", ["swa inspect ckpts --json", "swa --help", "swa --version"])
def test_a_full_standard_output_is_one_message(folder, command):
    result = shell(folder, f"{command} >/dev/full")

    assert result.returncode == 1
    assert result.stderr == "error: cannot write to standard output: No space left on device.\n"


@pytest.mark.parametrize("command", ["swa inspect ckpts --json", "swa --help", "swa average ckpts --dry-run"])
def test_a_reader_that_goes_away_ends_the_program_as_any_other(folder, command):
    result = shell(folder, f"{command} | true; exit ${{PIPESTATUS[0]}}")

    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_message_that_nobody_can_read_leaves_the_exit_code(folder, streams):
    assert shell(folder, f"swa average gone -o a.pt {streams}").returncode == 1
    assert shell(folder, f"swa average --gone {streams}").returncode == 2
    assert shell(folder, f"swa inspect ckpts {streams}").returncode == 0


INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Finder())
sys.argv = ["swa", *{arguments!r}]
from swa_cli.cli.main import swa
swa()
"""


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("typer", 2, 130),
        ("swa_cli.cli.run", 2, 130),
        ("swa_cli.config.load", 2, 130),
        ("torch", 2, 130),
        ("torch", 15, 143),
    ],
)
def test_an_interrupt_during_imports_is_one_message(folder, name, number, code):
    program = INTERRUPTED.format(name=name, number=number, arguments=(*EVAL, "code_.py:Net"))

    result = python(folder, "-c", program)

    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr == "error: interrupted; nothing was left half-written.\n"


@pytest.mark.parametrize("model", ["ClosesStdout", "ClosesBoth", "Replaces"])
def test_a_model_that_closes_the_streams_does_not_lose_the_result(folder, model):
    result = python(folder, *SWA, *EVAL, f"code_.py:{model}")

    assert result.returncode == 0
    assert result.stdout.startswith("20 examples of the test split\n")
    assert "has no swa-cli provenance" in result.stderr


def test_what_a_model_prints_does_not_spoil_the_json(folder):
    result = python(folder, *SWA, *EVAL, "code_.py:Prints", "--json", "-")

    assert result.stdout.startswith("{")
    assert "Python" not in result.stdout
    assert {"from below Python", "from Python"} <= set(result.stderr.splitlines())


def test_an_exception_that_cannot_be_raised_follows_no_message(folder):
    result = python(folder, *SWA, *EVAL, "code_.py:Fails")

    assert result.returncode == 1
    assert "failed: ValueError: no" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_signal_is_one_whatever_the_model_makes_of_it(folder):
    result = python(folder, *SWA, *EVAL, "code_.py:Ended")

    assert (result.returncode, result.stdout) == (143, "")
    assert result.stderr == "error: interrupted; nothing was left half-written.\n"


WORKER = """
import multiprocessing, os, signal, time
from swa_cli.cli.ending import exit_on_error

def work():
    time.sleep(60)

with exit_on_error(debug=False):
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    time.sleep(0.2)
    os.kill(worker.pid, {number})
    worker.join()
    print(worker.exitcode)
"""


@pytest.mark.parametrize("number", [1, 2, 15])
def test_a_forked_worker_ends_without_a_word(tmp_path, number):
    result = python(tmp_path, "-c", WORKER.format(number=number))

    assert (result.stdout, result.stderr) == (f"{-number}\n", "")


def test_a_missing_standard_stream_is_not_the_next_file_that_is_opened(tmp_path):
    program = (
        "import os, sys\nfrom swa_cli.cli import main\nos.close(0); os.close(2)\nmain._fill_descriptors()\n"
        "print(os.readlink('/proc/self/fd/0'), os.readlink('/proc/self/fd/2'))"
    )

    assert python(tmp_path, "-c", program).stdout == f"{os.devnull} {os.devnull}\n"
