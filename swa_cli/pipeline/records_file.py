"""Records on disk: what every candidate did with every unit, from which all tables and comparisons follow anew."""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from swa_cli import __version__
from swa_cli.checked_json import parse_json
from swa_cli.checkpoints import spelt
from swa_cli.config import TargetConfig
from swa_cli.errors import SourceError, SwaError, UsageError
from swa_cli.evaluation import Context, Observed, Row
from swa_cli.files import publish
from swa_cli.pipeline.sealed_parquet import check_seal, seal
from swa_cli.pipeline.user import task_from
from swa_cli.regular_files import open_stream
from swa_cli.tasks import Records, Task

_VERSION = 1
_METADATA = "swa_cli"
_GROUPS = "groups"
_NAMES = ["candidate", "kind"]
_END = 1 << 21
_MOST_ARRAYS = 10_000
_LEAST_AMOUNT, _MOST_TIMES = 1 << 27, 8
"""Bytes that a file of records may hold once it is decompressed: so many, and so many for each of its own."""
_WIDTH = 8
_ZIP = b"PK\x03\x04"

Column = tuple[int, str]
"""The place of a row, and the name of one of its columns."""


class _Contents(NamedTuple):
    """What both forms hold: all that is small as JSON, and the columns."""

    about: dict[str, Any]
    columns: dict[Column, NDArray[np.float64]]
    groups: NDArray[np.int64] | None


def check_form(path: Path | None) -> None:
    """Check that the suffix names a form that can be written here.

    Raises:
        UsageError: it does not, or pyarrow is missing.
    """
    if path is None:
        return
    if path.suffix not in {".parquet", ".npz"}:
        msg = f"--save-records {path}: expected a name in .parquet or .npz."
        raise UsageError(msg)
    if path.suffix == ".parquet":
        _pyarrow(path)


def save_records(path: Path, observed: Observed, context: Context, task: TargetConfig | None) -> None:
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
        "version": _VERSION,
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
    contents = _Contents(about, columns, observed.groups)
    with publish(path, overwrite=True) as stream:
        (_write_parquet if path.suffix == ".parquet" else _write_npz)(stream, contents)


def load_records(path: Path, task: Task | None) -> tuple[Observed, Context]:
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
            contents = (_read_parquet if path.suffix == ".parquet" else _read_npz)(path)
            about = contents.about
            observed = Observed(
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
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        msg = f"{path} holds no records that swa-eval --save-records has written ({reason})."
        raise SourceError(msg) from error
    if observed.task.primary not in {metric.name for metric in observed.task.metrics(observed.rows[0].records)}:
        msg = f"the records in {path} are of another task: they have no {observed.task.primary}. Leave out --task."
        raise UsageError(msg)
    return observed, context


def _known(text: str, path: Path) -> dict[str, Any]:
    """Return the description of the records, if its version is the one that this code writes."""
    about: dict[str, Any] = parse_json(text.encode())
    if about["version"] != _VERSION:
        msg = f"{path} has records of version {about['version']}, and this swa-cli reads {_VERSION}. Upgrade it."
        raise SourceError(msg)
    return about


def _check(observed: Observed, context: Context) -> None:
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
        msg = f"the records in {path} make no sense ({kind}): were they written by swa-eval --save-records?"
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


def _write_npz(stream: BinaryIO, contents: _Contents) -> None:
    arrays: dict[str, Any] = {f"{place}/{name}": values for (place, name), values in contents.columns.items()}
    if contents.groups is not None:
        arrays[_GROUPS] = contents.groups
    arrays[_METADATA] = np.array(json.dumps(contents.about, default=str))
    np.savez_compressed(stream, **arrays)


def _read_npz(path: Path) -> _Contents:
    with open_stream(path) as stream:
        if os.pread(stream.fileno(), len(_ZIP), 0) != _ZIP:  # numpy would take it for a pickle, and advise to load it
            msg = "it is not an .npz archive"
            raise ValueError(msg)
        _check_directory(stream)
        stored = np.load(stream, allow_pickle=False)
        _check_amount(sum(info.file_size for info in stored.zip.infolist()), stream)
        about = _known(str(stored[_METADATA]), path)
        columns = {
            (place, name): stored[f"{place}/{name}"]
            for place, row in enumerate(about["rows"])
            for name in dict.fromkeys(row["columns"])
        }
        return _Contents(about, columns, stored[_GROUPS] if _GROUPS in stored.files else None)


def _check_directory(stream: BinaryIO) -> None:
    """Find out whether an archive has no more arrays than records can have, before its directory is read.

    Raises:
        ValueError: it has.
    """
    start = max(0, os.fstat(stream.fileno()).st_size - _END)
    if os.pread(stream.fileno(), _END, start).count(b"PK\x01\x02") > _MOST_ARRAYS:
        msg = f"more than {_MOST_ARRAYS:,} arrays"
        raise ValueError(msg)


def _check_amount(amount: int, stream: BinaryIO) -> None:
    """Find out whether a file does not hold far more than its size is worth, once it is decompressed.

    Raises:
        ValueError: it does.
    """
    size = os.fstat(stream.fileno()).st_size
    most = _LEAST_AMOUNT + _MOST_TIMES * size
    if amount > most:
        msg = f"{size:,} bytes that hold {amount:,}, expected at most {most:,}"
        raise ValueError(msg)


def _write_parquet(stream: BinaryIO, contents: _Contents) -> None:
    pa, parquet = _pyarrow(None)
    rows = contents.about["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["columns"]))
    sizes = [len(contents.columns[place, row["columns"][0]]) for place, row in enumerate(rows)]

    def column(name: str) -> Any:
        parts = [contents.columns.get((place, name)) for place in range(len(rows))]
        wide = any(part is not None and part.ndim > 1 for part in parts)
        kind = pa.list_(pa.float64()) if wide else pa.float64()
        return pa.chunked_array(
            [
                pa.nulls(size, kind) if part is None else pa.array(part.tolist() if wide else part, kind)
                for part, size in zip(parts, sizes, strict=True)
            ],
            kind,
        )

    groups = contents.groups
    table = pa.table(
        {
            "candidate": [spelt(row["name"]) for row, size in zip(rows, sizes, strict=True) for _ in range(size)],
            "kind": [row["kind"] for row, size in zip(rows, sizes, strict=True) for _ in range(size)],
            "unit": np.concatenate([np.arange(size) for size in sizes]),
            "group": pa.nulls(sum(sizes), pa.int64()) if groups is None else np.concatenate([groups for _ in sizes]),
            **{name: column(name) for name in names},
        }
    )
    described = table.replace_schema_metadata({_METADATA: json.dumps(contents.about, default=str)})
    parquet.write_table(described, stream)
    seal(stream)


def _read_parquet(path: Path) -> _Contents:
    pa, parquet = _pyarrow(path)
    with open_stream(path) as stream:
        check_seal(stream)
        file = parquet.ParquetFile(stream, pre_buffer=False, read_dictionary=_NAMES)
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        parts = [group.column(column) for group in groups for column in range(group.num_columns)]
        _check_amount(sum(max(_WIDTH * part.num_values, part.total_uncompressed_size) for part in parts), stream)
        texts = [field.name for field in file.schema_arrow if not _is_number(pa, field.type)]
        if {*texts} - {*_NAMES}:
            msg = f"columns {', '.join(texts)} of no numbers"
            raise ValueError(msg)
        table = file.read(use_threads=False)  # whose threads outlive a damaged file, and abort the program at its end
    about = _known(table.schema.metadata[_METADATA.encode()].decode(), path)
    ends = np.flatnonzero(table["unit"].to_numpy() == 0)
    bounds = [*ends.tolist(), table.num_rows]
    columns: dict[Column, NDArray[np.float64]] = {}
    for place, row in enumerate(about["rows"]):
        part = table.slice(bounds[place], bounds[place + 1] - bounds[place])
        for name in dict.fromkeys(row["columns"]):
            columns[place, name] = _as_array(part[name])
    first = table.slice(0, bounds[1])["group"]
    groups = None if first.null_count else first.to_numpy().astype(np.int64)
    return _Contents(about, columns, groups)


def _is_number(pa: Any, kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _as_array(column: Any) -> NDArray[np.float64]:
    """A column of numbers, or of lists of as many numbers each."""
    array = column.combine_chunks()
    if not hasattr(array, "value_lengths"):
        return array.to_numpy(zero_copy_only=False).astype(np.float64)
    if array.null_count or len(array.value_lengths().unique()) != 1:
        msg = "a column of lists of different lengths"
        raise ValueError(msg)
    return array.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(array), -1)


def _pyarrow(path: Path | None) -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        msg = f"{path}: parquet files need pyarrow: pip install 'swa-cli[records]', or name a .npz file."
        raise UsageError(msg) from error
    return pa, parquet


def _recorded(path: Path, target: TargetConfig) -> Task:
    """The task that the records name, if it is one of ours: no code is run because a file says so."""
    if "." in target.class_path:
        msg = f"the records in {path} are of the task {target.class_path}, which is not ours. Name it with --task."
        raise UsageError(msg)
    task = task_from(target)
    if task is None:
        msg = f"{path} does not say of which task its records are."
        raise SourceError(msg)
    return task
