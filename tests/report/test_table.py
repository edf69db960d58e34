"""The table of the terminal."""

import io
from dataclasses import replace

import pytest

from support.results import CANDIDATES, FULL, RESULT, RMSE, candidate
from swa_cli.cli.terminal import VisibleConsole
from swa_cli.evaluation.result import (
    Candidate,
)
from swa_cli.report.table import evaluation_table, further_tables, warning_panels


def drawn(*what, width=120):
    stream = io.StringIO()
    console = VisibleConsole(width=width, file=stream, color_system=None, _environ={})
    for one in what:
        console.print(one)
    return stream.getvalue()


def test_the_table_at_a_wide_terminal():
    lines = drawn(evaluation_table(RESULT)).splitlines()

    assert [line.split("│")[1].strip() for line in lines if line.startswith("│")] == [
        "epoch-6.pt",
        "epoch-8.pt",
        "epoch-17.pt",
        "mean over checkpoints",
        "last (epoch-17.pt)",
        "best by validation (epoch-8.pt)",
        "last, BatchNorm recomputed",
        "SWA (swa.safetensors)",
        "ensemble of 12",
        "geometric ensemble of 12",
    ]
    assert lines[0] == "10,000 examples of the test split"
    assert lines[2] == (
        "┃ candidate                       ┃ step ┃ passes ┃ accuracy % ┃    NLL ┃ cal. NLL ┃  Brier ┃ ECE % ┃"
    )
    assert (
        "│ last, BatchNorm recomputed      │   17 │      1 │      90.54 │ 0.2680 │      n/a │ 0.1386 │  0.81 │" in lines
    )
    assert (
        "│ geometric ensemble of 12        │      │     12 │      90.71 │ 0.2710 │          │        │       │" in lines
    )


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_still_has_every_number_whole(width):
    name = "checkpoint-500/pytorch_model-of-a-long-name.safetensors"
    result = replace(RESULT, candidates=(replace(CANDIDATES[1], name=name), *CANDIDATES))

    lines = drawn(evaluation_table(result), width=width).splitlines()

    assert max(map(len, lines)) <= width
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert "".join(row[0] for row in cells[: next(i for i, row in enumerate(cells) if row[0] == "epoch-6.pt")]) == name
    assert ["SWA (swa.safetensors)", "", "1", "91.00", "0.2562", "0.2551", "0.1323", "0.69"] in cells


def test_markup_in_a_name_is_text():
    row = replace(CANDIDATES[1], name="[bold]a[/bold].pt")

    assert "[bold]a[/bold].pt" in drawn(evaluation_table(replace(RESULT, candidates=(row, *CANDIDATES))))


def test_small_tables_show_the_curve_and_the_powers_of_two():
    text = drawn(*further_tables(FULL))

    ks = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert ks == ["1", "2", "8, chosen", "12", "1", "2", "4", "8", "12"]
    assert "the last k combined, on the validation split" in text
    assert "│ 4  │      87.33 │ 0.3400 │" in text
    assert drawn(*further_tables(RESULT)) == ""


def test_a_warning_stands_in_a_panel():
    assert "these are not the members of the average." in drawn(*warning_panels(FULL), width=80)


def test_scores_that_are_small_large_or_nearly_perfect_are_not_rounded_away():
    rows = (
        candidate("swa", "swa", 0.99999, 0.0001234),
        candidate("a", "checkpoint", 1.0, 0.0),
        candidate("b", "checkpoint", 0.00001, 0.000000001),
    )
    large = (
        Candidate(name="a", kind="checkpoint", scores={"rmse": 12345.678}),
        Candidate(name="b", kind="swa", scores={"rmse": 9}),
    )

    text = drawn(evaluation_table(replace(RESULT, candidates=rows)))

    assert [text.count(figure) for figure in ("100.00", " 99.99", " 0.01")] == [1, 1, 1]
    assert [text.count(figure) for figure in ("0.0001234", "0.0000000", "0.0000001")] == [1, 1, 1]
    text = drawn(evaluation_table(replace(RESULT, candidates=large, scores=(RMSE,))))
    assert [figure in text for figure in (" 12345.7 ", " 9.0 ")] == [True, True]
