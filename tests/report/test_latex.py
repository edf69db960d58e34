"""The LaTeX of an evaluation."""

import re
from dataclasses import replace

import pytest
from pylatexenc.latex2text import LatexNodes2Text

from support.results import CANDIDATES, FULL, RESULT
from swa_cli.report.grids import candidates_grid, comparisons_grid
from swa_cli.report.latex import to_latex


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, as a parser of LaTeX reads them."""
    bodies = re.findall(r"\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL)
    read = LatexNodes2Text(math_mode="text", strict_latex_spaces=True).latex_to_text
    return [
        [
            [read(cell).strip() for cell in re.split(r"(?<!\\)&", line.removesuffix("\\\\"))]
            for line in body.splitlines()
            if line.endswith("\\\\")
        ]
        for body in bodies
    ]


def test_the_tables_say_what_the_other_reports_say():
    candidates, comparisons, *_ = tables(to_latex(FULL))

    for found, grid in ((candidates, candidates_grid(FULL)), (comparisons, comparisons_grid(FULL))):
        expected = [grid.headings, *(row for section in grid.sections for row in section)]
        assert found == [[" ".join(cell.split()) for cell in row] for row in expected]


def test_a_table_is_ready_for_a_document():
    lines = to_latex(FULL).splitlines()

    start = lines.index(r"\begin{table}")
    assert lines[start : start + 5] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{10,000 examples of the test split}",
        r"\begin{tabular}{lrrrrrrr}",
        r"\toprule",
    ]
    assert r"candidate & step & passes & accuracy \% & NLL & cal. NLL & Brier & ECE \% \\" in lines
    assert (
        r"\textbf{SWA (swa.safetensors)} &  & \textbf{1} & \textbf{91.00} & \textbf{0.2562} & \textbf{0.2551} & "
        r"\textbf{0.1323} & \textbf{0.69} \\"
    ) in lines
    assert r"the last checkpoint & NLL & $-$0.1607 & $-$0.1738 to $-$0.1477 & 0.0002 & better \\" in lines
    assert "% Warning: these are not the members of the average." in lines
    assert lines.count(r"\begin{table}") == lines.count(r"\end{table}") == 4


@pytest.mark.parametrize(
    "name", ["a_b&c%d#e$f{g}h~i^j\\k.pt", '<"x"|`y`>.pt', "epoch-6−7±1×2≤3≥4.pt", "\\input{/etc/passwd}"]
)
def test_a_name_is_text_and_not_a_command(name):
    result = replace(RESULT, candidates=(replace(CANDIDATES[1], name=name), *CANDIDATES))

    row = tables(to_latex(result))[0][1]

    as_parsed = {"^": "\N{MODIFIER LETTER CIRCUMFLEX ACCENT}", "\N{MINUS SIGN}": "-"}  # as the parser writes them
    assert row[0] == name.translate(str.maketrans(as_parsed))
    assert len(row) == 8


def test_a_line_break_in_a_name_ends_no_comment():
    result = replace(RESULT, warnings=("a\n\\input{x}",))

    assert "% Warning: a\\n\\input{x}" in to_latex(result).splitlines()
