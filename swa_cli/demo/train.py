"""A training run with the schedule of the SWA paper: the learning rate falls, then stays high."""

from io import BytesIO
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from swa_cli.demo.digits import DigitsCnn, DigitsData
from swa_cli.system.atomic_file import publish
from swa_cli.system.progress import Track, silent

EPOCHS, KEPT = 24, 12
LEARNING_RATE, SWA_LEARNING_RATE = 0.1, 0.05


def train_digits(folder: Path, *, seed: int, track: Track = silent) -> list[Path]:
    """Train `DigitsCnn` and save a checkpoint after each of the last 12 of 24 epochs.

    Args:
        folder: is created if it does not exist; receives ``epoch-12.pt`` to ``epoch-23.pt``, with ``state_dict`` and
            ``epoch``.

    Raises:
        OSError: ``folder`` cannot be created.
        OutputError: a checkpoint cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data = DigitsData(seed=seed)
        data.setup("fit")
        loader = data.train_dataloader()
        model = DigitsCnn()
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
        saved: list[Path] = []
        with track("training", total=EPOCHS * len(loader), unit="batches") as advance:
            for epoch in range(EPOCHS):
                fallen = min(epoch / (EPOCHS - KEPT), 1)
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE + (SWA_LEARNING_RATE - LEARNING_RATE) * fallen
                for images, labels in loader:
                    loss = cross_entropy(model(images), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    advance(1)
                if epoch >= EPOCHS - KEPT:
                    saved.append(folder / f"epoch-{epoch}.pt")
                    _save({"state_dict": model.state_dict(), "epoch": epoch}, saved[-1])
    return saved


def _save(contents: object, path: Path) -> None:
    """Write the file whole or not at all; torch.save to a path leaves a partial file on a full disk."""
    serialised = BytesIO()
    torch.save(contents, serialised)
    with publish(path, overwrite=True) as stream:
        stream.write(serialised.getbuffer())
