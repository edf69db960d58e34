"""A small CNN and a data module for Fashion-MNIST; nothing here knows of swa-cli.

The four IDX files come from Debian's package ``dataset-fashion-mnist`` where it is installed, else torchvision
downloads them.
"""

import gzip
import shutil
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import FashionMNIST

DEBIAN_PACKAGE = Path("/usr/share/datasets/fashion-mnist")
N_VAL = 5_000


class FashionCnn(nn.Module):
    """Three convolutions with BatchNorm; takes (n, 1, 28, 28) float32, gives (n, 10) logits."""

    def __init__(self, width: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()),
            nn.MaxPool2d(2),
            *(nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)),
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


class FashionData:
    """55,000 images to train on, 5,000 to validate on, the 10,000 of the test set."""

    def __init__(self, root: str = "data", batch_size: int = 256, seed: int = 0) -> None:
        self.root, self.batch_size, self.seed = Path(root), batch_size, seed

    def prepare_data(self) -> None:
        raw = self.root / "FashionMNIST" / "raw"
        packed = sorted(DEBIAN_PACKAGE.glob("*-ubyte.gz"))
        if not packed:
            FashionMNIST(self.root, download=True)
            return
        raw.mkdir(parents=True, exist_ok=True)
        for source in packed:
            if not (raw / source.stem).exists():
                with gzip.open(source) as compressed, (raw / source.stem).open("wb") as plain:
                    shutil.copyfileobj(compressed, plain)

    def setup(self, stage: str) -> None:
        if stage == "test":
            self.test = _tensors(FashionMNIST(self.root, train=False))
            return
        images, labels = _tensors(FashionMNIST(self.root, train=True)).tensors
        self.train = TensorDataset(images[:-N_VAL], labels[:-N_VAL])
        self.val = TensorDataset(images[-N_VAL:], labels[-N_VAL:])

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=1000)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, batch_size=1000)


def _tensors(dataset: FashionMNIST) -> TensorDataset:
    images = dataset.data[:, None].float().div_(255)
    return TensorDataset((images - 0.286) / 0.353, dataset.targets)
