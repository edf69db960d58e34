"""What `evaluate.py` evaluates, written as a user would write it: a small CNN, a folder of JPEGs, a file of tensors."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

Loader = DataLoader[tuple[torch.Tensor, ...]]


class SmallCnn(nn.Sequential):
    """Three convolutions with BatchNorm, of ``width``, 2 × and 4 ``width`` channels; images of any size."""

    def __init__(self, *, n_classes: int, width: int, stride: int) -> None:
        """Random weights.

        Args:
            stride: of the first convolution; the others have 2.
        """
        widths, strides = (3, width, 2 * width, 4 * width), (stride, 2, 2)
        layers: list[nn.Module] = []
        for before, after, step in zip(widths, widths[1:], strides, strict=False):
            convolution = nn.Conv2d(before, after, 3, stride=step, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, n_classes))


class Images:
    """A folder for each class, decoded and cropped as for an evaluation on ImageNet."""

    def __init__(self, *, path: Path, batch_size: int, num_workers: int) -> None:
        """Nothing is read yet."""
        self._path, self._batch_size, self._num_workers = path, batch_size, num_workers

    def test_dataloader(self) -> Loader:
        """Images (n, 3, 224, 224) and class indices."""
        transform = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            ]
        )
        dataset = ImageFolder(str(self._path), transform)
        return DataLoader(dataset, batch_size=self._batch_size, num_workers=self._num_workers)


class Tensors:
    """A file with images (n, 3, H, W) and class indices, read at once."""

    def __init__(self, *, path: Path, batch_size: int, num_workers: int) -> None:
        """The file is read."""
        self._dataset = TensorDataset(*torch.load(path))
        self._batch_size, self._num_workers = batch_size, num_workers

    def test_dataloader(self) -> Loader:
        """Images and class indices as they are in the file."""
        return DataLoader(self._dataset, batch_size=self._batch_size, num_workers=self._num_workers)
