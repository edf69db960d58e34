"""The report of ``swa inspect``: a table in the order of averaging."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.table import Table

from swa_cli.averaging import words_of
from swa_cli.checkpoints import Description, Inspection, SeriesMember, describe, known_metrics, short_names
from swa_cli.errors import SwaError, option, shortened
from swa_cli.text import counted, in_bytes

_MOST_METRICS = 3


def inspection_report(inspection: Inspection) -> RenderableType:
    """Render every file with its step and metrics, what the files have in common, and what the flags select."""
    survey = inspection.survey
    files = survey.order.members
    shown = [*files, *(copy for copy, _ in survey.copies), *survey.own]
    paths = [file.path for file in shown] + [path for path, _ in survey.unreadable]
    names = dict(zip(paths, short_names(paths), strict=True))
    metrics = known_metrics(files)
    parts: list[RenderableType] = [_table(inspection, names, metrics[:_MOST_METRICS])]
    if len(metrics) > _MOST_METRICS:
        parts.append(f"Metrics too, see {option('json')}: {shortened(metrics[_MOST_METRICS:])}")
    parts += _descriptions(files or survey.own, names)
    asked = inspection.selection.in_words()
    if any(not pick.error or pick.flags != asked for pick in inspection.picks):
        parts.append(_picks(inspection, names))
    return Group(*parts)


def _table(inspection: Inspection, names: Mapping[PurePath, str], metrics: Sequence[str]) -> Table:
    survey = inspection.survey
    files = survey.order.members
    title = f"{counted(len(files), 'checkpoint')}, ordered by {survey.order.by}" if len(files) > 1 else None
    table = Table(title=title, title_justify="left")
    table.add_column("file", overflow="fold")
    for name in ("step", *metrics):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    notes = _notes(inspection, names)
    if notes:
        table.add_column("note", overflow="fold")
    asked = inspection.selection.in_words()
    taken = {path for pick in inspection.picks if pick.flags == asked for path in pick.paths}
    for number, file in enumerate([*files, *(copy for copy, _ in survey.copies), *survey.own]):
        step = "" if file.step is None else str(file.step)
        values = [f"{file.metrics[name]:g}" if name in file.metrics else "" for name in metrics]
        note = [notes.get(file.path, "")] if notes else []
        left_out = number >= len(files) or (bool(asked) and file.path not in taken)
        cells = [names[file.path], step, *values, in_bytes(file.checkpoint.file_bytes), *note]
        table.add_row(*cells, style="dim" if left_out else "")
    for path, _ in survey.unreadable:
        table.add_row(names[path], "", *("" for _ in metrics), "", notes[path], style="red")
    return table


def _notes(inspection: Inspection, names: Mapping[PurePath, str]) -> dict[PurePath, str]:
    survey, asked = inspection.survey, inspection.selection.in_words()
    picked = {path: "taken" for pick in inspection.picks if pick.flags == asked for path in pick.paths}
    steps = _steps(inspection)
    copies = {
        copy.path: f"same as step {steps[other]}" if other in steps else f"same as {names[other]}"
        for copy, other in survey.copies
    }
    own = {file.path: "written by swa-cli" for file in survey.own}
    unreadable = {path: _in_a_cell(error).removeprefix(f"{path}: ") for path, error in survey.unreadable}
    return {**picked, **copies, **own, **unreadable}


def _descriptions(files: Sequence[SeriesMember], names: Mapping[PurePath, str]) -> Iterator[str]:
    groups: dict[Description, list[str]] = {}
    for file in files:
        groups.setdefault(describe(file.checkpoint), []).append(names[file.path])
    for description, members in groups.items():
        which = "" if len(files) == 1 else "All: " if len(groups) == 1 else f"{shortened(members)}: "
        yield f"{which}{'; '.join(_facts(description))}."


def _facts(description: Description) -> Iterator[str]:
    yield description.container
    if description.container != "safetensors":
        yield f"weights under {description.key}" if description.key else "weights at the top"
    if description.stripped:
        yield f"{shortened(description.stripped)} stripped"
    dtypes = ", ".join(f"{name} ({count:,})" for name, count in description.dtypes)
    yield (
        f"{counted(description.tensors, 'tensor')}, {counted(description.parameters, 'parameter')}, {dtypes}, "
        f"{in_bytes(description.weight_bytes)}"
    )
    if description.ema:
        yield f"EMA under {shortened(description.ema)}"
    if description.other_weights:
        yield f"other weights under {shortened(description.other_weights)}"
    if description.average_of is not None:
        noun = words_of(description.combine).noun
        yield f"written by swa-cli, the {noun} of {counted(description.average_of, 'checkpoint')}"
    if description.optimizer_is_empty is not None:
        yield "an optimizer without state" if description.optimizer_is_empty else "an optimizer with its state"


def _picks(inspection: Inspection, names: Mapping[PurePath, str]) -> Table:
    asked = inspection.selection.in_words()
    title = "What the flags pick" if asked else "What each flag would pick, for example"
    table = Table(title=title, title_justify="left")
    table.add_column("flags", overflow="fold")
    table.add_column("files", justify="right")
    steps = _steps(inspection)
    table.add_column("steps" if steps else "which", overflow="fold")
    for pick in inspection.picks:
        which = _in_a_cell(pick.error) if pick.error else shortened([(steps or names)[path] for path in pick.paths])
        table.add_row(pick.flags, "" if pick.error else str(len(pick.paths)), which)
    return table


def _steps(inspection: Inspection) -> dict[PurePath, str]:
    """Return the steps as strings, or nothing if two files have the same step."""
    files = inspection.survey.order.members
    steps = {file.path: str(file.step) for file in files if file.step is not None}
    return steps if len({*steps.values()}) == len(files) else {}


def _in_a_cell(error: SwaError) -> str:
    """Join the lines of a message."""
    return " ".join(line.strip() for line in error.args)
