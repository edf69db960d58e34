"""The Markdown of an evaluation."""

from dataclasses import replace

from support.results import CANDIDATES, FULL, RESULT, SAME, judged
from swa_cli import __version__
from swa_cli.report.markdown import to_markdown
from swa_cli.report.verdict_sentence import final_sentence


def test_markdown_has_tables_sentences_and_the_last_word():
    lines = to_markdown(FULL).splitlines()

    assert lines[:5] == [
        "## swa.safetensors beside 3 checkpoints",
        "",
        "> **Warning:** these are not the members of the average.",
        "",
        f"**{final_sentence(FULL)}**",
    ]
    assert lines[-1] == f"Made by swa-cli {__version__}: task classification, 10,000 examples of the test split."
    for expected in (
        "| candidate | step | passes | accuracy % | NLL | cal. NLL | Brier | ECE % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| epoch-6.pt | 6 | 1 | 86.63 | 0.3559 | 0.3551 | 0.1867 | 1.00 |",
        "| **SWA (swa.safetensors)** |  | **1** | **91.00** | **0.2562** | **0.2551** | **0.1323** | **0.69** |",
        "| other | metric | difference | 95 % CI | p | verdict |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        "| the last checkpoint | NLL | -0.1607 | -0.1738 to -0.1477 | 0.0002 | better |",
        "| the ensemble | NLL | -0.0288 | -0.0326 to -0.0250 | 0.0004 (Holm) | better |",
        "| **8, chosen** | **91.10** | **0.2555** |",
        "- Two checkpoints hold the same weights.",
    ):
        assert expected in lines
    assert "| the last checkpoint | accuracy | 0 | 0 | 1 | inconclusive |" in to_markdown(
        judged(replace(SAME, p_adjusted=1.0))
    )


def test_markdown_tables_keep_their_columns_whatever_the_names():
    name = "a|b_c_*_d_<i>`\\|\n.pt"
    lines = to_markdown(replace(RESULT, candidates=(replace(CANDIDATES[1], name=name), *CANDIDATES))).splitlines()

    (row,) = [line for line in lines if line.startswith("| a")]

    assert row.split(" | ")[0] == "| a\\|b_c\\_\\*\\_d\\_\\<i>\\`\\\\\\|\\\\n.pt"
    assert len(row.split(" | ")) == 8
