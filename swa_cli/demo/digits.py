"""A data module of the UCI digits, and a small CNN, written as a user would write them."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

N_TRAIN, N_VAL = 897, 200  # of 1,797; the other 700 are the test set


class DigitsCnn(nn.Module):
    """Three convolutions with BatchNorm; takes (n, 1, 8, 8) float32, gives (n, 10) logits."""

    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


class DigitsData:
    """The digits that come with scikit-learn, with the same split for every seed."""

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        from sklearn.datasets import load_digits

        del stage
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.images = (torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16)[order]
        self.labels = torch.tensor(labels)[order]

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self._part(0, N_TRAIN), batch_size=self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(self._part(N_TRAIN, N_TRAIN + N_VAL), batch_size=500)

    def test_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(self._part(N_TRAIN + N_VAL, len(self.labels)), batch_size=500)

    def _part(self, start: int, stop: int) -> TensorDataset:
        return TensorDataset(self.images[start:stop], self.labels[start:stop])
