"""Importing the object that `path/to/file.py:Name` or `package.module.Name` names."""

import importlib
import importlib.util
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from swa_cli.errors import UserCodeError, kind_of
from swa_cli.user.guard import user_code


def load_target(target: str, *, what: str) -> object:
    """Import and return the object that ``target`` names, without calling it.

    The file's folder (for a dotted name, the current folder) is put on ``sys.path`` first, as Python does for a
    script, so that the file's own imports work.

    Args:
        target: ``file.py:Name`` or ``package.module.Name``.
        what: "model" or "data module", for error messages.

    Raises:
        UserCodeError: the file, module or name does not exist, or the import fails.
    """
    if ".py:" in target:
        place, _, name = target.rpartition(":")
        module = _import_file(Path(place), what)
    else:
        place, _, name = target.rpartition(".")
        if not place or name == "py":
            msg = f"{what} {target!r}: expected path/to/file.py:Name or package.module.Name."
            raise UserCodeError(msg)
        module = _import_module(place, target, what)
    if not hasattr(module, name):
        near = get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        msg = f"{what} {target!r}: {place} has no {name!r}.{hint}"
        raise UserCodeError(msg)
    return getattr(module, name)


def call_target(target: str, arguments: Mapping[str, Any], *, what: str) -> object:
    """Import the object that ``target`` names and call it with keyword ``arguments``.

    Raises:
        UserCodeError: the import fails as in `load_target`, the object is not callable, or the call raises.
    """
    thing = load_target(target, what=what)
    if not callable(thing):
        msg = f"{what} {target!r} is a {kind_of(thing)}, expected a class or a function that builds one."
        raise UserCodeError(msg)
    with user_code(f"building the {what} {target}({_spell(arguments)})"):
        return thing(**arguments)


def _import_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        msg = f"{what}: there is no file {path} (looked from {Path.cwd()})."
        raise UserCodeError(msg)
    path = path.resolve()
    _put_on_path(path.parent)
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{what}: {path} is not a Python file."
        raise UserCodeError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with user_code(f"importing {path}"), _as_if_alone(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(path: Path) -> str:
    """Return the file's stem, so that worker processes can import it, or a unique name if another module has it."""
    loaded = sys.modules.get(path.stem)
    origin = getattr(loaded, "__file__", None) if loaded else _origin(path.stem)
    return path.stem if origin == str(path) else f"_swa_cli_{abs(hash(path)):x}_{path.stem}"


def _origin(name: str) -> str | None:
    """Return the file that ``import name`` would run."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


def _import_module(name: str, target: str, what: str) -> ModuleType:
    _put_on_path(Path.cwd())
    try:
        with user_code(f"importing {name}"), _as_if_alone(Path(name)):
            return importlib.import_module(name)
    except UserCodeError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            missing = error.__cause__.name
            msg = (
                f"{what} {target!r}: there is no module {missing!r}. Install it in this environment, run from the "
                f"folder that holds it (now {Path.cwd()}), or name the file: path/to/file.py:Name."
            )
            raise UserCodeError(msg) from error
        raise


@contextmanager
def _as_if_alone(path: Path) -> Generator[None]:
    """Hide our command line from a script that reads ``sys.argv`` while it is imported."""
    arguments, sys.argv = sys.argv, [str(path)]
    try:
        yield
    finally:
        sys.argv = arguments


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _spell(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
