"""A run of Lightning's Trainer that keeps all checkpoints."""

import lightning
import torch
from images import CLASSES, Images
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader


class Net(lightning.LightningModule):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, 4), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 64, CLASSES)
        )

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, _index):
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch, index):
        self.log("val_loss", self.training_step(batch, index))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Images(96, seed=0), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Images(60, seed=1), batch_size=30)

    def test_dataloader(self):
        return DataLoader(Images(300, seed=2), batch_size=100)


if __name__ == "__main__":
    lightning.seed_everything(0)
    keep = ModelCheckpoint(monitor="val_loss", save_top_k=-1, save_last=True, filename="{epoch}-{val_loss:.2f}")
    trainer = lightning.Trainer(
        max_epochs=8, accelerator="cpu", callbacks=[keep], logger=CSVLogger("."), enable_progress_bar=False
    )
    trainer.fit(Net(), Data())
