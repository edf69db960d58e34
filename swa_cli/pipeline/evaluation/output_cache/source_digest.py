"""The source code that outputs depend on, as far as it can be told."""

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path


def sources_of(things: Iterable[object]) -> list[str]:
    """The files that define these classes, with what they inherit from, and functions."""
    parts = [part for thing in things for part in (thing.__mro__ if isinstance(thing, type) else (thing,))]
    files = {_file_of(sys.modules.get(getattr(part, "__module__", ""))) for part in parts}
    return _texts(file for file in files if file)


def user_sources(model: object, *, more: Iterable[object], data: Iterable[object]) -> list[str]:
    """All that is imported from the current folder and that of the model's class, or of the package that it is in.

    What is imported for the data alone is left out: batches are known by what is in them, and a loader that is mended
    gives the same ones.

    Args:
        model: the class or function that makes it.
        more: classes and functions whose imports count too.
        data: those of the data module.
    """
    own = getattr(model, "__module__", "")
    own_file = _file_of(sys.modules.get(own))
    roots = [Path.cwd(), *([own_file.parents[max(0, own.count(".") - 1)]] if own_file else [])]
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    users = {
        name: file
        for name, module in list(sys.modules.items())
        if (file := _file_of(module))
        and file.suffix == ".py"
        and any(file.is_relative_to(root.resolve()) for root in roots)
        and not any(file.is_relative_to(folder) for folder in installed)
    }
    spared: set[Path] = set()
    with suppress(SyntaxError, ValueError):  # a file that is no longer what was imported: nothing is left out
        needed = {users[name] for name in _reached_from([model, *more], users)}
        spared = {users[name] for name in _reached_from(data, users)} - needed
    return _texts({*users.values()} - spared)


def _reached_from(things: Iterable[object], users: Mapping[str, Path]) -> set[str]:
    """The modules among ``users`` that define ``things``, and those that they import, wherever in their code."""
    found: set[str] = set()
    waiting = [str(getattr(thing, "__module__", "")) for thing in things]
    while waiting:
        name = waiting.pop()
        if name in users and name not in found:
            found.add(name)
            waiting += _imports(name, users[name])
    return found


def _imports(name: str, file: Path) -> Iterator[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # tried in vain there, too: `try: from .a import b`
                base = resolve_name("." * node.level + (node.module or ""), package)
                targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            parts = target.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))  # packages are imported too


def _file_of(module: object) -> Path | None:
    """Where a module was read from, through links, if it is a plain file."""
    file = Path(str(getattr(module, "__file__", None) or ""))
    return file.resolve() if file.is_file() else None


def _texts(files: Iterable[Path]) -> list[str]:
    return sorted(file.read_text(encoding="utf-8", errors="replace") for file in files)
