"""Reports of the BatchNorm step: sentences and a table."""

import math
from collections.abc import Iterator

from rich.table import Table

from swa_cli.batchnorm import LayerStatistics, RecalibrationResult
from swa_cli.errors import option
from swa_cli.report.broken import on_lines
from swa_cli.text import counted, seen_of, signed

_SHOWN = 10
_NAME = 20
"""Characters of a layer's name that fit on one line of the narrowest terminal."""
_NOTHING = 1e-6


def recalibration_report(result: RecalibrationResult) -> Iterator[str]:
    """Yield lines that say what was recomputed from how much data, and how far it moved."""
    seen = seen_of(result.n_samples, result.n_batches)
    how = "" if result.estimator == "population" else f", estimator {result.estimator}"
    yield f"Recomputed the statistics of {counted(len(result.layers), 'BatchNorm layer')} from {seen}{how}."
    layers = [layer for layer in result.layers if math.isfinite(_moved(layer))]
    if layers and max(_moved(layer) for layer in layers) < _NOTHING:
        yield "No statistics changed."
    elif layers:
        moved = max(layers, key=lambda layer: layer.mean_shift)
        scaled = max(layers, key=lambda layer: abs(layer.std_shift))
        yield (
            f"The furthest that a mean moved is {moved.mean_shift:.3g} standard deviations ({moved.name}); the largest "
            f"change of a standard deviation is {100 * scaled.std_shift + 0.0:+.3g} % ({scaled.name})."
        )


def layers_table(result: RecalibrationResult) -> Table:
    """Return a table of the layers whose statistics changed most, in units of the old √(running_var + eps).

    Standard errors are in percent of the new standard deviation and of the new variance.
    """
    ranked = sorted(result.layers, key=_moved, reverse=True)
    title = "The furthest moves, in old standard deviations"
    if len(ranked) > _SHOWN:
        title += f"; the first {_SHOWN} of {len(ranked)} layers, {option('json')} has all"
    table = Table(title=title, title_justify="left")
    longest = max((len(layer.name) for layer in ranked[:_SHOWN]), default=0)
    table.add_column("layer", overflow="fold", min_width=min(longest, _NAME))
    for lines in (("elements",), ("mean",), ("dev.",), ("s.e.", "mean"), ("s.e.", "variance")):
        table.add_column(on_lines(lines), justify="right", no_wrap=True)
    for layer in ranked[:_SHOWN]:
        table.add_row(
            layer.name,
            f"{layer.n_elements:,}",
            f"{layer.mean_shift:.3f}",
            signed(layer.std_shift, 3),
            _percent(layer.mean_error),
            _percent(layer.variance_error),
        )
    return table


def _percent(error: float | None) -> str:
    return "" if error is None else f"{100 * error:.2f} %"


def _moved(layer: LayerStatistics) -> float:
    """Return the largest change in old standard deviations; infinite if these were not finite."""
    moved = max(layer.mean_shift, abs(layer.std_shift))
    return moved if math.isfinite(layer.mean_shift + layer.std_shift) else math.inf
