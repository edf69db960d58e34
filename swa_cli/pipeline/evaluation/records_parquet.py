"""Records as a .parquet file: a row for each candidate and unit."""

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from swa_cli.errors import UsageError
from swa_cli.formats import escape_surrogates
from swa_cli.pipeline.evaluation.records_contents import METADATA, Column, Contents, check_amount, known
from swa_cli.pipeline.evaluation.sealed_parquet import check_seal, seal
from swa_cli.system.regular_files import open_stream

_NAMES = ["candidate", "kind"]
_WIDTH = 8


def write_parquet(stream: BinaryIO, contents: Contents) -> None:
    """Write the columns ``candidate``, ``kind``, ``unit``, ``group`` and those of the records, with a checksum.

    The rest is JSON in the metadata of the schema.

    Raises:
        UsageError: pyarrow is missing.
    """
    pa, parquet = pyarrow(None)
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
            "candidate": [
                escape_surrogates(row["name"]) for row, size in zip(rows, sizes, strict=True) for _ in range(size)
            ],
            "kind": [row["kind"] for row, size in zip(rows, sizes, strict=True) for _ in range(size)],
            "unit": np.concatenate([np.arange(size) for size in sizes]),
            "group": pa.nulls(sum(sizes), pa.int64()) if groups is None else np.concatenate([groups for _ in sizes]),
            **{name: column(name) for name in names},
        }
    )
    described = table.replace_schema_metadata({METADATA: json.dumps(contents.about, default=str)})
    parquet.write_table(described, stream)
    seal(stream)


def read_parquet(path: Path) -> Contents:
    """Read what `write_parquet` wrote, once its checksum is right.

    Raises:
        UsageError: pyarrow is missing.
        OSError, ValueError, KeyError, SourceError: the file cannot be read, or holds something else.
    """
    pa, parquet = pyarrow(path)
    with open_stream(path) as stream:
        check_seal(stream)
        file = parquet.ParquetFile(stream, pre_buffer=False, read_dictionary=_NAMES)
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        parts = [group.column(column) for group in groups for column in range(group.num_columns)]
        check_amount(sum(max(_WIDTH * part.num_values, part.total_uncompressed_size) for part in parts), stream)
        texts = [field.name for field in file.schema_arrow if not _is_number(pa, field.type)]
        if {*texts} - {*_NAMES}:
            msg = f"columns {', '.join(texts)} of no numbers"
            raise ValueError(msg)
        table = file.read(use_threads=False)  # whose threads outlive a damaged file, and abort the program at its end
    about = known(table.schema.metadata[METADATA.encode()].decode(), path)
    ends = np.flatnonzero(table["unit"].to_numpy() == 0)
    bounds = [*ends.tolist(), table.num_rows]
    columns: dict[Column, NDArray[np.float64]] = {}
    for place, row in enumerate(about["rows"]):
        part = table.slice(bounds[place], bounds[place + 1] - bounds[place])
        for name in dict.fromkeys(row["columns"]):
            columns[place, name] = _as_array(part[name])
    first = table.slice(0, bounds[1])["group"]
    groups = None if first.null_count else first.to_numpy().astype(np.int64)
    return Contents(about, columns, groups)


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


def pyarrow(path: Path | None) -> tuple[Any, Any]:
    """The packages pyarrow and pyarrow.parquet.

    Raises:
        UsageError: they are not installed; ``path`` is the file that needs them.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        msg = f"{path}: parquet files need pyarrow: pip install 'swa-cli[records]', or name a .npz file."
        raise UsageError(msg) from error
    return pa, parquet
