"""Small images of three classes that differ in their mean."""

import torch
from torch.utils.data import Dataset

CLASSES = 3


class Images(Dataset):
    """Each is a pair of an image (3, 32, 32) and its class."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(n) % CLASSES
        self.images = torch.randn(n, 3, 32, 32, generator=generator) + self.labels.view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index], self.labels[index]
