"""Train the CNN of ``fashion_mnist.py`` and save a checkpoint after each of the last epochs.

SGD falls to a high learning rate and stays there (the schedule of the SWA paper), so that the last epochs wander
around an optimum instead of settling in it. A plain training loop, as any user might have; it saves torch files.

    python sample_configs/train_fashion_mnist.py --out fashion-mnist/checkpoints
"""

import argparse
import time
from pathlib import Path

import torch
from fashion_mnist import FashionCnn, FashionData
from torch.nn.functional import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("fashion-mnist/checkpoints"))
    parser.add_argument("--root", default="data", help="where the IDX files are put")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--keep", type=int, default=12, help="checkpoints saved, one after each of the last epochs")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--swa-lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    data = FashionData(root=args.root, seed=args.seed)
    data.prepare_data()
    data.setup("fit")
    loader, n_train = data.train_dataloader(), len(data.train)
    model = FashionCnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    falling = args.epochs - args.keep
    for epoch in range(args.epochs):
        began = time.perf_counter()
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = args.lr + (args.swa_lr - args.lr) * min(epoch / falling, 1)
        total = 0.0
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        seconds = time.perf_counter() - began
        print(f"epoch {epoch}: train loss {total / n_train:.4f}, {seconds:.1f} s", flush=True)
        if epoch >= falling:
            state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, args.out / f"epoch-{epoch}.pt")


if __name__ == "__main__":
    main()
