"""The fields of the configuration, one by one, as commands, reference pages and messages need them."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, final, get_args, get_origin

from pydantic.fields import FieldInfo

from swa_cli.config.option import Gathered, ImportOption, Option, TakenAs, flag
from swa_cli.config.schema import Config

_LARGEST = 2**53
"""A larger bound only keeps numbers to those of the machine."""


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of a section.

    Attributes:
        kind: the type that a flag takes: str, int, float, bool, Path, a Literal, or a list of one of these.
        field: of the section's class; another than the name if it gathers several keys.
        low, high: the least and the greatest integer allowed, if any.
    """

    section: str
    name: str
    option: Option
    kind: Any
    field: str
    low: int | None = None
    high: int | None = None
    default: object = None

    @property
    def key(self) -> str:
        """Its place in a configuration, as ``average.last``."""
        return f"{self.section}.{self.name}"

    @property
    def flags(self) -> tuple[str, ...]:
        """How it is given on a command line; the name of its values if they take no flag, nothing if it has none."""
        if self.option.in_file_only:
            return ()
        if self.option.positional:
            return (self.option.metavar or self.name.upper(),)
        if self.default is True:
            return (f"{flag(self.name)}/{flag(f'no_{self.name}')}",)
        return self.option.flags or (flag(self.name),)


@cache
def sections() -> dict[str, type]:
    """The sections of a configuration, each with the class that has its fields."""
    return {entry.name: _bare(entry.type)[0] for entry in fields(Config)}


@cache
def settings(section: str) -> tuple[Setting, ...]:
    """All keys of a section, in the order of its class, those of a base class last."""
    whole = next(entry for entry in fields(Config) if entry.name == section)
    kind, metadata = _bare(whole.type)
    for about in metadata:
        if isinstance(about, ImportOption):
            return tuple(_target(section, about))
    return fields_of(section, kind)


def fields_of(section: str, kind: type) -> tuple[Setting, ...]:
    """The keys of a section, given the class that has its fields."""
    own = vars(kind).get("__annotations__", {})
    ordered = sorted(fields(cast("Any", kind)), key=lambda entry: entry.name not in own)
    return tuple(setting for entry in ordered for setting in _settings_of(section, entry))


def _target(section: str, about: ImportOption) -> Iterator[Setting]:
    name = Option(help=about.help, flags=(flag(section),), panel=about.panel)
    arguments = Option(help=about.arguments, flags=(f"{flag(section)}-arg",), panel=about.panel)
    yield Setting(section=section, name="class_path", field="class_path", option=name, kind=str)
    yield Setting(section=section, name="init_args", field="init_args", option=arguments, kind=list[str])


def _settings_of(section: str, entry: Field[Any]) -> Iterator[Setting]:
    kind, metadata = _bare(entry.type)
    for about in metadata:
        if isinstance(about, Option):
            yield _setting(section, entry, about)
        elif isinstance(about, Gathered):
            each, _ = _bare(get_args(kind)[1])
            for name, option in about.options.items():
                yield Setting(section=section, name=name, option=option, kind=each, field=entry.name)


def _setting(section: str, entry: Field[Any], option: Option) -> Setting:
    kind, metadata = _bare(entry.type)
    taken = next((about.kind for about in metadata if isinstance(about, TakenAs)), _of_flag(kind))
    low, high = _bounds(metadata) if taken is int else (None, None)
    return Setting(
        section=section,
        name=entry.name,
        option=option,
        kind=taken,
        low=low,
        high=high,
        field=entry.name,
        default=entry.default if entry.default_factory is MISSING else entry.default_factory(),
    )


def _bare(annotation: Any) -> tuple[Any, list[Any]]:
    """Return a type without ``| None`` and without metadata, and the metadata."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        kind, more = _bare(inner)
        return kind, [*metadata, *more]
    if get_origin(annotation) in {Union, UnionType}:
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        if len(kinds) == 1:
            return _bare(kinds[0])
    return annotation, []


def _of_flag(kind: Any) -> Any:
    """Return the type that a flag takes: a list, for a flag that can be repeated, where the field is a tuple."""
    return list[_bare(get_args(kind)[0])[0]] if get_origin(kind) is tuple else kind


def _bounds(metadata: list[Any]) -> tuple[int | None, int | None]:
    """Return the least and the greatest integer that are allowed."""
    limits = {
        name: value
        for about in metadata
        if isinstance(about, FieldInfo)
        for limit in about.metadata
        for name, value in asdict(limit).items()
    }
    low = limits.get("ge", limits["gt"] + 1 if "gt" in limits else None)
    high = limits.get("le", limits["lt"] - 1 if "lt" in limits else None)
    return _shown(low), _shown(high)


def _shown(bound: int | None) -> int | None:
    return None if bound is None or abs(bound) > _LARGEST else bound
