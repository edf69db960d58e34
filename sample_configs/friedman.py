"""Friedman's regression problems, and a small network for them; nothing here knows of swa-cli.

J. H. Friedman, "Multivariate adaptive regression splines", 1991, and L. Breiman, "Bagging predictors", 1996.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

N_INPUTS = {1: 10, 2: 4, 3: 4}
NOISE = {1: 1.0, 2: 125.0, 3: 0.1}  # Breiman's: the signal explains about 95, 90 and 90 % of the variance


class FriedmanMlp(nn.Module):
    """Two hidden layers with BatchNorm; takes (n, inputs), gives (n,), or mean and log-variance, (n,) each."""

    def __init__(self, inputs: int = 10, width: int = 64, *, variance: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            *(nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
        )
        self.mean = nn.Linear(width, 1)
        self.log_variance = nn.Linear(width, 1) if variance else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden(inputs)
        mean = self.mean(hidden)[:, 0]
        if self.log_variance is None:
            return mean
        return mean, self.log_variance(hidden)[:, 0].clamp(-8, 8)


class FriedmanData:
    """Problem 1, 2 or 3; inputs and targets are standardised by those of the training set."""

    def __init__(
        self,
        problem: int = 1,
        n_train: int = 1000,
        n_val: int = 500,
        n_test: int = 2000,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.problem, self.batch_size, self.seed = problem, batch_size, seed
        self.sizes = (n_train, n_val, n_test)

    def setup(self, stage: str) -> None:
        del stage
        rng = np.random.default_rng(self.seed)
        inputs, targets = friedman(self.problem, sum(self.sizes), rng)
        known = slice(self.sizes[0])
        inputs = (inputs - inputs[known].mean(axis=0)) / inputs[known].std(axis=0)
        targets = (targets - targets[known].mean()) / targets[known].std()
        examples = TensorDataset(torch.from_numpy(inputs).float(), torch.from_numpy(targets).float())
        ends = np.cumsum((0, *self.sizes)).tolist()
        self.parts = [TensorDataset(*examples[start:end]) for start, end in pairwise(ends)]

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.parts[0], batch_size=self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[1], batch_size=500)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[2], batch_size=500)


def friedman(problem: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 10) or (n, 4), and targets (n,) with normal noise."""
    x = rng.random((n, N_INPUTS[problem]))
    if problem == 1:
        y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    else:
        x = x * [100, 520 * np.pi, 1, 10] + [0, 40 * np.pi, 0, 1]
        reactance = x[:, 1] * x[:, 2] - 1 / (x[:, 1] * x[:, 3])
        y = {2: np.hypot(x[:, 0], reactance), 3: np.arctan(reactance / x[:, 0])}[problem]
    return x, y + NOISE[problem] * rng.standard_normal(n)
