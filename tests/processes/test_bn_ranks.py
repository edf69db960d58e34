"""Several ranks recompute the statistics that one process recomputes."""

import json
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from support.processes import SWA, python, torchrun
from support.rank_threads import together
from support.ranks_program import __file__ as program
from swa_cli.batchnorm import recalibrate
from swa_cli.errors import DataError, NonFiniteError, UserCodeError

pytestmark = pytest.mark.slow

CODE = """
import os
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

def Net():
    torch.manual_seed(0)
    layers = [nn.BatchNorm1d(5), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.SyncBatchNorm(8)]
    return nn.Sequential(*layers).double()

class Data:
    def __init__(self, n=210, batch_size=10, bad=False):
        values = torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 50
        if bad:
            values[150] = float("nan")
        self.set, self.batch_size = TensorDataset(values, torch.zeros(n)), batch_size
    def train_dataloader(self):
        return DataLoader(self.set, batch_size=self.batch_size, shuffle=True)

class Noisy(TensorDataset):
    def __getitem__(self, index):
        value, label = super().__getitem__(index)
        return value + torch.randn(5, dtype=torch.float64), label

class Augmented(Data):
    def train_dataloader(self):
        return DataLoader(Noisy(*self.set.tensors), batch_size=self.batch_size, shuffle=True, num_workers=2)

class Stream(IterableDataset):
    def __init__(self, values):
        self.values = values
    def __iter__(self):
        return iter(self.values)

class Streamed(Data):
    def train_dataloader(self):
        return DataLoader(Stream(self.set.tensors[0]), batch_size=self.batch_size)

class Distributed(Data):
    def train_dataloader(self):
        ranks = int(os.environ.get("WORLD_SIZE", 1))
        sampler = DistributedSampler(self.set, ranks, int(os.environ.get("RANK", 0)), shuffle=False)
        return DataLoader(self.set, batch_size=self.batch_size, sampler=sampler)

class Unseeded(Data):
    def train_dataloader(self):
        order = torch.randperm(len(self.set), generator=torch.Generator().manual_seed(os.getpid()))
        return DataLoader(self.set, batch_size=self.batch_size, sampler=order.tolist())

class Leaves(Data):
    def train_dataloader(self):
        for number, batch in enumerate(super().train_dataloader()):
            if os.environ["RANK"] == "1" and number == 5:
                os.kill(os.getpid(), 9)
            yield batch
"""


@pytest.fixture
def folder(tmp_path):
    """A user's code, and an average of its model in float64."""
    (tmp_path / "ranked.py").write_text(CODE)
    (tmp_path / "one").mkdir()
    scope: dict = {}
    exec(CODE, scope)
    state = scope["Net"]().state_dict()
    save_file(state, tmp_path / "swa.safetensors")
    return tmp_path


def start(folder: Path, ranks: int, data: str, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and what our own lines on standard error say; 0 ranks are one plain process."""
    command = (
        *("bn-update", "swa.safetensors", "-o", f"{ranks}.safetensors", "--force"),
        *("--model", "ranked.py:Net", "--data", f"ranked.py:{data}", *arguments),
    )
    result = torchrun(folder, ranks, program, *command) if ranks else python(folder, *SWA, *command)
    said = [line for line in result.stderr.splitlines() if line.startswith(("error:", "note:"))]
    return result.returncode, result.stdout, [line for line in said if "note: batches of about 10" not in line]


def assert_same(folder: Path, one: str, other: str) -> None:
    first, second = load_file(folder / one), load_file(folder / other)
    for name, expected in first.items():
        torch.testing.assert_close(second[name], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_statistics_of_one_process_at_every_depth(folder, ranks):
    """21 batches are no whole number for two ranks; SyncBatchNorm must not wait for the other's."""
    assert start(folder, 0, "Data")[0] == 0
    code, stdout, said = start(folder, ranks, "Data", "--json", "bn.json")

    assert (code, said) == (0, [])
    assert "Recomputed the statistics of 3 BatchNorm layers from 210 samples in 21 batches." in stdout
    assert stdout.count("Wrote") == 1
    assert_same(folder, "0.safetensors", f"{ranks}.safetensors")
    assert json.loads((folder / "bn.json").read_text())["layers"][2]["n_calls"] == 21


@pytest.mark.parametrize(
    ("data", "arguments", "note"),
    [
        ("Data", ("--estimator", "sequential"), "sequential: a pass of 11 batches to find the order of 3 layers"),
        ("Data", ("--estimator", "official", "--num-batches", "7"), None),
        ("Data", ("--num-samples", "95", "--batch-size", "20"), None),
        ("Augmented", ("--seed", "3"), None),
        ("Streamed", (), "cannot be divided: every rank goes through all of it and takes one batch in 2"),
        ("Data", ("--data-arg", "n=10"), None),
    ],
    ids=["sequential", "official", "limits", "workers and augmentation", "a stream", "one batch for two ranks"],
)
def test_two_ranks_and_every_kind_of_data(folder, data, arguments, note):
    assert start(folder, 0, data, *arguments)[0] == 0
    code, _, said = start(folder, 2, data, *arguments)

    assert code == 0
    assert [note in line for line in said] == ([True] if note else [])
    assert_same(folder, "0.safetensors", "2.safetensors")


def test_a_distributed_sampler_makes_other_batches_which_shows_below_the_first_layer(folder):
    assert start(folder, 0, "Distributed")[0] == 0
    code, _, said = start(folder, 2, "Distributed")

    assert (code, len(said)) == (0, 1)
    assert "distributed sampler" in said[0]
    one, two = load_file(folder / "0.safetensors"), load_file(folder / "2.safetensors")
    torch.testing.assert_close(two["0.running_var"], one["0.running_var"], rtol=1e-12, atol=0)
    difference = (two["5.running_var"] / one["5.running_var"] - 1).abs().max()
    assert 1e-4 < difference < 0.2


def test_data_that_converge_stop_all_ranks(folder):
    code, _, said = start(folder, 2, "Data", "--data-arg", "n=4000", "--until-converged", "0.1")

    assert code == 0
    assert "converged: the largest standard error is 0." in said[0]


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("Data", ("--data-arg", "bad=true"), r"rank \d: batch \d: the batch itself holds NaN"),
        ("Unseeded", (), "the ranks' samplers draw different batches"),
        ("Leaves", (), "another rank ended"),
        ("Streamed", ("--data-arg", "n=0"), "the data loader is empty"),
        ("Data", ("--model-arg", "x=1"), "building the model ranked.py:Net"),
    ],
    ids=["NaN on one", "other batches", "one dies", "empty", "no model"],
)
def test_an_error_of_one_rank_ends_all_with_one_message_and_no_output(folder, data, arguments, message):
    code, stdout, said = start(folder, 2, data, *arguments)

    assert (code, stdout) == (1, "")
    errors = [line for line in said if line.startswith("error:")]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert not (folder / "2.safetensors").exists()


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(2)
    _NET = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4)).double()


def net() -> nn.Sequential:
    """The same for all ranks, which are threads here."""
    return deepcopy(_NET)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("estimator", ["population", "torch", "official", "sequential"])
def test_however_many_ranks_the_statistics_are_the_same(size, estimator):
    batches = list(torch.randn(60, 3, dtype=torch.float64).split([7, 13, 2, 19, 19]))
    expected = recalibrate(net(), batches, estimator=estimator)

    results = together(
        size,
        lambda ranks: recalibrate(net(), batches[ranks.rank :: size], estimator=estimator, group=ranks),
    )

    for result in results:
        assert (result.n_samples, result.n_batches) == (60, 5)
        for one, other in zip(result.layers, expected.layers, strict=True):
            assert (one.name, one.n_elements, one.n_calls) == (other.name, other.n_elements, other.n_calls)
            torch.testing.assert_close(one.running_mean, other.running_mean, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(one.running_var, other.running_var, rtol=1e-12, atol=0)
            assert one.mean_error == pytest.approx(other.mean_error, rel=1e-9)


def test_other_batches_of_the_same_samples_change_all_but_the_first_layer():
    """The effect of the partition, which the ranks' shares of one stream do not have."""
    values = torch.randn(64, 3, dtype=torch.float64)
    expected = recalibrate(net(), list(values.split(16)))

    result, _ = together(
        2,
        lambda ranks: recalibrate(net(), list(values[ranks.rank :: 2].split(8)), group=ranks),
    )

    first, last = (
        float((one.running_var / other.running_var - 1).abs().max())
        for one, other in zip(result.layers, expected.layers, strict=True)
    )
    assert first < 1e-12
    assert 1e-3 < last < 0.5


def test_a_rank_without_batches_has_its_share_in_the_result():
    results = together(3, lambda ranks: recalibrate(net(), [torch.randn(8, 3).double()][ranks.rank :], group=ranks))

    assert [result.n_batches for result in results] == [1, 1, 1]


def test_what_one_rank_finds_to_be_kept_is_kept_on_all():
    def frozen() -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm1d(3), Frozen(3)).double()

    results = together(
        2,
        lambda ranks: recalibrate(frozen(), [[], [torch.randn(8, 3).double()]][ranks.rank], group=ranks),
    )

    assert [list(result.kept.items()) for result in results] == [
        [("1", "a Frozen does not update its statistics in training")]
    ] * 2


class Frozen(nn.Module):
    """A norm that keeps what it has."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.running_mean) / self.running_var.sqrt()  # pyright: ignore


def test_ranks_whose_first_batches_reach_other_layers():
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.a, self.b = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.last((self.a(self.a(x)) if len(x) == 8 else self.b(x)) * 2)

    batches = [torch.randn(8 + i % 2, 3).double() for i in range(6)]
    expected = recalibrate(Either().double(), batches, estimator="sequential")
    results = together(
        2,
        lambda ranks: recalibrate(Either().double(), batches[ranks.rank :: 2], estimator="sequential", group=ranks),
    )

    for result in results:
        found = {layer.name: layer for layer in result.layers}
        assert set(found) == {"a", "b", "last"}
        for layer in expected.layers:
            torch.testing.assert_close(found[layer.name].running_var, layer.running_var, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (torch.full((4, 3), torch.nan), NonFiniteError),
        (torch.randn(4, 5), UserCodeError),
        (torch.randn(0, 3), DataError),
    ],
)
def test_an_error_of_one_is_an_error_of_all_and_no_model_changes(batch, error):
    models: list[nn.Module] = []

    def work(ranks):
        model = net()
        models.append(model)
        good = torch.randn(4, 3).double()
        recalibrate(model, [batch.double() if ranks.rank == 1 else good, good], group=ranks)

    errors = together(3, work)

    assert [type(found) for found in errors] == [error] * 3
    assert all(torch.equal(model[0].running_var, torch.ones(3).double()) for model in models)  # pyright: ignore


def test_no_batches_on_any_rank():
    errors = together(2, lambda ranks: recalibrate(net(), [], group=ranks))

    assert [type(found) for found in errors] == [DataError] * 2
