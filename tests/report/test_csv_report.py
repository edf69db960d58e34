"""The CSV of an evaluation."""

import csv
import io
import math
from dataclasses import replace

from support.results import CANDIDATES, FULL, SCORES, candidate
from swa_cli.report.csv_report import to_csv


def test_csv_gives_every_score_back_in_full():
    third = candidate('a "b", c.pt', "checkpoint", 1 / 3, math.nan, step=3)

    header, *rows = csv.reader(io.StringIO(to_csv(replace(FULL, candidates=(third, *CANDIDATES)))))

    assert header == [
        *("name", "kind", "step", "members", "forward_passes", "chosen_on"),
        *(score.name for score in SCORES),
    ]
    assert rows[0] == ['a "b", c.pt', "checkpoint", "3", "", "1", "", repr(1 / 3), "nan", "", "", "", "", "", ""]
    assert len(rows) == 1 + len(CANDIDATES)
    swa = dict(zip(header, rows[1], strict=True))
    assert {name: float(swa[name]) for name in CANDIDATES[0].scores} == CANDIDATES[0].scores
