"""Objects of many kinds for a pickle."""

import argparse
import collections
import dataclasses
from pathlib import Path

import numpy as np
import torch


@dataclasses.dataclass
class Config:
    """Something of the user's that a checkpoint holds."""

    lr: float
    names: list[str]


def things() -> dict[str, object]:
    shared = ["shared", 1.5, None, True]
    itself: list[object] = []
    itself.append(itself)
    return {
        "plain": [
            0,
            -1,
            255,
            256,
            65_536,
            -(2**31),
            2**70,
            1.25,
            float("inf"),
            "é\ud800",
            b"\x00\xff",
            bytearray(2),
        ],
        "containers": {(1, (2, 3)): {"a": {4, 5}, "b": frozenset({6})}, "empty": [(), [], {}, set()]},
        "shared": [shared, shared],
        "itself": itself,
        "objects": [
            argparse.Namespace(lr=0.1, names=shared),
            Config(lr=0.1, names=["a"]),
            collections.OrderedDict(a=1),
            collections.defaultdict(list, a=[1]),
            collections.deque([1, 2], maxlen=3),
            np.float64(1.5),
            np.arange(3),
            Path("a/b"),
            torch.Size([1, 2]),
            torch.float16,
            slice(1, 2),
            range(3),
        ],
        "many": [{"key": f"value {number}", "other": shared} for number in range(300)],
    }
