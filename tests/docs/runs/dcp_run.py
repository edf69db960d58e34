"""Checkpoints of torch.distributed.checkpoint."""

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

if __name__ == "__main__":
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    for step in range(3):
        with torch.no_grad():
            model.weight.add_(0.1 * torch.randn(3, 4))
        dcp.save({"model": model.state_dict()}, checkpoint_id=f"run/step-{step}", no_dist=True)
