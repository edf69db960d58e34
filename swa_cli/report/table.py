"""The evaluation as a table, and what it says in words."""

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from swa_cli.evaluation import BnRecord, Candidate, Comparison, EvaluationResult
from swa_cli.report.units import counted

_SMALLEST_ERROR = 0.1
"""In percent: one below it is not shown as 0.0."""
_SPLITS = {"test": "the test split", "val": "the validation split", "train": "the training split"}


def warning_panels(result: EvaluationResult) -> Iterator[RenderableType]:
    """What the reader must know before the numbers, in red."""
    yield from (warning_panel(warning) for warning in result.warnings)


def warning_panel(warning: str) -> RenderableType:
    """A warning, in red."""
    return Panel(Text(warning), style="bold red", title="warning", title_align="left")


def sentences(result: EvaluationResult) -> Iterator[str]:
    """What SWA gained or lost against each of the others, with its uncertainty, and what it is, in plain words."""
    by_other: dict[str, list[Comparison]] = {}
    for comparison in result.comparisons:
        by_other.setdefault(comparison.other, []).append(comparison)
    for other, comparisons in by_other.items():
        yield f"SWA against {other}: {'; '.join(_in_words(comparison) for comparison in comparisons)}."
    yield (
        f"Intervals: 95 %, paired over the {result.n_examples:,} examples of {_SPLITS[result.split]}; another training "
        "run would differ by more than they show."
    )
    if result.bn_update:
        yield f"BatchNorm statistics of {result.bn_update.file}: {', '.join(_origin(result.bn_update))}."


def percent(fraction: float, digits: int = 2) -> str:
    """``fraction`` in percent; rounding never shows 0 or 100 for what is not.

    >>> percent(0.99999), percent(1.0), percent(0.00001)
    ('99.99', '100.00', '0.01')
    """
    text = f"{100 * fraction:.{digits}f}"
    smallest = 10.0**-digits
    if fraction < 1 and float(text) >= 100:  # noqa: PLR2004
        return f"{100 - smallest:.{digits}f}"
    if fraction > 0 and float(text) == 0:
        return f"{smallest:.{digits}f}"
    return text


def evaluation_table(result: EvaluationResult) -> Table:
    """One row a candidate: the checkpoints in order, then what sums them up."""
    table = Table(title=f"{result.n_examples:,} examples of {_SPLITS[result.split]}", title_justify="left")
    table.add_column("candidate", overflow="fold")
    for name in ("step", "passes", "accuracy %", "NLL", "Brier", "ECE %"):
        table.add_column(name, justify="right", no_wrap=True)
    checkpoints = result.of_kind("checkpoint")
    summary = [row for kind in ("mean", "last", "swa", "ensemble") for row in result.of_kind(kind)]
    for row in checkpoints:
        table.add_row(*_cells(row))
    table.add_section()
    for row in summary:
        table.add_row(*_cells(row), style="bold" if row.kind == "swa" else "")
    return table


def _cells(row: Candidate) -> list[str]:
    name = f"ensemble of {row.members}" if row.kind == "ensemble" else row.name
    if row.kind == "swa":
        name = f"SWA ({row.name})"
    return [
        name,
        "" if row.step is None else str(row.step),
        str(row.forward_passes),
        percent(row.scores.accuracy),
        f"{row.scores.nll:.4f}",
        f"{row.scores.brier:.4f}",
        percent(row.scores.ece),
    ]


def _origin(record: BnRecord) -> Iterator[str]:
    """By which estimator, from what, how exactly, and for which layers not."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in record.data_args.items())
    seen = f"{counted(record.n_samples, 'sample')} in {counted(record.n_batches, 'batch')}"
    yield f"{record.estimator} estimator"
    yield f"{seen} of {record.data}{f' ({arguments})' if arguments else ''}"
    if record.eval_transforms:
        yield "transformed as for evaluation"
    if record.batch_size is not None:
        yield f"batch size {record.batch_size:,}"
    if record.amp is not None:
        yield record.amp
    if record.seed is not None:
        yield f"seed {record.seed}"
    if record.standard_error is not None:
        error = 100 * record.standard_error
        size = f"up to {error:.1f} %" if error >= _SMALLEST_ERROR else f"below {_SMALLEST_ERROR} %"
        yield f"standard errors {size}"
    for reason, count in Counter(record.kept.values()).items():
        yield f"{counted(count, 'layer')} left alone ({reason})"


def _in_words(comparison: Comparison) -> str:
    scale, digits, unit = (100, 2, " points") if comparison.metric == "accuracy" else (1, 4, "")
    name = "accuracy" if comparison.metric == "accuracy" else "NLL"
    low, high = (f"{scale * bound:+.{digits}f}" for bound in (comparison.ci_low, comparison.ci_high))
    words = {"better": "better", "worse": "worse", "inconclusive": "too close to tell"}
    if comparison.ci_low == comparison.ci_high == 0:
        return f"{name} the same on every example"
    return f"{name} {scale * comparison.difference:+.{digits}f}{unit} ({low} to {high}): {words[comparison.verdict]}"
