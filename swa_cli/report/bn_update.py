"""The second step in words and as a table."""

from collections.abc import Iterator

from rich.table import Table

from swa_cli.batchnorm import LayerStatistics, RecalibrationResult
from swa_cli.report.units import counted

_SHOWN = 10


def recalibration_report(result: RecalibrationResult) -> Iterator[str]:
    """Lines that say what was recomputed from how much, and how far it moved."""
    seen = f"{counted(result.n_samples, 'sample')} in {counted(result.n_batches, 'batch')}"
    how = "" if result.estimator == "population" else f", estimator {result.estimator}"
    yield f"Recomputed the statistics of {counted(len(result.layers), 'BatchNorm layer')} from {seen}{how}."
    if result.layers:
        moved = max(result.layers, key=lambda layer: layer.mean_shift)
        scaled = max(result.layers, key=lambda layer: abs(layer.std_shift))
        yield (
            f"The furthest that a mean moved is {moved.mean_shift:.3g} standard deviations ({moved.name}); the largest "
            f"change of a standard deviation is {100 * scaled.std_shift:+.3g} % ({scaled.name})."
        )


def layers_table(result: RecalibrationResult) -> Table:
    """The layers that moved most, those first; deviations are the old ones, √(running_var + eps).

    Standard errors are in percent, of the new deviation and of the new variance.
    """
    ranked = sorted(result.layers, key=_moved, reverse=True)
    title = "How far the statistics moved, in old standard deviations"
    if len(ranked) > _SHOWN:
        title += f"; the first {_SHOWN} of {len(ranked)} layers, --json has all"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", overflow="fold")
    for name in ("elements", "mean, rms", "mean, max", "deviation, max", "s.e. of mean", "s.e. of variance"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in ranked[:_SHOWN]:
        table.add_row(
            layer.name,
            f"{layer.n_elements:,}",
            f"{layer.mean_shift_rms:.3f}",
            f"{layer.mean_shift:.3f}",
            f"{layer.std_shift:+.3f}",
            _percent(layer.mean_error),
            _percent(layer.variance_error),
        )
    return table


def _percent(error: float | None) -> str:
    return "" if error is None else f"{100 * error:.2f} %"


def _moved(layer: LayerStatistics) -> float:
    return max(layer.mean_shift, abs(layer.std_shift))
