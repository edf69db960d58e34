"""Fixtures: seeds, and checkpoints as trainers leave them."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from typer.testing import CliRunner

from swa_cli.cli.commands import swa

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=500, help="how many damaged files test_fuzz.py opens")
    parser.addoption("--fuzz-from", type=int, default=0, help="the first of them")
    parser.addoption("--flips", type=int, default=60, help="how many bits of each output test_verify.py flips")
    parser.addoption("--kills", type=int, default=12, help="how many runs of each kind test_kills.py kills")


def pytest_configure(config):
    """Leave slow tests out of a run of everything; a file that is named runs whole."""
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr:
        config.option.markexpr = "not slow"


@pytest.fixture(autouse=True)
def seeded():
    """pytest-randomly seeds random and numpy, not torch."""
    torch.manual_seed(0)


@pytest.fixture
def memory():
    """The empty file system behind ``memory://``."""
    from fsspec.implementations.memory import MemoryFileSystem

    def clear() -> None:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    clear()
    yield MemoryFileSystem()
    clear()


@pytest.fixture
def store():
    """The empty object store behind ``store://``."""
    from support.object_store import ObjectStore

    ObjectStore.clear()
    yield ObjectStore
    ObjectStore.clear()


@pytest.fixture
def run_swa(tmp_path, monkeypatch):
    """Run ``swa`` in an empty folder; gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object):
        return CliRunner().invoke(swa, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def save_run(tmp_path):
    """Save state_dicts as ``epoch-0.pt``, ``epoch-1.pt``, … in a folder and return it."""

    def save(states: list[dict[str, torch.Tensor]], folder: str = "ckpts") -> Path:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        for step, state in enumerate(states):
            torch.save(state, target / f"epoch-{step}.pt")
        return target

    return save
