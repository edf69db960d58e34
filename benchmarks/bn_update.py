"""Speed of ``recalibrate``, beside ``torch.optim.swa_utils.update_bn`` and fvcore's ``update_bn_stats``.

    python benchmarks/bn_update.py --batches 20 --repeats 5

All run in this process on a ResNet-18 with random weights and the same batches in memory, in turns, without the start
of the interpreter and imports. Before anything is timed, the statistics of all are compared: their estimators differ by
less than TOLERANCE. fvcore is measured if it is installed.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
import torchvision
from common import Parser, alternate, print_setup, ratios, spread, start, table
from torch import nn
from torch.optim.swa_utils import update_bn

from swa_cli.batchnorm import recalibrate
from swa_cli.user.forward import Forward

OURS, TORCH, FVCORE = "recalibrate, population", "update_bn", "update_bn_stats of fvcore"
TOLERANCE = 0.1
"""Of a mean in standard deviations, of a variance relative to itself: by definition update_bn leaves out what differs
between the means of batches, which is 3 % of the variance for 32 images without structure."""


def main() -> None:
    """Measure."""
    parser = Parser(description=__doc__)
    parser.add_argument("--batches", type=int, default=20, help="of 32 images (default: 20)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default: 5)")
    options = parser.parse_args()
    print_setup("torch", "torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    n, size = options.batches * 32, options.image_size
    images = torch.randn(n, 3, size, size) * (0.5 + torch.rand(n, 1, 1, 1)) + torch.randn(n, 3, 1, 1)
    batches = [(part, torch.zeros(32)) for part in images.split(32)]
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forward = Forward(device=torch.device("cpu"))
    calls: dict[str, Callable[[], object]] = {
        OURS: lambda: recalibrate(model, batches, estimator="population", forward=forward),
        TORCH: lambda: update_bn(batches, model),
    }
    if find_spec("fvcore"):
        update_bn_stats = import_module("fvcore.nn.precise_bn").update_bn_stats
        calls[FVCORE] = lambda: update_bn_stats(model, (inputs for inputs, _ in batches), num_iters=len(batches))

    def seconds(call: Callable[[], object]) -> float:
        model.load_state_dict(initial)
        model.train()
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    first: list[tuple[torch.Tensor, torch.Tensor]] = []

    def check(program: str, _: float) -> None:
        found = [(layer.running_mean, layer.running_var) for layer in layers]
        pairs = [
            (mean.clone(), variance.clone()) for mean, variance in found if mean is not None and variance is not None
        ]
        first.extend(pairs if not first else [])
        for (mean, variance), (expected, scale) in zip(pairs, first, strict=True):
            off = torch.cat([(mean - expected) / scale.sqrt(), variance / scale - 1]).abs().max()
            assert off <= TOLERANCE, f"{program}: its statistics are {off:.2g} from those of {OURS}"

    runs = alternate({name: partial(seconds, call) for name, call in calls.items()}, options.repeats, check)
    table(
        f"resnet18, {options.batches} batches of 32 images of {size} × {size}, {torch.get_num_threads()} threads",
        ["program", "wall, median", "min-max", f"× {TORCH}", "min-max"],
        [[name, *spread(one, "{:.3f}", " s"), *spread(ratios(one, runs[TORCH]))] for name, one in runs.items()],
    )


if __name__ == "__main__":
    start(main)
