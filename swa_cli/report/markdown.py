"""The evaluation as Markdown, for a pull request or an appendix."""

import re
from collections.abc import Iterator

from swa_cli import __version__
from swa_cli.evaluation import EvaluationResult
from swa_cli.report.grids import Grid, candidates_grid, comparisons_grid, curve_grid, prefixes_grid
from swa_cli.report.phrases import data_of
from swa_cli.report.summary_sentences import background
from swa_cli.report.verdict_sentence import final_sentence
from swa_cli.text import counted, visible

_MEANT = re.compile(r"[\\|*`<\[\]~&$]|(?<![^\W_])_|_(?![^\W_])")
"""Characters with a meaning in Markdown; an underscore inside a word has none."""


def to_markdown(result: EvaluationResult) -> str:
    """The last word, tables and sentences, in GitHub's Markdown, ending in a newline.

    What the terminal says of the differences is a table here.
    """
    return "\n\n".join(_blocks(result)) + "\n"


def _blocks(result: EvaluationResult) -> Iterator[str]:
    swa = result.of_kind("swa")[0].name
    members = counted(len(result.of_kind("checkpoint")), "checkpoint")
    yield f"## {_escaped(swa)} beside {members}"
    yield from (f"> **Warning:** {_escaped(warning)}" for warning in result.warnings)
    yield f"**{_escaped(final_sentence(result))}**"
    yield _table(candidates_grid(result))
    yield _table(comparisons_grid(result))
    yield from (_table(grid) for grid in (curve_grid(result), prefixes_grid(result)) if grid)
    yield "\n".join(f"- {_escaped(sentence)}" for sentence in background(result))
    yield f"Made by swa-cli {__version__}: task {_escaped(result.task)}, {_escaped(data_of(result))}."


def _table(grid: Grid) -> str:
    """Render the title and a pipe table."""
    marks = ["---" if index in grid.words else "---:" for index in range(len(grid.headings))]
    lines = [_line([_escaped(text) for text in grid.headings]), _line(marks)]
    rows = [row for section in grid.sections for row in section]
    for index, row in enumerate(rows):
        texts = [_escaped(text) for text in row]
        lines.append(_line([f"**{text}**" if text and index == grid.chosen else text for text in texts]))
    title = grid.title[0].upper() + grid.title[1:]
    return "\n".join([f"{_escaped(title)}:", "", *lines])


def _line(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    return _MEANT.sub(r"\\\g<0>", " ".join(visible(text).split()))
