"""Pickled modules, read without their classes."""

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from support.containers import STATE, assert_equal_states, saved
from swa_cli.errors import CheckpointError
from swa_cli.formats import open_checkpoint

MODEL = """
from torch import nn
import torch

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.no_bias = nn.Linear(2, 3, bias=False)
        self.stages = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.ModuleDict({"a": nn.Linear(1, 1)})])
        self.absent = None

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.zeta = nn.Parameter(torch.randn(2))
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("passing", torch.arange(4), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("none", None)
        self.body = Block()
        self.again = self.body
        self.embedding = nn.Embedding(4, 2)
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.embedding.weight
"""


@pytest.fixture
def net(tmp_path):
    """A module whose class is gone once ``forget`` is called."""
    source = tmp_path / "gone_model.py"
    source.write_text(MODEL)
    spec = importlib.util.spec_from_file_location("gone_model", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gone_model"] = module
    spec.loader.exec_module(module)
    yield module.Net()
    sys.modules.pop("gone_model", None)


def forget(tmp_path: Path) -> None:
    del sys.modules["gone_model"]
    (tmp_path / "gone_model.py").unlink()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_whole_module_gives_its_state_dict_without_its_class(tmp_path, net, legacy, protocol):
    path, state = tmp_path / "x.pt", net.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(net, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    forget(tmp_path)

    checkpoint = open_checkpoint(path)

    assert "passing" not in checkpoint.tensors
    assert "again.norm.running_mean" in checkpoint.tensors
    assert_equal_states(checkpoint, state)
    assert checkpoint.tensors["head.weight"] == checkpoint.tensors["embedding.weight"]


def test_modules_under_keys_are_state_dicts(tmp_path, net):
    state = net.state_dict()
    path = saved({"epoch": 3, "model": net, "ema": nn.DataParallel(net), "deep": {"net": net}}, tmp_path / "x.pt")
    forget(tmp_path)

    checkpoint = open_checkpoint(path)

    assert_equal_states(checkpoint, state)
    assert (checkpoint.counters, checkpoint.alternatives) == ({"epoch": 3}, ("ema",))
    assert_equal_states(open_checkpoint(path, key="ema"), state)
    assert_equal_states(open_checkpoint(path, key="deep.net"), state)
    with pytest.raises(CheckpointError, match="has no tensors at key 'epoch': found a int"):
        open_checkpoint(path, key="epoch")


def test_a_submodule_of_another_kind_is_said_to_be_left_out(tmp_path, net):
    net.body = nn.Identity()
    net.again = nn.Identity()
    net._modules["odd"] = OddModule()
    checkpoint = open_checkpoint(saved(net, tmp_path / "x.pt"))

    assert checkpoint.left_out == ("odd",)


class OddModule(nn.Module):
    def __reduce__(self):
        return (OddModule, ())


def test_a_traced_module_is_read(tmp_path):
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))

    assert_equal_states(open_checkpoint(saved(traced, tmp_path / "x.pt")), traced.state_dict())


def test_a_compiled_module_is_read(tmp_path):
    module = nn.Linear(2, 3)

    assert_equal_states(open_checkpoint(saved(torch.compile(module), tmp_path / "x.pt")), module.state_dict())


def test_a_module_that_holds_itself_is_refused(tmp_path):
    module = nn.Module()
    module._modules["again"] = module
    path = saved({"state_dict": STATE, "model": module}, tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match="holds a module within itself"):
        open_checkpoint(path)


def test_modules_shared_without_end_are_refused(tmp_path):
    module = nn.Linear(1, 1)
    for _ in range(60):
        module = nn.ModuleList([module, module])

    with pytest.raises(CheckpointError, match="holds a module within itself, or too many"):
        open_checkpoint(saved(module, tmp_path / "x.pt"))
