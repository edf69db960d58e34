"""A small model with BatchNorm and its data, as a user's file."""

from pathlib import Path

import torch
from torch import nn

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=6, classes=4):
        super().__init__()
        self.body = nn.Linear(5, width)
        self.bn = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        return self.head(torch.relu(self.bn(self.body(x))))

class Plain(nn.Linear):
    def __init__(self):
        super().__init__(5, 4)

class Data:
    def __init__(self, n=90, highest=3):
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(n, 5, generator=generator) + 2
        self.y = torch.randint(0, highest + 1, (n,), generator=generator)
    def train_dataloader(self):
        return [(x, y) for x, y in zip(self.x.split(32), self.y.split(32))]
    def test_dataloader(self):
        return [(x, y) for x, y in zip(self.x.flip(0).split(40), self.y.flip(0).split(40))]

class NoTrain:
    def test_dataloader(self):
        return []

class Empty:
    def train_dataloader(self):
        return []
    test_dataloader = train_dataloader

class Bad(Data):
    def train_dataloader(self):
        self.x[70, 2] = float("nan")
        return super().train_dataloader()

class Raises(Data):
    def train_dataloader(self):
        yield self.x[:10], self.y[:10]
        raise OSError("disk gone")
    test_dataloader = train_dataloader
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.bn, self.head = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.body(x))))


MODEL_AND_DATA = ("--model", "mycode.py:Net", "--data", "mycode.py:Data")


def not_finite(folder: Path) -> None:
    state = torch.load(folder / "epoch-8.pt", weights_only=True)
    state["state_dict"]["head.bias"][2] = float("nan")
    torch.save(state, folder / "epoch-8.pt")


MODEL = ("--model", "mycode.py:Net")
