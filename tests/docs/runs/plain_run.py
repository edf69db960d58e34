"""A training run that saves its state_dict after each epoch, and the metric of each epoch."""

from pathlib import Path

import torch
from images import CLASSES, Images
from torch import nn
from torch.utils.data import DataLoader


class Net(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, 4), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images):
        return self.head(self.layers(images))


class Data:
    def train_dataloader(self):
        return DataLoader(Images(96, seed=0), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Images(60, seed=1), batch_size=30)

    def test_dataloader(self):
        return DataLoader(Images(300, seed=2), batch_size=100)


if __name__ == "__main__":
    torch.manual_seed(0)
    folder = Path("ckpts")
    folder.mkdir()
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(10):
        for images, labels in Data().train_dataloader():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        contents = {"state_dict": model.state_dict(), "epoch": epoch, "metrics": {"val_loss": loss.item()}}
        torch.save(contents, folder / f"epoch-{epoch}.pt")
