"""One YAML file, or flags, or flags over a file, to one frozen configuration."""

import re
from collections.abc import Mapping
from dataclasses import field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from swa_cli.errors import ConfigError

_STRICT = ConfigDict(extra="forbid")


def _as_list(value: object) -> object:
    return [value] if isinstance(value, (str, Path)) else value


def _split(value: object) -> object:
    if isinstance(value, str):
        return value.split(",")
    return [value] if isinstance(value, (int, float)) else value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_split)]
"""One number, several, or several in a text with commas between them."""


def _windows(value: object) -> object:
    if value == "log":
        return value
    try:
        return TypeAdapter(tuple[PositiveInt, ...]).validate_python(_split(value))
    except ValidationError as error:
        kind, expected = "windows", "numbers of checkpoints, as 1,2,4, or log"
        raise PydanticCustomError(kind, expected) from error


Windows = Annotated[tuple[int, ...] | Literal["log"], BeforeValidator(_windows)]
"""Numbers of checkpoints, likewise, or ``log`` for 1, 2, 4, … and all."""


def _margins(value: object) -> object:
    """A lone number is the margin of the task's primary metric."""
    given = [value] if isinstance(value, (int, float, str)) else value
    if not isinstance(given, list):
        return value
    parts = [str(entry).rpartition("=") for entry in cast("list[object]", given)]
    return {name: number for name, _, number in parts}


Margins = Annotated[dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]], BeforeValidator(_margins)]
"""By metric; under the empty name that of the task's primary metric."""

Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_list)]
"""One path, or several."""
Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""One pattern, or several."""

_TARGETS = ("model", "data", "task")
"""Sections that name what to import."""
_EXCLUSIVE = ("first", "last", "best")
_PAIRS = (("weights", "ema"), ("like", "max_shard_size"))


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _in_bytes(value: object) -> object:
    """``5GB``, as Hugging Face's tools read it."""
    found = re.fullmatch(r"([0-9.]+) ?([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    if isinstance(value, str) and (found is None or found[2].upper() not in _UNITS or found[1].count(".") > 1):
        raise PydanticCustomError("size", "a size in bytes, as 5GB or 500MiB")  # noqa: EM101  # as pydantic has it
    if found is None:
        return value
    return int(float(found[1]) * _UNITS[found[2].upper()])


Size = Annotated[PositiveInt, BeforeValidator(_in_bytes)]
"""Bytes, as a number or with a unit."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TargetConfig:
    """What to import and with which keyword arguments to call it (Lightning's form)."""

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AverageConfig:
    """The section ``average:``."""

    sources: Paths = ()
    output: Path | None = None
    include: Patterns = ()
    exclude: Patterns = ()
    from_step: int | None = None
    to_step: int | None = None
    every: PositiveInt | None = None
    first: PositiveInt | None = None
    last: PositiveInt | None = None
    best: PositiveInt | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    key: str | None = None
    dtype: Literal["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] | None = None
    integers: Literal["agree", "last", "first", "mean-round"] = "agree"
    weights: Numbers | None = None
    ema: float | None = None
    like: Path | None = None
    max_shard_size: Size | None = None
    device: str = "auto"
    threads: PositiveInt | None = None
    allow_nonfinite: bool = False
    checksum: bool = False
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BnUpdateConfig:
    """The section ``bn_update:``."""

    input: Path | None = None
    output: Path | None = None
    key: str | None = None
    estimator: Literal["population", "torch", "official", "sequential"] = "population"
    num_batches: PositiveInt | None = None
    num_samples: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    until_converged: PositiveFloat | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    eval_transforms: bool = False
    recalibrate_frozen: bool = False
    amp: Literal["bf16", "fp16"] | None = None
    channels_last: bool = False
    compile: bool = False
    json: Path | None = None
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvalConfig:
    """The section ``eval:``."""

    checkpoints: Paths = ()
    swa: Path | None = None
    include: Patterns = ()
    exclude: Patterns = ()
    from_step: int | None = None
    to_step: int | None = None
    every: PositiveInt | None = None
    first: PositiveInt | None = None
    last: PositiveInt | None = None
    best: PositiveInt | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    key: str | None = None
    split: Literal["test", "val", "train"] | None = None
    compare_ensemble: bool = False
    best_by_val: bool = True
    control: bool = False
    curve: Windows | None = None
    greedy: bool = False
    margin: Margins = field(default_factory=dict[str, float])
    fail_unless: Literal["better", "non-inferior"] | None = None
    metrics: dict[str, TargetConfig] = field(default_factory=dict[str, TargetConfig])
    amp: Literal["bf16", "fp16"] | None = None
    channels_last: bool = False
    compile: bool = False
    at_once: PositiveInt | None = None
    cache: Path | None = None
    from_records: Path | None = None
    save_records: Path | None = None
    json: Path | None = None
    csv: Path | None = None
    markdown: Path | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Config:
    """All of it: model, data module, task, and a section for each command."""

    model: TargetConfig | None = None
    data: TargetConfig | None = None
    task: TargetConfig | None = None
    average: AverageConfig = field(default_factory=AverageConfig)
    bn_update: BnUpdateConfig = field(default_factory=BnUpdateConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


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
    for section, values in (overrides or {}).items():
        given = {name: value for name, value in values.items() if value is not None}
        if given:
            contents[section] = _override(section, contents.get(section), given)
    where = f"{path}: " if path else ""
    try:
        return TypeAdapter(Config).validate_python(contents)
    except ValidationError as error:
        msg = "\n".join(f"{where}{_explain(dict(problem))}" for problem in error.errors())
        raise ConfigError(msg) from error


def _read(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        msg = f"cannot read the configuration {path}: it is not a regular file."
        raise ConfigError(msg)
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read the configuration {path}: {error.strerror or error}."
        raise ConfigError(msg) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        msg = f"{path} is not YAML: {where}{error.problem}."
        raise ConfigError(msg) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number that is none
        msg = f"{path} is not YAML: {' '.join(str(error).split())}."
        raise ConfigError(msg) from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        msg = f"{path}: expected a mapping with {', '.join(_known(()))}, found {type(contents).__name__}."
        raise ConfigError(msg)
    config = cast("dict[str, Any]", contents)
    for section in ("average", "bn_update", "eval"):
        if section in config and config[section] is None:  # a section with nothing in it
            del config[section]
    for section in _TARGETS:
        if isinstance(config.get(section), str):  # `model: net.py:Net`, without arguments
            config[section] = {"class_path": config[section]}
        _find_code(config.get(section), path.parent)
    return config


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
    written = _without_rivals(cast("dict[str, Any]", current), given)
    merged = {**written, **given}
    if section in _TARGETS and "class_path" not in given and "init_args" in given:
        merged["init_args"] = _update(written.get("init_args"), given["init_args"])
    elif section in _TARGETS and "init_args" not in given:
        merged["init_args"] = {}  # the file's arguments belong to the class that the flag replaced
    return merged


def _without_rivals(written: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The file's values without those that exclude a flag: ``--first`` goes over ``last:``."""
    rivals: set[str] = set()
    if any(name in given for name in _EXCLUSIVE):
        rivals |= {*_EXCLUSIVE, *(() if "best" in given else ("metric", "mode"))}
    for pair in _PAIRS:
        rivals |= {*pair} if any(name in given for name in pair) else set()
    return {name: value for name, value in written.items() if name not in rivals}


def _update(written: object, given: dict[str, Any]) -> object:
    """The file's arguments with the flags' over them; what is no mapping is kept, to be refused later."""
    if written is None:
        return given
    return {**cast("dict[str, Any]", written), **given} if isinstance(written, dict) else written


def _explain(problem: Mapping[str, Any]) -> str:
    location = tuple(str(part) for part in problem["loc"])
    name = ".".join(part for part in location if part)  # the margin of the primary metric has no name
    if problem["type"] == "unexpected_keyword_argument":
        known = _known(location[:-1])
        near = get_close_matches(location[-1], known, n=1, cutoff=0.0)
        return f"unknown key {name!r}. Did you mean {near[0]!r}? Known here: {', '.join(known)}."
    found = problem["input"]
    if problem["type"] == "dataclass_type":
        return f"{name}: expected a section with {', '.join(_known(location))}, found {found!r}."
    if problem["type"] == "missing":
        return f"{name} is missing. Add it to the section."
    expected = str(problem["msg"]).removeprefix("Input should be ")
    return f"{name}: expected {expected}, found {found!r}."


def _known(section: tuple[str, ...]) -> list[str]:
    owner: Any = Config
    for part in section:
        sections = {"average": AverageConfig, "bn_update": BnUpdateConfig, "eval": EvalConfig}
        owner = {**dict.fromkeys(_TARGETS, TargetConfig), **sections}.get(part, owner)
    return list(owner.__dataclass_fields__)
