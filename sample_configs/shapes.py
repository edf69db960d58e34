"""Noisy pictures of shapes: which pixel is of which shape, or which shapes are there; nothing here knows of swa-cli."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = ("background", "disc", "square", "triangle")
BORDER = 255  # the label of pixels on an outline, which are not scored


class ShapesNet(nn.Module):
    """Four convolutions with BatchNorm, with holes so that a pixel sees 31×31; gives (n, 4, H, W) logits."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = _features(width)
        self.head = nn.Conv2d(width, len(CLASSES), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


class ShapesTagger(nn.Module):
    """The same convolutions; gives (n, 3) logits, of each shape that it is in the picture."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = _features(width)
        self.head = nn.Linear(2 * width, len(CLASSES) - 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images)
        return self.head(torch.cat([features.amax(dim=(2, 3)), features.mean(dim=(2, 3))], dim=1))


def _features(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, holes in ((1, 1), (width, 2), (width, 4), (width, 8)):
        convolution = nn.Conv2d(channels, width, 3, padding=holes, dilation=holes, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class ShapesData:
    """Pictures (n, 1, 32, 32) with the class of each pixel (n, 32, 32), or with ``tags`` the shapes in them (n, 3)."""

    def __init__(
        self,
        *,
        tags: bool = False,
        n_train: int = 800,
        n_val: int = 200,
        n_test: int = 500,
        noise: float = 0.6,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.tags, self.noise, self.batch_size, self.seed = tags, noise, batch_size, seed
        self.sizes = (n_train, n_val, n_test)

    def setup(self, stage: str) -> None:
        del stage
        rng = np.random.default_rng(self.seed)
        self.parts = [self._pictures(size, rng) for size in self.sizes]

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.parts[0], self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[1], batch_size=100)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts[2], batch_size=100)

    def _pictures(self, n: int, rng: np.random.Generator) -> TensorDataset:
        drawn = [picture(rng, self.noise) for _ in range(n)]
        images = torch.from_numpy(np.stack([image for image, _ in drawn])).float()
        labels = torch.from_numpy(np.stack([label for _, label in drawn]))
        if self.tags:
            labels = torch.stack([(labels == shape).any(dim=(1, 2)) for shape in range(1, len(CLASSES))], dim=1)
        return TensorDataset(images[:, None], labels)


def picture(rng: np.random.Generator, noise: float, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """One to three shapes in shades of grey, the later ones over the earlier; image and labels (size, size)."""
    row, column = np.mgrid[:size, :size]
    image, labels = np.zeros((size, size)), np.zeros((size, size), dtype=np.int64)
    for _ in range(rng.integers(1, 4)):
        shape, radius, shade = rng.integers(1, len(CLASSES)), rng.integers(4, 9), rng.uniform(0.6, 1.4)
        down, right = row - rng.integers(4, size - 4), column - rng.integers(4, size - 4)
        distance = {
            1: np.hypot(down, right),
            2: np.maximum(abs(down), abs(right)),
            3: np.maximum(down, 2 * abs(right) - down),
        }[int(shape)]
        image[distance <= radius] = shade
        labels[distance <= radius] = shape
        labels[abs(distance - radius - 0.5) <= 0.5] = BORDER  # noqa: PLR2004
    return image + noise * rng.standard_normal(image.shape), labels
