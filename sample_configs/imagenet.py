"""ImageNet from image folders, with torchvision's own transforms for ResNet-50."""

from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet50_Weights


class ImageNet:
    """``root/train`` and ``root/val``, one folder of images a class.

    The statistics that evaluation uses are those of images as evaluation sees them, so the training images get the
    evaluation's transforms, shuffled.
    """

    def __init__(self, root: str, batch_size: int = 128, workers: int = 8) -> None:
        self.root, self.batch_size, self.workers = Path(root), batch_size, workers
        self.transform = ResNet50_Weights.IMAGENET1K_V1.transforms()

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", shuffle=False)

    def _loader(self, part: str, *, shuffle: bool) -> DataLoader:
        images = ImageFolder(self.root / part, self.transform)
        return DataLoader(images, self.batch_size, shuffle=shuffle, num_workers=self.workers)
