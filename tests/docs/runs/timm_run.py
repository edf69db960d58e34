"""What timm's train.py leaves: checkpoint-N.pth.tar, last and model_best, written by its CheckpointSaver."""

import argparse
from pathlib import Path

import timm
import torch
from images import CLASSES, Images
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader


class Data:
    def train_dataloader(self):
        return DataLoader(Images(96, seed=0), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Images(300, seed=1), batch_size=100)


if __name__ == "__main__":
    torch.manual_seed(0)
    folder = Path("output/train/run")
    folder.mkdir(parents=True)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    ema = ModelEmaV3(model, decay=0.9)
    options = argparse.Namespace(model="test_resnet", lr=0.05)
    saver = CheckpointSaver(
        model, optimizer, args=options, model_ema=ema, checkpoint_dir=str(folder), recovery_dir=str(folder)
    )
    for epoch in range(8):
        for images, labels in Data().train_dataloader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        ema.update(model)
        saver.save_checkpoint(epoch, metric=50.0 + epoch)
