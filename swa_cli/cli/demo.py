"""``swa demo``."""

from pathlib import Path
from typing import Annotated

import typer

from swa_cli.cli.ending import exit_on_error
from swa_cli.cli.parameters import Debug
from swa_cli.cli.run import show_steps
from swa_cli.cli.terminal import notify, say, track

_OWN = Path("swa-demo")
"""The default directory, which each run replaces; any other one has to be empty."""
_FILES = """
Written:
  {out}/checkpoints/       the checkpoints of a training run, after each of the last 12 epochs
  {out}/swa.safetensors    their average, with BatchNorm statistics recomputed on the training images
  {out}/results.json       the table as JSON

The same on your own run:
  swa-average CHECKPOINTS/ -o swa.safetensors
  swa-bn-update swa.safetensors --model your_code.py:Model --data your_code.py:DataModule
  swa-eval CHECKPOINTS/ --swa swa.safetensors --compare-ensemble --model your_code.py:Model --data your_code.py:DataModule"""  # noqa: E501


def demo(
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for checkpoints and results (default: swa-demo).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a directory that is not empty.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of the training run.")] = 0,
    debug: Debug = False,
) -> None:
    """Train a small CNN on the UCI digits (seconds, no download), then average, recompute and evaluate."""
    with exit_on_error(debug=debug):
        from swa_cli.demo.run import run_demo  # noqa: PLC0415  # torch is imported after --help

        folder = out or _OWN
        config, result = run_demo(folder, seed=seed, force=force or out is None, notify=notify, track=track)
        show_steps(result, config.eval)
        for line in _FILES.splitlines():
            say(line.format(out=folder))
