"""The result as rows of text, which the terminal and Markdown render as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from swa_cli.evaluation import Candidate, Comparison, EvaluationResult, Kind, Score
from swa_cli.report.figures import column, difference, heading, interval, p_text
from swa_cli.report.phrases import data_of, split_of, verdict_in_words

_SUMMARY: tuple[Kind, ...] = (
    "mean",
    "last",
    "best",
    "control",
    "swa-averaged-bn",
    "window",
    "greedy",
    "swa",
    "ensemble",
    "geometric",
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of strings.

    Attributes:
        words: indices of the columns that are not numbers.
        sections: groups of rows, separated by a line.
        chosen: index of the highlighted row, counted over all sections.
    """

    title: str
    headings: tuple[str, ...]
    words: tuple[int, ...] = (0,)
    sections: tuple[tuple[tuple[str, ...], ...], ...]
    chosen: int | None = None


def candidates_grid(result: EvaluationResult) -> Grid:
    """Return one row per candidate: the checkpoints in order, then their summaries and averages; SWA is highlighted."""
    checkpoints = result.of_kind("checkpoint")
    summary = [row for kind in _SUMMARY for row in result.of_kind(kind)]
    candidates = [*checkpoints, *summary]
    rows = _rows(
        [[name_of(row), "" if row.step is None else str(row.step), str(row.forward_passes)] for row in candidates],
        [score for score in result.scores if score.shown],
        candidates,
    )
    return Grid(
        title=data_of(result),
        headings=("candidate", "step", "passes", *(heading(score) for score in result.scores if score.shown)),
        sections=(rows[: len(checkpoints)], rows[len(checkpoints) :]),
        chosen=next((index for index, row in enumerate(candidates) if row.kind == "swa"), None),
    )


def curve_grid(result: EvaluationResult) -> Grid | None:
    """Return the averages of the last k, if they were asked for, with the chosen one highlighted."""
    curve = result.curve
    if curve is None:
        return None
    scores = _deciding(result)
    chosen = [point.members == curve.chosen for point in curve.points]
    names = [[f"{point.members}{', chosen' * here}"] for point, here in zip(curve.points, chosen, strict=True)]
    return Grid(
        title=f"the last k combined, on {split_of(curve.split)}",
        headings=("k", *(heading(score) for score in scores)),
        sections=(_rows(names, scores, curve.points),),
        chosen=chosen.index(True),
    )


def prefixes_grid(result: EvaluationResult) -> Grid | None:
    """Return the ensembles of the first k for k = 1, 2, 4, …, K, if they were asked for."""
    if not result.prefixes:
        return None
    scores = _deciding(result)
    last = len(result.prefixes)
    shown = [row for k, row in enumerate(result.prefixes, start=1) if k == last or k.bit_count() == 1]
    return Grid(
        title=f"ensembles of the first k on {split_of(result.split)}",
        headings=("k", *(heading(score) for score in scores)),
        sections=(_rows([[str(row.members)] for row in shown], scores, shown),),
    )


def comparisons_grid(result: EvaluationResult) -> Grid:
    """Return the comparisons, SWA minus each of the others."""
    return Grid(
        title="SWA minus each of the others",
        headings=("other", "metric", "difference", "95 % CI", "p", "verdict"),
        words=(0, 1, 5),
        sections=(tuple(_comparison(result, comparison) for comparison in result.comparisons),),
    )


def name_of(candidate: Candidate) -> str:
    """Return the name of a candidate's row."""
    match candidate.kind:
        case "swa":
            return f"SWA ({candidate.name})"
        case "ensemble":
            return f"ensemble of {candidate.members}"
        case "geometric":
            return f"geometric ensemble of {candidate.members}"
        case _:
            return candidate.name


def _comparison(result: EvaluationResult, comparison: Comparison) -> tuple[str, ...]:
    score = result.score(comparison.metric)
    same = comparison.is_nothing
    return (
        comparison.other,
        score.label,
        "0" if same else difference(score, comparison),
        "0" if same else interval(score, comparison),
        f"{p_text(comparison.p_adjusted)}{' (Holm)' if comparison.corrected_for > 1 else ''}",
        verdict_in_words(result, comparison),
    )


def _deciding(result: EvaluationResult) -> list[Score]:
    names = (result.decision.primary, result.decision.secondary)
    return [score for score in result.scores if score.name in names]


def _rows(
    starts: Sequence[Sequence[str]], scores: Sequence[Score], candidates: Sequence[Candidate]
) -> tuple[tuple[str, ...], ...]:
    columns = [column(score, [row.scores.get(score.name) for row in candidates]) for score in scores]
    return tuple((*start, *texts) for start, *texts in zip(starts, *columns, strict=True))
