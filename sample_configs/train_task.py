"""Train one of the samples in seconds to a minute, and save a checkpoint after each of the last epochs.

The learning rate falls to a high value and stays there (the schedule of the SWA paper), so that the last epochs wander
around an optimum instead of settling in it. A plain training loop, as any user might have; it saves torch files.

    python sample_configs/train_task.py --task cluster --out cluster/checkpoints
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from causal_lm import GrammarData, small_gpt2
from cluster import N_COMMUNITIES, ClusterData, ClusterGcn
from friedman import N_INPUTS, FriedmanData, FriedmanMlp
from shapes import BORDER, ShapesData, ShapesNet, ShapesTagger
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, gaussian_nll_loss, mse_loss

Loss = Callable[[nn.Module, Any], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, on what, and how: the learning rate falls from ``lr`` to ``swa_lr``."""

    model: Callable[[], nn.Module]
    data: Callable[[], Any]
    loss: Loss
    lr: float
    swa_lr: float


def regression_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """Squared error, or the NLL of a normal distribution where the model gives a variance."""
    inputs, targets = batch
    output = model(inputs)
    if isinstance(output, torch.Tensor):
        return mse_loss(output, targets)
    mean, log_variance = output
    return gaussian_nll_loss(mean, targets, log_variance.exp())


def cluster_loss(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy in which rare communities of the batch weigh more: (V − n_c) / V."""
    labels = batch["labels"]
    weights = 1 - labels.bincount(minlength=N_COMMUNITIES) / len(labels)
    logits = model(batch["marks"], batch["adjacency"], batch["graph"])
    return cross_entropy(logits, labels, weight=weights)


def segmentation_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    images, labels = batch
    return cross_entropy(model(images), labels, ignore_index=BORDER)


def tagging_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    images, tags = batch
    return binary_cross_entropy_with_logits(model(images), tags.float())


def language_loss(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).loss


RECIPES = {
    **{
        f"friedman{problem}": Recipe(
            model=partial(FriedmanMlp, inputs=inputs, variance=True),
            data=partial(FriedmanData, problem=problem),
            loss=regression_loss,
            lr=1e-2,
            swa_lr=5e-3,
        )
        for problem, inputs in N_INPUTS.items()
    },
    "cluster": Recipe(model=ClusterGcn, data=ClusterData, loss=cluster_loss, lr=4e-3, swa_lr=2e-3),
    "segmentation": Recipe(model=ShapesNet, data=ShapesData, loss=segmentation_loss, lr=2e-2, swa_lr=1e-2),
    "multilabel": Recipe(
        model=ShapesTagger, data=partial(ShapesData, tags=True), loss=tagging_loss, lr=2e-2, swa_lr=1e-2
    ),
    "causal_lm": Recipe(model=small_gpt2, data=GrammarData, loss=language_loss, lr=5e-3, swa_lr=3e-3),
}


def train(recipe: Recipe, out: Path, *, epochs: int = 24, keep: int = 8, seed: int = 0) -> None:
    """Save ``epoch-*.pt`` in ``out`` after each of the last ``keep`` epochs."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    data = recipe.data()
    data.setup("fit")
    loader = data.train_dataloader()
    model = recipe.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    falling = epochs - keep
    for epoch in range(epochs):
        began, total = time.perf_counter(), 0.0
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr + (recipe.swa_lr - recipe.lr) * min(epoch / max(falling, 1), 1)
        for batch in loader:
            loss = recipe.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / len(loader)
        print(f"epoch {epoch}: train loss {total:.4f}, {time.perf_counter() - began:.1f} s", flush=True)
        if epoch >= falling:
            torch.save({"state_dict": model.state_dict(), "epoch": epoch}, out / f"epoch-{epoch}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*RECIPES], required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--keep", type=int, default=8, help="checkpoints saved, one after each of the last epochs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(RECIPES[args.task], args.out, epochs=args.epochs, keep=args.keep, seed=args.seed)


if __name__ == "__main__":
    main()
