"""An object store for tests, ``store://``: what it holds, how it answers and what it was asked are plain attributes."""

from collections.abc import Callable
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem


class ObjectStore(AbstractFileSystem):
    """Objects by their keys, as S3 has them: no directories, a new ETag for every version."""

    protocol = "store"
    objects: ClassVar[dict[str, bytes]] = {}
    versions: ClassVar[dict[str, int]] = {}
    requests: ClassVar[list[tuple[str, int, int]]] = []
    answer: ClassVar[Callable[[str, bytes], bytes]] = staticmethod(lambda _, content: content)
    """Changes what a request for bytes gives, or raises."""

    @classmethod
    def clear(cls) -> None:
        cls.objects, cls.versions, cls.requests = {}, {}, []
        cls.answer = staticmethod(lambda _, content: content)

    @classmethod
    def add(cls, key: str, content: bytes) -> None:
        cls.objects[key] = content
        cls.versions[key] = cls.versions.get(key, 0) + 1

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        key = path.strip("/")
        if key in self.objects:
            return {"name": key, "type": "file", "size": len(self.objects[key]), "ETag": str(self.versions[key])}
        if any(name.startswith(f"{key}/") for name in self.objects):
            return {"name": key, "type": "directory", "size": 0}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:  # noqa: FBT001, FBT002  # as fsspec has it
        below = path.strip("/") + "/"
        names = {below + name[len(below) :].split("/")[0] for name in self.objects if name.startswith(below)}
        if not names:
            raise FileNotFoundError(path)
        return [self.info(name) if detail else name for name in sorted(names)]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        self.requests.append((path, start or 0, end or 0))
        return type(self).answer(path, self.objects[path.strip("/")][start:end])


fsspec.register_implementation("store", ObjectStore, clobber=True)
