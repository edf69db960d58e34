"""The commands' parameters, derived from the fields of the configuration."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from swa_cli.cli.ending import exit_on_error
from swa_cli.config.option import Panel, flag
from swa_cli.config.settings import Setting, settings
from swa_cli.errors import UsageError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_File = Annotated[Path | None, typer.Option("--config", help="YAML file with any of these options; flags override it.")]
_RequiredFile = Annotated[Path, typer.Option("--config", help="YAML file with model, data and the three sections.")]

_PANELS = [None, *Panel]


def configured(
    *sections: str, only: Collection[str] | None = None, needs_file: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these sections, and call it with the resulting configuration.

    The command takes the configuration, and its own further options by keyword. Every failure ends in one message. An
    option that several sections have is set in all of them.

    Args:
        only: names of the keys to take; None for all.
        needs_file: the command does not run without ``--config``.
    """
    taken: dict[str, list[Setting]] = {}
    for section in sections:
        for setting in settings(section):
            if setting.flags and (only is None or setting.name in only):
                taken.setdefault(_name(setting), []).append(setting)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]

        @wraps(command)
        def run(*, config: Path | None, debug: bool, **given: Any) -> None:
            with exit_on_error(debug=debug):
                from swa_cli.config.load import load_config  # noqa: PLC0415  # yaml is imported after --help

                values = {name: _value(name, entries[0], given) for name, entries in taken.items()}
                options = load_config(config, _by_section(taken, values))
                command(options, **{parameter.name: given[parameter.name] for parameter in own})

        _set_signature(run, [entries[0] for entries in taken.values()], own, needs_file=needs_file)
        return run

    return decorate


def _name(setting: Setting) -> str:
    """Return the name of a parameter: the key, or the section's name for what a section imports."""
    return {"class_path": setting.section, "init_args": f"{setting.section}_arg"}.get(setting.name, setting.name)


def _set_signature(run: Any, taken: Sequence[Setting], own: Sequence[inspect.Parameter], *, needs_file: bool) -> None:
    shown = sorted(taken, key=lambda setting: (not setting.option.positional, _PANELS.index(setting.option.panel)))
    file = _keyword("config", _RequiredFile, inspect.Parameter.empty) if needs_file else _keyword("config", _File)
    run.__signature__ = inspect.Signature(
        [
            *([file] if needs_file else []),
            *(_keyword(_name(setting), _annotation(setting)) for setting in shown),
            *own,
            *([] if needs_file else [file]),
            _keyword("debug", Debug, default=False),
            *(_keyword(name, _hidden(setting, name)) for setting in taken for name in setting.option.former),
        ]
    )


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotation(setting: Setting) -> Any:
    option = setting.option
    if option.positional:
        argument = typer.Argument(metavar=option.metavar, help=option.help, show_default=False)
        return Annotated[setting.kind | None, argument]
    about = typer.Option(
        *setting.flags,
        help=option.help,
        metavar=option.metavar,
        min=setting.low,
        max=setting.high,
        rich_help_panel=option.panel,
        show_default=False,
    )
    return Annotated[setting.kind | None, about]


def _hidden(setting: Setting, name: str) -> Any:
    about = typer.Option(flag(name), min=setting.low, max=setting.high, hidden=True)
    return Annotated[setting.kind | None, about]


def _value(name: str, setting: Setting, given: Mapping[str, Any]) -> Any:
    """Return the value given by a flag or by one of its former names, or None."""
    values = {flag(each): given[each] for each in (name, *setting.option.former) if given[each] is not None}
    if len(values) > 1:
        msg = f"{' and '.join(values)} are names of the same option. Give one of them."
        raise UsageError(msg)
    return next(iter(values.values()), None)


def _by_section(taken: Mapping[str, Sequence[Setting]], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for name, entries in taken.items():
        for setting in entries:
            value = values[name]
            if setting.name == "init_args" and value:
                value = parse_arguments(value)
            sections.setdefault(setting.section, {})[setting.name] = value
    return sections


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse keyword arguments written as ``key=value``, with values in YAML.

    Raises:
        UsageError: one is not written so.
    """
    import yaml  # noqa: PLC0415  # not needed for --help

    from swa_cli.config.load import parse_yaml  # noqa: PLC0415

    parsed: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.isidentifier() or not equals:
            msg = f"cannot read the argument {argument!r}: expected key=value."
            raise UsageError(msg)
        try:
            parsed[name] = parse_yaml(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            msg = f"cannot read the argument {argument!r}: {' '.join(str(error).split())}"
            raise UsageError(msg) from error
    return parsed
