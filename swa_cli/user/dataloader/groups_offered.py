"""Hints in a dataset that its examples are grouped, such as images of one patient."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Any, cast

from swa_cli.user.dataloader.clone import parts_of

_GROUP = re.compile(
    r"(group|patient|subject|participant|person|speaker|user|video|clip|document|session|scene|slide|site)(s|_?ids?)?"
)
_FILES = 50_000
"""Number of files of a dataset that are looked at."""


def groups_offered(loader: object) -> str | None:
    """Return a clause that names what in the loader's dataset could group its examples, or None.

    It may be a column (of a Hugging Face dataset or data frame), an attribute with one entry per example, or folders
    below the class folders of torchvision's ``ImageFolder``. No example is loaded.
    """
    for part in parts_of(loader):
        with suppress(Exception):  # attributes of a user's dataset may raise, and a hint is not worth an error
            for hint in (*_named(part), *_folders(part)):
                return hint
    return None


def _named(dataset: Any) -> Iterator[str]:
    attributes = cast("dict[str, Any]", vars(dataset))
    for name in [*_columns(dataset), *(column for value in attributes.values() for column in _columns(value))]:
        if _GROUP.fullmatch(name.lower()):
            yield f"the dataset has a column {name}"
    for name, value in attributes.items():
        if _GROUP.fullmatch(name.lower()) and hasattr(value, "__len__") and len(value) == len(dataset):
            yield f"the dataset has an attribute {name}"


def _columns(table: Any) -> list[str]:
    names: Any = getattr(table, "column_names", None)
    if names is None:
        names = getattr(table, "columns", ())
    return [name for name in names if isinstance(name, str)] if hasattr(names, "__iter__") else []


def _folders(dataset: Any) -> Iterator[str]:
    samples, classes = getattr(dataset, "samples", None), getattr(dataset, "classes", None)
    if not isinstance(samples, Sequence) or not isinstance(classes, Sequence):
        return
    looked_at = cast("Sequence[Any]", samples)[:_FILES]
    folders = {PurePath(path).parent for path, _ in looked_at}
    if len(cast("Sequence[Any]", classes)) < len(folders) < len(looked_at):
        yield f"the files lie in {len(folders):,} folders below those of the classes"
