"""The candidates as CSV."""

import csv
from io import StringIO

from swa_cli.evaluation import EvaluationResult
from swa_cli.text import visible

_FORMULA = ("=", "+", "-", "@")
_ABOUT = ("name", "kind", "step", "members", "forward_passes", "chosen_on")


def to_csv(result: EvaluationResult) -> str:
    """Return a header and one row per candidate: scores in full, as fractions, blank if missing, ``nan`` if undefined.

    Lines end in a newline alone. Invisible characters in names are escaped, and a name that a spreadsheet would
    evaluate gets an apostrophe in front.
    """
    stream = StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    names = [score.name for score in result.scores]
    writer.writerow([*_ABOUT, *map(_cell, names)])
    for row in result.candidates:
        scores = [row.scores[name] + 0.0 if name in row.scores else None for name in names]  # + 0.0: no minus at a zero
        about = [_cell(getattr(row, field)) for field in _ABOUT]
        writer.writerow([*about, *scores])
    return stream.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value, whole=True)
    return f"'{text}" if text.startswith(_FORMULA) else text
