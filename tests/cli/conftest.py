"""Six checkpoints beside the user's file."""

import pytest
import torch

from support.commands import CODE, Net


@pytest.fixture
def run_folder(tmp_path):
    """A folder with a user's code and six checkpoints of a model with BatchNorm."""
    (tmp_path / "mycode.py").write_text(CODE)
    folder = tmp_path / "ckpts"
    folder.mkdir()
    model = Net()
    for epoch in range(6, 12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for _ in range(30):
                model(torch.randn(50, 5) + 2)
        torch.save({"state_dict": model.state_dict(), "epoch": epoch}, folder / f"epoch-{epoch}.pt")
    return folder
