"""The candidates as CSV."""

import csv
from io import StringIO

from swa_cli.evaluation.result import EvaluationResult

_ABOUT = ("name", "kind", "step", "members", "forward_passes", "chosen_on")


def to_csv(result: EvaluationResult) -> str:
    """A header, then a row a candidate; scores in full, fractions as such, blank where missing, ``nan`` if undefined.

    Lines end in a newline alone; what would steer a terminal stays as it is in names.
    """
    stream = StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    names = [score.name for score in result.scores]
    writer.writerow([*_ABOUT, *names])
    for row in result.candidates:
        scores = [row.scores[name] + 0.0 if name in row.scores else None for name in names]  # + 0.0: no minus at a zero
        writer.writerow([*(getattr(row, about) for about in _ABOUT), *scores])
    return stream.getvalue()
