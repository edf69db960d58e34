"""Where files live: one way to read them, from this machine and from everything that fsspec reaches by a URL."""

from swa_cli.system.storage.local import LocalFile
from swa_cli.system.storage.protocol import RandomAccess, Stamp
from swa_cli.system.storage.registry import is_there, open_file, read_file, storage_of
from swa_cli.system.storage.url import Url, locate

__all__ = [
    "LocalFile",
    "RandomAccess",
    "Stamp",
    "Url",
    "is_there",
    "locate",
    "open_file",
    "read_file",
    "storage_of",
]
