"""Records as an .npz archive: an array for each candidate and column."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from swa_cli.pipeline.evaluation.records_contents import GROUPS, METADATA, Contents, check_amount, known
from swa_cli.system.regular_files import open_stream

_END = 1 << 21
_MOST_ARRAYS = 10_000
_ZIP = b"PK\x03\x04"


def write_npz(stream: BinaryIO, contents: Contents) -> None:
    """Write the columns as float64 arrays ``0/nll``, the groups as int64, the rest as JSON in an array of text."""
    arrays: dict[str, Any] = {f"{place}/{name}": values for (place, name), values in contents.columns.items()}
    if contents.groups is not None:
        arrays[GROUPS] = contents.groups
    arrays[METADATA] = np.array(json.dumps(contents.about, default=str))
    np.savez_compressed(stream, **arrays)


def read_npz(path: Path) -> Contents:
    """Read what `write_npz` wrote; no array is unpickled.

    Raises:
        OSError, ValueError, KeyError, SourceError: the file cannot be read, or holds something else.
    """
    with open_stream(path) as stream:
        if os.pread(stream.fileno(), len(_ZIP), 0) != _ZIP:  # numpy would take it for a pickle, and advise to load it
            msg = "it is not an .npz archive"
            raise ValueError(msg)
        _check_directory(stream)
        stored = np.load(stream, allow_pickle=False)
        check_amount(sum(info.file_size for info in stored.zip.infolist()), stream)
        about = known(str(stored[METADATA]), path)
        columns = {
            (place, name): stored[f"{place}/{name}"]
            for place, row in enumerate(about["rows"])
            for name in dict.fromkeys(row["columns"])
        }
        return Contents(about, columns, stored[GROUPS] if GROUPS in stored.files else None)


def _check_directory(stream: BinaryIO) -> None:
    """Find out whether an archive has no more arrays than records can have, before its directory is read.

    Raises:
        ValueError: it has.
    """
    start = max(0, os.fstat(stream.fileno()).st_size - _END)
    if os.pread(stream.fileno(), _END, start).count(b"PK\x01\x02") > _MOST_ARRAYS:
        msg = f"more than {_MOST_ARRAYS:,} arrays"
        raise ValueError(msg)
