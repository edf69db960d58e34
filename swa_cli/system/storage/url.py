"""URLs of files, with the names and parents that paths have."""

import os
import re
from pathlib import Path, PurePath, PurePosixPath
from typing import NoReturn, final

_SCHEME = re.compile(r"(?:[a-z][a-z0-9+.-]*::)*([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_COLLAPSED = re.compile(r"(?<=[\w+.-]):(?:/|\Z)")


@final
class Url(PurePosixPath):
    """A file that is not on this machine: ``s3://bucket/run/model.safetensors``.

    >>> url = Url("s3://bucket/run/model-00001.safetensors")
    >>> url.with_name("trainer_state.json")
    Url('s3://bucket/run/trainer_state.json')
    >>> str(url.parent), url.suffix
    ('s3://bucket/run', '.safetensors')
    """

    def joined(self, path: str) -> "Url":
        """Return the URL of a path that is seen from here, with its ``..`` resolved.

        >>> Url("s3://bucket/run/averages").joined("../checkpoints")
        Url('s3://bucket/run/checkpoints')
        """
        return Url(os.path.normpath(str(self / path)))

    def __str__(self) -> str:
        return _COLLAPSED.sub("://", super().__str__(), count=1)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __fspath__(self) -> NoReturn:
        msg = f"{self} is a URL, not a path of this machine"
        raise TypeError(msg)


def locate(text: str) -> PurePath:
    """Return the URL or, for anything else, the path of this machine that ``text`` names.

    >>> locate("memory://run/1.pt"), locate("file:///run/1.pt"), locate("run:1.pt")
    (Url('memory://run/1.pt'), PosixPath('/run/1.pt'), PosixPath('run:1.pt'))
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text)
    return Path(text[scheme.end() :]) if scheme[0].lower() == "file://" else Url(text)
