"""The second step in words."""

import math
from collections.abc import Iterator

from swa_cli.batchnorm import RecalibrationResult
from swa_cli.report.units import counted


def recalibration_report(result: RecalibrationResult) -> Iterator[str]:
    """Lines that say what was recomputed from how much, and how far it moved."""
    seen = f"{counted(result.n_samples, 'sample')} in {counted(result.n_batches, 'batch')}"
    yield f"Recomputed the statistics of {counted(len(result.layers), 'BatchNorm layer')} from {seen}."
    if result.layers:
        moved = max(result.layers, key=lambda layer: layer.mean_shift)
        scaled = max(result.layers, key=lambda layer: _distance(layer.var_ratio))
        yield (
            f"The furthest that a mean moved is {moved.mean_shift:.3g} standard deviations ({moved.name}); the largest "
            f"change of a variance is by a factor of {scaled.var_ratio:.3g} ({scaled.name})."
        )


def _distance(ratio: float) -> float:
    """How far a ratio is from 1, up or down; one that is zero or not finite is the furthest."""
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf
