"""The tables of an evaluation at the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table

from swa_cli.evaluation import EvaluationResult
from swa_cli.report.broken import on_lines
from swa_cli.report.grids import Grid, candidates_grid, curve_grid, prefixes_grid
from swa_cli.text import visible

_NAME = 20
"""Characters of a name that stay on one line if possible."""
_ANY = 1000


def warning_panels(result: EvaluationResult) -> Iterator[RenderableType]:
    """Yield the warnings, in red, which stand before the numbers."""
    yield from (warning_panel(warning) for warning in result.warnings)


def warning_panel(warning: str) -> RenderableType:
    """Return a warning in a red panel."""
    return Panel(warning, style="bold red", title="warning", title_align="left")


def evaluation_table(result: EvaluationResult) -> RenderableType:
    """Return the table of candidates: the checkpoints in order, then their summaries and averages."""
    return _Fitting(candidates_grid(result))


def further_tables(result: EvaluationResult) -> Iterator[RenderableType]:
    """Yield the tables of averages of the last k and ensembles of the first k, if they were asked for."""
    yield from (_Fitting(grid) for grid in (curve_grid(result), prefixes_grid(result)) if grid)


@dataclass(frozen=True)
class _Fitting:
    """A table that, on a narrow terminal, first breaks its headings, then drops its margins, then folds names."""

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        folded = max(0, max(len(visible(row[0])) for section in self.grid.sections for row in section) - _NAME)
        for broken, margin in ((False, 1), (True, 1), (True, 0)):
            table = _table(self.grid, broken=broken, margin=margin)
            width = Measurement.get(console, options.update_width(_ANY), table).maximum
            if width - folded <= options.max_width or not margin:
                yield console.render_str(self.grid.title, style="table.title")
                yield table
                return


def _table(grid: Grid, *, broken: bool, margin: int) -> Table:
    table = Table(padding=(0, margin))
    for column, name in enumerate(grid.headings):
        if column in grid.words:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(on_lines(name.split(" ")) if broken else name, justify="right", no_wrap=True)
    index = 0
    for section in grid.sections:
        for row in section:
            table.add_row(*row, style="bold" if index == grid.chosen else "")
            index += 1
        table.add_section()
    return table
