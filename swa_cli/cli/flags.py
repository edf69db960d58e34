"""How messages name options on a command line: by their flags."""

import shlex
from collections.abc import Mapping
from functools import cache, partial
from typing import cast

from swa_cli.config.option import flag
from swa_cli.config.settings import sections, settings
from swa_cli.errors import Spelling


def flags_of(own: Mapping[str, str] | None = None) -> Spelling:
    """Return how the command that runs spells options.

    Args:
        own: flags that it has beside those of the configuration, by their fields.

    >>> flags_of()("from_step", 100, None), flags_of()("exclude", "*.tmp", None), flags_of()("best_by_val", False, None)
    ('--from 100', "--exclude '*.tmp'", '--no-best-by-val')
    >>> flags_of()("ignore_index", 255, "task"), flags_of({"sources": "--sources"})("sources", "a/b", None)
    ('--task-arg ignore_index=255', '--sources a/b')
    """
    return partial(_as_flag, own or {})


def _as_flag(own: Mapping[str, str], name: str, value: object, of: str | None) -> str:
    if of:
        text = str(value).lower() if isinstance(value, bool) else str(value)  # as YAML has it
        return f"{flag(of)}-arg {name}={'...' if value is None else shlex.quote(text)}"
    known = own.get(name) or _known().get(name) or flag(name)
    if isinstance(value, bool):
        return known.partition("/")[0] if value else flag(f"no_{name}")
    return known if value is None else f"{known} {_text(value)}"


def _text(value: object) -> str:
    parts = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
    return shlex.quote(",".join(map(str, parts)))


@cache
def _known() -> dict[str, str]:
    """The flag of each field and each key; a key that has none stands for itself."""
    known = {section: flag(section) for section in sections()}
    for section in sections():
        for setting in settings(section):
            name = setting.flags[0] if setting.flags else setting.key
            known[setting.key] = name
            known.setdefault(setting.name, name)
    return known
