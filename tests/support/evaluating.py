"""A user's folder for swa-eval: a module of code, six checkpoints of a small model with BatchNorm, their average."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

CODE = '''
import os
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset


def noted(name, what="x"):
    """Another line of a file that a test counts."""
    with Path(name).open("a") as file:
        file.write(f"{what}\\n")


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body, self.bn, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, classes)

    def forward(self, x):
        noted("forwards", tuple(x.shape))
        return self.head(torch.relu(self.bn(self.body(x))))

    def load_state_dict(self, *args, **kwargs):
        noted("loads")
        return super().load_state_dict(*args, **kwargs)


class Plain(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)


class Nan(Net):
    """Of inputs above a bound."""

    def forward(self, x):
        return super().forward(x) / (x.max() < 90)


class Base:
    def __init__(self, n=60, seed=5, batch_size=13, highest=2, lowest=0):
        generator = torch.Generator().manual_seed(seed)
        self.batch_size = batch_size
        self.sets = {}
        for split in ("train", "val", "test"):
            x = torch.randn(n, 4, generator=generator)
            y = (x[:, :3] + 0.7 * torch.randn(n, 3, generator=generator)).argmax(dim=1)
            self.sets[split] = x, y.clamp(lowest, highest)

    def batches(self, split):
        """Each loading is noted."""
        noted("passes", split)
        for x, y in zip(*(part.split(self.batch_size) for part in self.sets[split]), strict=True):
            yield x, y

    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.sets["train"]), batch_size=20, shuffle=True)


class OnlyTest(Base):
    def test_dataloader(self):
        return Loaded(self, "test")


class OnlyVal(Base):
    def val_dataloader(self):
        return Loaded(self, "val")


class Loaded:
    def __init__(self, data, split):
        self.data, self.split = data, split

    def __iter__(self):
        return self.data.batches(self.split)


class Data(OnlyTest, OnlyVal):
    """All three."""


class NoTrain:
    """Neither training nor validation data."""

    def __init__(self):
        self.data = Data()

    def test_dataloader(self):
        return self.data.test_dataloader()
'''

MODEL = ("--model", "evalcode.py:Net")
MODEL_AND_DATA = (*MODEL, "--data", "evalcode.py:Data")
N_CHECKPOINTS = 6


class Net(nn.Module):
    """The user's, without what it counts."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body, self.bn, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.body(x))))


def good_state() -> dict[str, torch.Tensor]:
    """Weights that name the largest of the first three inputs, as the labels mostly do."""
    net = Net()
    state = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    for place in range(3):
        state["body.weight"][2 * place, place], state["body.weight"][2 * place + 1, place] = 1, -1
        state["head.weight"][place, 2 * place], state["head.weight"][place, 2 * place + 1] = 2, -2
    return state | {"bn.weight": torch.ones(8), "bn.running_var": torch.ones(8)}


def noisy(state: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """With noise on all weights, and BatchNorm statistics that are a little off."""
    return {
        name: value + scale * torch.randn_like(value).abs()
        if "running" in name
        else (value + scale * torch.randn_like(value) if value.is_floating_point() else value + 7)
        for name, value in state.items()
    }


def prepared(folder: Path, *, scale: float = 0.8) -> Path:
    """``evalcode.py``, ``ckpts/epoch-0.pt`` and so on, and nothing that has been averaged."""
    (folder / "evalcode.py").write_text(CODE)
    (folder / "ckpts").mkdir()
    for epoch in range(N_CHECKPOINTS):
        state = noisy(good_state(), scale)
        torch.save({"state_dict": state, "epoch": epoch}, folder / "ckpts" / f"epoch-{epoch}.pt")
    return folder


def averaged(run_swa, *arguments: object, recomputed: bool = True) -> None:
    """Write ``swa.safetensors``."""
    assert run_swa("average", "ckpts", "-o", "swa.safetensors", *arguments).exit_code == 0
    if recomputed:
        assert run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA).exit_code == 0


def evaluated(run_swa, *arguments: object, data: tuple[str, ...] = MODEL_AND_DATA) -> dict[str, Any]:
    """The JSON of an evaluation."""
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *data, *arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def rows_of(result: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in result["candidates"] if row["kind"] == kind]


def row_of(result: dict[str, Any], kind: str) -> dict[str, Any]:
    (row,) = rows_of(result, kind)
    return row


def but(result: dict[str, Any], *names: str) -> dict[str, Any]:
    """All of it but what tells of how it came about."""
    return {name: value for name, value in result.items() if name not in names}


def counted(name: str) -> int:
    """Lines that the user's code has written to a file since this was last asked."""
    path = Path(name)
    if not path.exists():
        return 0
    lines = len(path.read_text().splitlines())
    path.unlink()
    return lines


def save(state: dict[str, torch.Tensor], path: Path) -> None:
    """As a file that nothing is known of."""
    save_file(state, path)
