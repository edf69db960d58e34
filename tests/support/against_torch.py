"""Whether a torch file that swa-cli accepts means the same to ``torch.load(weights_only=True)``."""

import argparse
import pickletools
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swa_cli.errors import CheckpointError
from swa_cli.formats import Checkpoint, open_checkpoint

TRUSTED: list[Any] = [argparse.Namespace, nn.Sequential, nn.Conv2d, nn.BatchNorm2d, set]
"""What torch.load may build besides what it always may: classes that the test files hold."""
OPCODES = "|".join(str(ord(opcode.code)) for opcode in pickletools.opcodes)
NOT_OURS_TO_REFUSE = re.compile(rf"Unsupported global|Unsupported class|Unsupported operand ({OPCODES})\b")
"""swa-cli imports no class, so it reads weights beside objects of any; and it reads every opcode of pickle."""
DEEPEST = 6


def unlike_torch(path: Path) -> str:
    """How the state_dict that swa-cli reads differs from all that torch reads; empty if swa-cli refuses the file."""
    try:
        checkpoint = open_checkpoint(path)
        ours = {name: checkpoint.get_tensor(name) for name in checkpoint.tensors}
    except CheckpointError:
        return ""
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(TRUSTED):
            content = torch.load(path, weights_only=True, map_location="cpu")
        states = list(_states(content, DEEPEST))
    except Exception as error:  # noqa: BLE001  # torch raises anything at a damaged file
        reason = re.sub(r"(?s)Weights only load failed.*WeightsUnpickler error: ", "", str(error))
        return "" if NOT_OURS_TO_REFUSE.search(reason) else f"torch refuses it: {' '.join(reason.split())[:200]}"
    return "" if any(_same(ours, checkpoint, state) for state in states) else "torch reads other tensors"


def _states(content: Any, depth: int) -> Iterator[Mapping[Any, Any]]:
    """Every mapping in what torch has read, and the state_dict of every module."""
    if isinstance(content, nn.Module):
        with suppress(Exception):  # of a damaged one
            yield {**dict(content.named_parameters()), **dict(content.named_buffers())}
        with suppress(Exception):
            yield content.state_dict()
    elif isinstance(content, dict):
        yield content
        for value in content.values() if depth else ():
            yield from _states(value, depth - 1)


def _same(ours: Mapping[str, torch.Tensor], checkpoint: Checkpoint, state: Mapping[Any, Any]) -> bool:
    theirs = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if len(theirs) < sum(isinstance(value, torch.Tensor) for value in state.values()) and not checkpoint.left_out:
        return False
    while (
        theirs and theirs.keys() != ours.keys() and all(name.startswith(("module.", "_orig_mod.")) for name in theirs)
    ):
        theirs = {name.partition(".")[2]: value for name, value in theirs.items()}
    return theirs.keys() == ours.keys() and all(
        tuple(value.shape) == tuple(checkpoint.spec(name).shape)
        and value.dtype == ours[name].dtype
        and torch.equal(_bytes(value), _bytes(ours[name]))
        for name, value in theirs.items()
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
