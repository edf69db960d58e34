"""The evaluation as LaTeX tables, for a paper."""

import re
from collections.abc import Iterator

from swa_cli import __version__
from swa_cli.evaluation import EvaluationResult
from swa_cli.report.grids import Grid, candidates_grid, comparisons_grid, curve_grid, prefixes_grid
from swa_cli.report.phrases import data_of
from swa_cli.report.verdict_sentence import final_sentence
from swa_cli.text import visible

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "`": r"\textasciigrave{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    **{char: f"\\{char}" for char in "{}$&#_%"},
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)) + r"|(?<![\w.])-(?=\d)")
"""What LaTeX would take for its own or has no letter for, and a minus before a number."""


def to_latex(result: EvaluationResult) -> str:
    r"""Tables with the rules of booktabs, each in a ``table`` with its caption, to be ``\input`` in a document.

    The verdict and the warnings are comments, since a paper says them in its own words.
    """
    return "\n".join(_lines(result)) + "\n"


def _lines(result: EvaluationResult) -> Iterator[str]:
    yield rf"% Made by swa-cli {__version__}: {visible(f'{result.task}, {data_of(result)}')}."
    yield r"% Needs \usepackage{booktabs}."
    yield from (f"% Warning: {visible(warning)}" for warning in result.warnings)
    yield f"% {visible(final_sentence(result))}"
    optional = (curve_grid(result), prefixes_grid(result))
    for grid in (candidates_grid(result), comparisons_grid(result), *filter(None, optional)):
        yield from _table(grid)


def _table(grid: Grid) -> Iterator[str]:
    columns = "".join("l" if index in grid.words else "r" for index in range(len(grid.headings)))
    yield from ("", r"\begin{table}", r"\centering")
    yield rf"\caption{{{_escaped(grid.title[0].upper() + grid.title[1:])}}}"
    yield from (rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _row(grid.headings))
    index = 0
    for section in filter(None, grid.sections):
        yield r"\midrule"
        for texts in section:
            yield _row(texts, bold=index == grid.chosen)
            index += 1
    yield from (r"\bottomrule", r"\end{tabular}", r"\end{table}")


def _row(texts: tuple[str, ...], *, bold: bool = False) -> str:
    cells = [rf"\textbf{{{_escaped(text)}}}" if bold and text else _escaped(text) for text in texts]
    return f"{' & '.join(cells)} \\\\"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], "$-$"), visible(text))
