"""What is wrong with a configuration, in a line that names the key."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from swa_cli.config.pydantic_errors import mismatch
from swa_cli.config.settings import sections, settings
from swa_cli.errors import cut, option

_SHOWN = 60
"""Characters of a wrong value or an unknown key."""


def unpartnered(problem: Mapping[str, Any], in_file: Collection[str]) -> str | None:
    """The message for arguments of a model where neither a flag nor the file names one; None for other problems."""
    if problem["type"] != "missing" or (section := problem["loc"][0]) in in_file:
        return None
    return (
        f"{option(f'{section}.init_args')} is given without {option(section)}. Name with {option(section)} what takes "
        "the arguments."
    )


def explain(problem: Mapping[str, Any]) -> str:
    """Return one of ``ValidationError.errors()`` in words."""
    location = _key(tuple(str(part) for part in problem["loc"]))
    if problem["type"] == "string_unicode":  # a key with a lone surrogate, which pydantic does not take for a key
        location = (*location, problem["input"])
    name = ".".join(location)
    if problem["type"] in {"unexpected_keyword_argument", "string_unicode"}:
        known = _known(location[:-1])
        near = get_close_matches(location[-1], known, n=1, cutoff=0.0)
        return f"unknown key {cut(repr(name), _SHOWN)}. Did you mean {near[0]!r}? Known here: {', '.join(known)}."
    if problem["type"] == "dataclass_type":
        found = cut(repr(problem["input"]), _SHOWN)
        return f"{name}: expected a section with {', '.join(_known(location))}, found {found}."
    if problem["type"] == "missing":
        return f"{name} is missing. Add it to the section."
    return f"{name.removesuffix('.')}: {mismatch(problem)}."  # the margin of the primary metric has no name


def _key(location: tuple[str, ...]) -> tuple[str, ...]:
    """Return the place of a key: without the field that gathers it with others."""
    if len(location) > 2 and location[0] in sections():  # noqa: PLR2004  # the section, the field, the key
        for setting in settings(location[0]):
            if setting.field == location[1] != setting.name:
                return (location[0], *location[2:])
    return location


def _known(section: tuple[str, ...]) -> list[str]:
    if not section:
        return list(sections())
    of_imports = section[:2] == ("eval", "metrics") or section[0] not in sections()
    return [setting.name for setting in settings("model" if of_imports else section[0])]
