"""One YAML file, or flags, or flags over a file, to one configuration."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from swa_cli.config.problems import explain, unpartnered
from swa_cli.config.schema import Config, TargetConfig
from swa_cli.config.settings import sections, settings
from swa_cli.errors import LISTED, ConfigError
from swa_cli.system.regular_files import read_regular

_LARGEST = 1 << 18
_MOST_VALUES = 20_000
_STRUCTURE = (",", "\n", "[", "{")


class _Loader(yaml.SafeLoader):
    """YAML 1.1, and numbers as Python writes them, such as 1e-3, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)


def load_config(path: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """Read a configuration and put ``overrides`` over it.

    A path in the file means what the same flag would mean: it is relative to the current folder. The exception is
    code that ships beside the file: the ``file.py`` of a ``class_path`` is looked for beside the configuration
    first.

    Args:
        path: a YAML file; without one the defaults are used.
        overrides: for each section, the values that were given as flags; None means not given.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named), a wrong value.
    """
    contents = _read(path) if path else {}
    in_file = {section for section, value in contents.items() if value is not None}
    for section, values in (overrides or {}).items():
        given = {name: value for name, value in values.items() if value is not None}
        if given:
            contents[section] = _override(section, contents.get(section), given)
    where = f"{path}: " if path else ""
    try:
        return TypeAdapter(Config).validate_python(
            {section: _gathered(section, values) for section, values in contents.items()}
        )
    except ValidationError as error:
        problems = error.errors()
        lines = [
            unpartnered(problem, in_file) or f"{where}{explain(problem)}"
            for problem in map(dict[str, Any], problems[:LISTED])
        ]
        more = len(problems) - LISTED
        raise ConfigError(*lines, *([f"… and {more:,} more"] if more > 0 else [])) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        contents = parse_yaml(read_regular(path, most=_LARGEST).decode())
    except OSError as error:
        msg = f"cannot read the configuration {path}: {error.strerror or error}."
        raise ConfigError(msg) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        msg = f"{path} is not YAML: {where}{error.problem}."
        raise ConfigError(msg) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an invalid date or number
        msg = f"{path} is not YAML: {' '.join(str(error).split())}."
        raise ConfigError(msg) from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        msg = f"{path}: expected a mapping with {', '.join(sections())}, found {type(contents).__name__}."
        raise ConfigError(msg)
    config = cast("dict[str, Any]", contents)
    for section in config.keys() & sections():
        if sections()[section] is not TargetConfig:
            config[section] = _renamed(section, {} if config[section] is None else config[section])
            continue
        if isinstance(config[section], str):  # `model: net.py:Net`, without arguments
            config[section] = {"class_path": config[section]}
        _find_code(config[section], path.parent)
    return config


def _renamed(section: str, values: object) -> object:
    """Return the values by the names that their keys have now; a key that is there by both names is kept."""
    if not isinstance(values, dict):
        return values
    former = {old: setting.name for setting in settings(section) for old in setting.option.former}
    written = cast("dict[str, Any]", values)
    return {name if former.get(name, name) in written else former[name]: value for name, value in written.items()}


def parse_yaml(text: str) -> object:
    """Return what YAML says, if it is no more than a configuration can be, with all aliases written out.

    Raises:
        ValueError: it is more, or holds itself.
        YAMLError: it is not YAML.
    """
    if sum(map(text.count, _STRUCTURE)) > _MOST_VALUES:
        msg = f"it holds more than {_MOST_VALUES:,} values"
        raise ValueError(msg)
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        _check_size(root, {})
        return None if root is None else cast("object", loader.construct_document(root))
    finally:
        loader.dispose()


def _check_size(node: yaml.Node | None, sizes: dict[int, int]) -> int:
    """Count the values of a node, those of an alias as often as it is named."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_VALUES + 1  # while it is being counted: it would hold itself
        parts = cast("list[Any]", node.value)
        flat = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        sizes[id(node)] = 1 + sum(_check_size(part, sizes) for part in flat)
    if sizes[id(node)] > _MOST_VALUES:
        msg = f"with its aliases it holds more than {_MOST_VALUES:,} values, or itself"
        raise ValueError(msg)
    return sizes[id(node)]


def _gathered(section: str, values: object) -> object:
    """Return the values of a section with those of the keys that one field gathers as a mapping of that name."""
    if section not in sections() or not isinstance(values, dict):
        return values
    fields = {setting.name: setting.field for setting in settings(section) if setting.field != setting.name}
    given = cast("dict[str, Any]", values)
    gathered: dict[str, Any] = {}
    for name, value in given.items():
        if name in fields and value is not None:
            gathered.setdefault(fields[name], {})[name] = value
    return {**{name: value for name, value in given.items() if name not in fields}, **gathered}


def _find_code(target: object, folder: Path) -> None:
    if not isinstance(target, dict):
        return
    mapping = cast("dict[str, Any]", target)
    class_path = mapping.get("class_path")
    if isinstance(class_path, str) and ".py:" in class_path and (folder / class_path.rpartition(":")[0]).is_file():
        mapping["class_path"] = str(folder / class_path)


def _override(section: str, current: object, given: dict[str, Any]) -> object:
    if not isinstance(current, dict):
        return given if current is None else current  # a section that is no mapping is refused later
    replaced = {name for setting in settings(section) if setting.name in given for name in setting.option.replaces}
    written = {name: value for name, value in cast("dict[str, Any]", current).items() if name not in replaced}
    merged = {**written, **given}
    if sections()[section] is not TargetConfig:
        return merged
    if "class_path" not in given:
        merged["init_args"] = _update(written.get("init_args"), given["init_args"])
    elif "init_args" not in given:
        merged["init_args"] = {}  # the file's arguments belong to the class that the flag replaced
    return merged


def _update(written: object, given: dict[str, Any]) -> object:
    """The file's arguments with the flags' over them; what is no mapping is kept, to be refused later."""
    if written is None:
        return given
    return {**cast("dict[str, Any]", written), **given} if isinstance(written, dict) else written
