"""A run of Hugging Face's Trainer: checkpoint-N/, evaluated and saved every six steps."""

from images import CLASSES, Images
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)


def net():
    return AutoModelForImageClassification.from_config(AutoConfig.from_pretrained("run/checkpoint-36"))


class Named(Dataset):
    """As Trainer takes them: mappings."""

    def __init__(self, n: int, seed: int) -> None:
        self.images = Images(n, seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        image, label = self.images[index]
        return {"pixel_values": image, "labels": label}


class Data:
    def train_dataloader(self):
        return DataLoader(Named(96, seed=0), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Named(300, seed=1), batch_size=100)


if __name__ == "__main__":
    set_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=CLASSES)
    arguments = TrainingArguments(
        "run",
        eval_strategy="steps",
        eval_steps=6,
        save_steps=6,
        max_steps=36,
        learning_rate=0.01,
        per_device_train_batch_size=16,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    data = Named(96, seed=0), Named(60, seed=1)
    Trainer(ResNetForImageClassification(config), arguments, train_dataset=data[0], eval_dataset=data[1]).train()
