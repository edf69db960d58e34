"""The commands of the tutorial and of the guides, run on what the real trainers leave."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import ROOT, blocks, run_page

RUNS = Path(__file__).parent / "runs"
GUIDES = {
    "lightning": ("lightning_run", "lightning"),
    "huggingface": ("huggingface_run", "transformers"),
    "timm": ("timm_run", "timm"),
    "torchvision": ("torchvision_run", "torchvision"),
    "custom-task": ("depth_run", "torch"),
    "ci-gate": ("plain_run", "torch"),
    "distributed": ("plain_run", "torch"),
    "fsdp-and-deepspeed": ("dcp_run", "torch"),
}
"""Of each guide: the program that makes the run, and what it needs."""
NOT_RUN = {"choose-checkpoints", "data-module", "evaluate-faster"}
"""Guides without commands."""


def train(run: str, folder: Path) -> None:
    shutil.copy(RUNS / "images.py", folder)
    shutil.copy(RUNS / f"{run}.py", folder / "train.py")
    done = subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_guide_is_run_or_has_no_commands():
    guides = {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")}

    assert guides == GUIDES.keys() | NOT_RUN
    for guide in NOT_RUN:
        assert [one for one in blocks(f"docs/guides/{guide}.md") if one.language == "sh"] == []


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_does_what_it_says(guide, tmp_path):
    run, package = GUIDES[guide]
    pytest.importorskip(package, exc_type=ImportError)
    train(run, tmp_path)
    if guide in {"custom-task", "ci-gate", "distributed"}:
        prepare_average(tmp_path, bn=guide != "ci-gate")

    run_page(f"docs/guides/{guide}.md", tmp_path, codes=(0, 3) if guide == "ci-gate" else (0,))

    if guide == "ci-gate":
        assert (tmp_path / "result.md").is_file()


def prepare_average(folder: Path, *, bn: bool) -> None:
    """The average that a guide takes for granted."""
    swa = [sys.executable, "-m", "swa_cli"]
    subprocess.run([*swa, "average", "ckpts", "-o", "swa.safetensors"], cwd=folder, check=True, capture_output=True)
    if bn:
        what = ["--model", "train.py:Net", "--data", "train.py:Data"]
        subprocess.run([*swa, "bn-update", "swa.safetensors", *what], cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
def test_the_tutorial_leads_from_training_to_a_decision(tmp_path):
    printed = run_page("docs/tutorial.md", tmp_path)

    assert "SWA against the last checkpoint: accuracy" in printed
    assert re.search(r"swa.safetensors is the average of its 10 sources, bit for bit", printed)
    assert (tmp_path / "result.json").is_file()
