"""Records on disk: what every candidate did with every unit, from which all tables and comparisons follow anew."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from swa_cli import __version__
from swa_cli.config.pydantic_errors import mismatch
from swa_cli.config.schema import TargetConfig
from swa_cli.errors import SourceError, SwaError, UsageError, option
from swa_cli.evaluation import Context, Row, SplitRecords
from swa_cli.pipeline.build_user_objects import task_of
from swa_cli.pipeline.evaluation.records_contents import VERSION, Column, Contents
from swa_cli.pipeline.evaluation.records_npz import read_npz, write_npz
from swa_cli.pipeline.evaluation.records_parquet import pyarrow, read_parquet, write_parquet
from swa_cli.system.atomic_file import publish
from swa_cli.tasks import Records, Task


def check_form(path: Path | None) -> None:
    """Check that the suffix names a form that can be written here.

    Raises:
        UsageError: it does not, or pyarrow is missing.
    """
    if path is None:
        return
    if path.suffix not in {".parquet", ".npz"}:
        msg = f"{option('save_records', path)}: expected a name in .parquet or .npz."
        raise UsageError(msg)
    if path.suffix == ".parquet":
        pyarrow(path)


def save_records(path: Path, observed: SplitRecords, context: Context, task: TargetConfig | None) -> None:
    """Publish everything that `load_records` needs.

    A ``.parquet`` file has a row for each candidate and unit: ``candidate``, ``kind``, ``unit``, ``group`` and the
    columns of its records, sums over the unit's elements; a ``.npz`` file an array for each candidate and column,
    ``0/nll``. The rest is JSON under the key ``swa_cli``.

    Args:
        task: as it was asked for; None if it was seen from the data.

    Raises:
        OutputError: the file cannot be written.
    """
    named = TargetConfig(class_path=observed.task.name)  # also where auto was asked for
    about = {
        "version": VERSION,
        "tool_version": __version__,
        "split": observed.split,
        "task": asdict(task if task and (task.init_args or "." in task.class_path) else named),
        "warnings": list(observed.warnings),
        "rows": [_about(row) for row in observed.rows],
        "context": asdict(context),
    }
    columns = {
        (place, name): values for place, row in enumerate(observed.rows) for name, values in row.records.columns.items()
    }
    contents = Contents(about, columns, observed.groups)
    with publish(path, overwrite=True) as stream:
        (write_parquet if path.suffix == ".parquet" else write_npz)(stream, contents)


def load_records(path: Path, task: Task | None) -> tuple[SplitRecords, Context]:
    """What `save_records` has written.

    Args:
        task: to be taken instead of the recorded one.

    Raises:
        SourceError: there is no such file, or it is none of ours.
        UsageError: pyarrow is missing, or ``task`` is another than that of the records.
        UserCodeError: the user's own task cannot be built.
    """
    try:
        with _errors():
            contents = (read_parquet if path.suffix == ".parquet" else read_npz)(path)
            about = contents.about
            observed = SplitRecords(
                split=TypeAdapter(str).validate_python(about["split"]),
                task=task or _recorded(path, TypeAdapter(TargetConfig).validate_python(about["task"])),
                rows=tuple(_row(place, row, contents.columns) for place, row in enumerate(about["rows"])),
                groups=contents.groups,
                warnings=TypeAdapter(tuple[str, ...]).validate_python(about["warnings"]),
            )
            context = TypeAdapter(Context).validate_python(about["context"])
            _check(observed, context)
    except SwaError:
        raise
    except OSError as error:
        msg = f"cannot read the records {path}: {error.strerror or ' '.join(str(error).split()).rstrip('.')}."
        raise SourceError(msg) from error
    except Exception as error:  # what a damaged file comes to is beyond counting
        reason = _reason(error)
        msg = f"{path} holds no records that swa-eval {option('save_records')} has written ({reason})."
        raise SourceError(msg) from error
    if observed.task.primary not in {metric.name for metric in observed.task.metrics(observed.rows[0].records)}:
        msg = (
            f"the records in {path} are of another task: they have no {observed.task.primary}. Leave out "
            f"{option('task')}."
        )
        raise UsageError(msg)
    return observed, context


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {mismatch(dict(first))}" if place else mismatch(dict(first))
    return " ".join(f"{type(error).__name__}: {error}".split())


def _check(observed: SplitRecords, context: Context) -> None:
    """Whether everything is there that a result is made of, of as many units.

    Raises:
        ValueError: it is not.
    """
    lengths = {len(column) for row in observed.rows for column in row.records.columns.values()}
    lengths |= set() if observed.groups is None else {len(observed.groups)}
    n_checkpoints = len(observed.of_kind("checkpoint"))
    if len(observed.of_kind("swa")) != 1 or not n_checkpoints or (context.best or 0) not in range(n_checkpoints):
        msg = "not an average and its checkpoints"
        raise ValueError(msg)
    size = max(lengths, default=0)
    if observed.groups is not None and not ((observed.groups >= 0) & (observed.groups < size)).all():
        msg = "numbers of groups that are none"
        raise ValueError(msg)
    if len(lengths) != 1 or lengths == {0}:
        msg = f"columns of {', '.join(map(str, sorted(lengths)))} units"
        raise ValueError(msg)


def _errors() -> np.errstate:
    """Within it, what numpy would warn of is an error: records of ours give no cause for it."""
    return np.errstate(divide="raise", over="raise", invalid="raise")


@contextmanager
def sensible(path: Path) -> Generator[None]:
    """For what is made of records, of which not everything can be checked when they are read.

    Raises:
        SourceError: nothing could be.
    """
    try:
        with _errors():
            yield
    except SwaError:
        raise
    except Exception as error:
        kind = type(error).__name__
        msg = f"the records in {path} make no sense ({kind}): were they written by swa-eval {option('save_records')}?"
        raise SourceError(msg) from error


def _about(row: Row) -> dict[str, Any]:
    small = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "records"}
    tallies = {name: values.tolist() for name, values in row.records.tallies.items()}
    return {**small, "extra": dict(row.extra), "tallies": tallies, "columns": list(row.records.columns)}


def _row(place: int, about: Mapping[str, Any], columns: Mapping[Column, NDArray[np.float64]]) -> Row:
    kinds = get_type_hints(Row)
    small: dict[str, Any] = {
        name: TypeAdapter[Any](kinds.get(name, Any)).validate_python(value, strict=name != "extra")
        for name, value in about.items()
        if name not in {"tallies", "columns"}
    }
    records = Records(
        columns={name: columns[place, name] for name in about["columns"]},
        tallies={name: np.array(values, dtype=np.float64) for name, values in about["tallies"].items()},
    )
    return Row(**small, records=records)


def _recorded(path: Path, target: TargetConfig) -> Task:
    """The task that the records name, if it is one of ours: no code is run because a file says so."""
    if "." in target.class_path:
        msg = (
            f"the records in {path} are of the task {target.class_path}, which is not ours. Name it with "
            f"{option('task')}."
        )
        raise UsageError(msg)
    task = task_of(target)
    if task is None:
        msg = f"{path} does not say of which task its records are."
        raise SourceError(msg)
    return task
