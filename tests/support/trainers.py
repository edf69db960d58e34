"""Small runs of the real timm, Lightning and Hugging Face Trainer, and of torchvision's reference script.

They take seconds on a CPU. Each function trains a tiny model, leaves a directory as that library does, and gives a
`TrainerRun`: what was saved, in order, and how the library itself loads a checkpoint back. A library that is not
installed skips the test.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One checkpoint: its weights and metrics when it was saved."""

    path: Path
    step: int
    metrics: Mapping[str, float]
    state: Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainerRun:
    """A directory as a trainer left it."""

    folder: Path
    """What a user would name: the directory that was given to the trainer."""
    saved: tuple[Saved, ...]
    """In the order of training, each once; links and copies of them are not here."""
    load: Callable[[Path], nn.Module]
    """Load one of the checkpoints (or a file or folder in its place) into a new model, as the library's users do."""


@contextmanager
def quiet() -> Generator[None]:
    """The libraries warn, log and print; ours may not."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def imported(name: str) -> Any:
    """The module, or the test is skipped."""
    with quiet():
        return pytest.importorskip(name, exc_type=ImportError)


class Images(Dataset):
    """Two dozen small images of three classes that differ in their mean."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": noise + index % CLASSES, "labels": torch.tensor(index % CLASSES)}


def batches() -> DataLoader:
    return DataLoader(Images(), batch_size=8)


def copy_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Of one batch."""
    model.train()
    batch = next(iter(batches()))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"]).backward()
    optimizer.step()


def run_timm(folder: Path, *, metrics: tuple[float, ...] = (50.0, 70.0, 60.0, 80.0, 75.0)) -> TrainerRun:
    """timm's ``CheckpointSaver`` with an EMA: ``checkpoint-N``, and hard links ``last`` and ``model_best``."""
    timm, utils, models = imported("timm"), imported("timm.utils"), imported("timm.models")

    def build() -> nn.Module:
        return timm.create_model("test_resnet", num_classes=CLASSES)

    def load(path: Path) -> nn.Module:
        model = build()
        with quiet():
            models.load_checkpoint(model, str(path), use_ema=False)
        return model

    saved: list[Saved] = []
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        ema = utils.ModelEmaV3(model, decay=0.9)
        saver = utils.CheckpointSaver(
            model,
            optimizer,
            args=argparse.Namespace(model="test_resnet", lr=0.05),
            model_ema=ema,
            checkpoint_dir=str(folder),
            recovery_dir=str(folder),
        )
        for epoch, metric in enumerate(metrics):
            train_one_epoch(model, optimizer)
            ema.update(model)
            saver.save_checkpoint(epoch, metric=metric)
            path = folder / f"checkpoint-{epoch}.pth.tar"
            saved.append(Saved(path=path, step=epoch, metrics={"metric": metric}, state=copy_of(model)))
    return TrainerRun(folder=folder, saved=tuple(saved), load=load)


def run_lightning(folder: Path, *, epochs: int = 11) -> TrainerRun:
    """Lightning's ``Trainer`` with ``ModelCheckpoint(save_top_k=-1, save_last=True)``, in its default folders."""
    lightning, callbacks = imported("lightning"), imported("lightning.pytorch.callbacks")
    loggers = imported("lightning.pytorch.loggers")
    seen: dict[int, tuple[float, dict[str, torch.Tensor]]] = {}

    class Classifier(lightning.LightningModule):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(
                nn.Conv2d(3, width, 3, 4), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 64, CLASSES)
            )

        def forward(self, images):
            return self.net(images)

        def training_step(self, batch, _index):
            return nn.functional.cross_entropy(self(batch["pixel_values"]), batch["labels"])

        def validation_step(self, batch, _index):
            self.log("val_loss", self.training_step(batch, _index))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)

    class Recorder(callbacks.Callback):  # pyright: ignore[reportUntypedBaseClass]
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen[trainer.global_step] = float(trainer.callback_metrics["val_loss"]), copy_of(pl_module)

    def load(path: Path) -> nn.Module:
        with quiet():
            return Classifier.load_from_checkpoint(path, map_location="cpu")

    with quiet():
        keep = callbacks.ModelCheckpoint(
            monitor="val_loss", save_top_k=-1, save_last=True, filename="{epoch}-{val_loss:.2f}"
        )
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=folder,
            logger=loggers.CSVLogger(folder),
            callbacks=[Recorder(), keep],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(), batches(), batches())
        steps = {
            torch.load(path, weights_only=False)["global_step"]: path
            for path in Path(keep.dirpath).iterdir()
            if path.name != "last.ckpt"
        }
    saved = [
        Saved(path=steps[step], step=step, metrics={"val_loss": loss}, state=state)
        for step, (loss, state) in seen.items()
    ]
    return TrainerRun(folder=folder, saved=tuple(saved), load=load)


def run_transformers(folder: Path, *, final_model: bool = False, steps: int = 15) -> TrainerRun:
    """Hugging Face's ``Trainer``: ``checkpoint-N/``, evaluated and saved every three steps.

    Args:
        final_model: save the model at the end in ``folder`` itself too, as the examples do.
    """
    transformers = imported("transformers")
    imported("accelerate")
    saved: list[Saved] = []

    def build() -> nn.Module:
        config = transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=CLASSES
        )
        return transformers.ResNetForImageClassification(config)

    def load(path: Path) -> nn.Module:
        with quiet():
            return transformers.ResNetForImageClassification.from_pretrained(path if path.is_dir() else path.parent)

    class Recorder(transformers.TrainerCallback):  # pyright: ignore[reportUntypedBaseClass]
        def on_save(self, args, state, control, **kwargs):
            logged = [entry for entry in state.log_history if entry["step"] == state.global_step]
            metrics = {name: value for entry in logged for name, value in entry.items() if "eval" in name}
            path = folder / f"checkpoint-{state.global_step}" / "model.safetensors"
            state_dict = copy_of(kwargs["model"])
            saved.append(Saved(path=path, step=state.global_step, metrics=metrics, state=state_dict))

    with quiet():
        transformers.utils.logging.set_verbosity_error()
        arguments = transformers.TrainingArguments(
            str(folder),
            eval_strategy="steps",
            eval_steps=3,
            save_steps=3,
            logging_steps=3,
            max_steps=steps,
            learning_rate=0.01,
            per_device_train_batch_size=8,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            build(),
            arguments,
            train_dataset=Images(),
            eval_dataset=Images(),
            compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())},
            callbacks=[Recorder()],
        )
        trainer.train()
        if final_model:
            trainer.save_model()
            trainer.save_state()
    return TrainerRun(folder=folder, saved=tuple(saved), load=load)


def run_torchvision(folder: Path, *, epochs: int = 11) -> TrainerRun:
    """As torchvision's ``references/classification/train.py``: ``model_N.pth``, and ``checkpoint.pth``, the newest."""
    models: Any = imported("torchvision.models")

    def build() -> nn.Module:
        return models.shufflenet_v2_x0_5(num_classes=CLASSES)

    def load(path: Path) -> nn.Module:
        model = build()
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False)["model"])
        return model

    folder.mkdir(parents=True, exist_ok=True)
    saved: list[Saved] = []
    model = build()
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
    for epoch in range(epochs):
        train_one_epoch(model, optimizer)
        scheduler.step()
        ema.update_parameters(model)
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": epoch,
            "args": argparse.Namespace(model="shufflenet_v2_x0_5", epochs=epochs),
            "model_ema": ema.state_dict(),
        }
        torch.save(checkpoint, folder / f"model_{epoch}.pth")
        torch.save(checkpoint, folder / "checkpoint.pth")
        saved.append(Saved(path=folder / f"model_{epoch}.pth", step=epoch, metrics={}, state=copy_of(model)))
    return TrainerRun(folder=folder, saved=tuple(saved), load=load)
