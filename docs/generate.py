"""Write the generated parts of the pages in docs from the code.

    python docs/generate.py            write them
    python docs/generate.py --check    exit with 1 if one is stale

A page holds a generated part between two comments, ``<!-- generated: NAME -->`` and ``<!-- /generated -->``. The text
around it is written by hand.
"""

import argparse
import ast
import inspect
import re
import sys
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from swa_cli import errors
from swa_cli.cli.commands import COMMANDS
from swa_cli.config.schema import AverageConfig, BnUpdateConfig, Config, EvalConfig
from swa_cli.config.settings import settings
from swa_cli.formats import READERS

DOCS = Path(__file__).parent
SECTIONS = {"average": AverageConfig, "bn_update": BnUpdateConfig, "eval": EvalConfig}
SECTION_OF_COMMAND = {"inspect": "average", "average": "average", "bn-update": "bn_update", "eval": "eval"}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def sentence(text: str) -> str:
    return " ".join(text.split())


def cli() -> str:
    """Every command with every argument and option, its value, default and help."""
    return "\n\n".join(_command(name, command) for name, command in COMMANDS.items())


def _command(name: str, command: Callable[..., None]) -> str:
    section = SECTION_OF_COMMAND.get(name)
    programs = [f"swa {name}", *([f"swa-{name}"] if name in {"average", "bn-update", "eval"} else [])]
    parts = [f"## swa {name}", inspect.getdoc(command) or "", f"Run as {' or '.join(f'`{it}`' for it in programs)}."]
    panels: dict[str, list[list[str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        if (info := _info(parameter)) and not info.hidden:
            panels.setdefault(info.rich_help_panel or "Options", []).append(_row(parameter, info, section))
    for panel, rows in panels.items():
        parts += [f"**{panel}**", table(("option", "value", "default", "what it does"), rows)]
    return "\n\n".join(parts)


def _info(parameter: inspect.Parameter) -> ParameterInfo | None:
    found = [it for it in getattr(parameter.annotation, "__metadata__", ()) if isinstance(it, ParameterInfo)]
    return found[0] if found else None


def _row(parameter: inspect.Parameter, info: ParameterInfo, section: str | None) -> list[str]:
    kind = _without_none(parameter.annotation.__origin__)
    default = parameter.default
    if default is None and section:
        default = _defaults(section).get(parameter.name)
    required = parameter.default is inspect.Parameter.empty
    return [_spelling(parameter, info), _value(kind, info), "required" if required else _shown(default), _help(info)]


def _spelling(parameter: inspect.Parameter, info: ParameterInfo) -> str:
    if isinstance(info, ArgumentInfo):
        return f"`{info.metavar or parameter.name.upper()}`"
    assert isinstance(info, OptionInfo)
    names = (info.default, *(info.param_decls or ()))  # in Annotated, the first name is where a default would be
    return ", ".join(f"`{name}`" for name in names if isinstance(name, str))


def _value(kind: Any, info: ParameterInfo) -> str:
    if get_origin(kind) is list:
        return f"{_value(get_args(kind)[0], info)}, repeatable"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{it}`" for it in get_args(kind))
    if info.metavar and isinstance(info, OptionInfo):
        return f"`{info.metavar}`"
    words = {bool: "switch", int: "integer", float: "number", str: "text", Path: "path"}[kind]
    low, high = info.min, info.max
    return words + (f", {low:,} to {high:,}" if high is not None else f", at least {low}" if low is not None else "")


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in {Union, types.UnionType}:
        return next(it for it in get_args(kind) if it is not type(None))
    return kind


def _help(info: ParameterInfo) -> str:
    return sentence(info.help or "")


def _defaults(section: str) -> Mapping[str, object]:
    return vars(SECTIONS[section]())


def _shown(value: object) -> str:
    if value is None or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return "on" if value else ""
    return f"`{value}`"


_PATH = {"type": "string", "format": "path"}
"""The keys that one field gathers are all of files to write."""


def config() -> str:
    """Every section of a configuration with every key."""
    schema = TypeAdapter(Config).json_schema()
    parts: list[str] = []
    for name, section in SECTIONS.items():
        keys = schema["$defs"][section.__name__]["properties"]
        rows = [
            [
                f"`{setting.name}`",
                _described(keys.get(setting.name, _PATH)),
                _default_of(keys.get(setting.name, _PATH)),
                ", ".join(f"`{flag}`" for flag in setting.flags),
                sentence(setting.option.help),
            ]
            for setting in settings(name)
        ]
        parts += [f"### {name}", table(("key", "value", "default", "option", "what it does"), rows)]
    return "\n\n".join(parts)


def _described(spec: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in spec:
        return " or ".join(_described(it) for it in spec["anyOf"] if it.get("type") != "null")
    if "enum" in spec or "const" in spec:
        return ", ".join(f"`{it}`" for it in spec.get("enum", [spec.get("const")]))
    kind = spec.get("type")
    if kind == "array":
        return f"list of {_plural(_described(spec['items']))}"
    if kind == "object":
        return "mapping"
    if spec.get("format") == "path":
        return "path"
    words = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true`, `false`"}[str(kind)]
    return words + _bounds(spec)


def _plural(words: str) -> str:
    return {"path": "paths", "text": "texts", "number": "numbers"}.get(words, words.replace("integer", "integers"))


_BEYOND = 2**53
"""Bounds larger than this are those of the machine's integers, and say nothing to a reader."""


def _bounds(spec: Mapping[str, Any]) -> str:
    low = spec.get("minimum", spec.get("exclusiveMinimum"))
    high = spec.get("maximum", spec.get("exclusiveMaximum"))
    if spec["type"] == "integer" and "exclusiveMinimum" in spec:
        low = spec["exclusiveMinimum"] + 1
    words = "at least" if "minimum" in spec or spec["type"] == "integer" else "above"
    shown = f", {words} {low}" if low is not None and abs(low) < _BEYOND else ""
    if high is None or high >= _BEYOND:
        return shown
    return f"{shown}, {'below' if 'exclusiveMaximum' in spec else 'at most'} {high:,}"


def _default_of(spec: Mapping[str, Any]) -> str:
    value = spec.get("default")
    return f"`{str(value).lower()}`" if isinstance(value, bool) else _shown(value if value != [] else None)


def exit_codes() -> str:
    """Every kind of error with its exit code."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SwaError)]
    rows = [
        [str(kind.exit_code), f"`{kind.__name__}`", sentence(kind.__doc__ or "").partition(" Args:")[0]]
        for kind in sorted(kinds, key=lambda kind: (kind.exit_code, kind.__name__))
        if kind is not errors.SwaError
    ]
    return table(("exit code", "error", "meaning"), rows)


def formats() -> str:
    """The layouts of checkpoints that are read, in the words of their readers."""
    rows = [
        [
            reader.name,
            reader.description,
            reader.written_by,
            reader.kept,
            ", ".join(f"`{it}`" for it in reader.suffixes),
        ]
        for reader in READERS
    ]
    return table(("format", "what it is", "written by", "what is read beside the weights", "files"), rows)


def packages() -> str:
    """The layers of the import contract from the top down, and what each package holds, in its own words."""
    contract = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(one["layers"] for one in contract["contracts"] if one["type"] == "layers")
    rows = [
        [str(number), f"`{name}`", _first_line(DOCS.parent.joinpath(*name.split(".")))]
        for number, layer in enumerate(layers, start=1)
        for name in layer.split(" | ")
    ]
    return table(("layer", "package", "what it holds"), rows)


def _first_line(module: Path) -> str:
    """What the docstring of a package or a module begins with."""
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


PARTS: dict[str, Callable[[], str]] = {
    "cli": cli,
    "config": config,
    "exit-codes": exit_codes,
    "formats": formats,
    "packages": packages,
}
_PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def generated(page: str) -> str:
    """Return a page with its generated parts as the code gives them now."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", page)


def stale() -> dict[Path, str]:
    """The pages that are not as the code gives them, each with what it should hold."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
    return {path: new for path, page in pages.items() if (new := generated(page)) != page}


def main() -> int:
    """Write the generated parts, or check them."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    check = parser.parse_args().check
    found = stale()
    for path, page in found.items():
        if not check:
            path.write_text(page, encoding="utf-8")
        sys.stdout.write(f"{'stale' if check else 'wrote'}: {path.relative_to(DOCS.parent)}\n")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
