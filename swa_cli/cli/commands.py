"""The command lines of ``swa``, ``swa-average``, ``swa-bn-update`` and ``swa-eval``."""

import inspect
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, final

import typer
from typer.core import TyperCommand, TyperGroup

from swa_cli import __version__
from swa_cli.cli.average import average
from swa_cli.cli.bn_update import bn_update
from swa_cli.cli.demo import demo
from swa_cli.cli.ending import failed
from swa_cli.cli.evaluate import evaluate
from swa_cli.cli.inspect import inspect as inspect_command
from swa_cli.cli.run import run
from swa_cli.cli.verify import verify
from swa_cli.errors import OutputError, UsageError

_SETTINGS = {"help_option_names": ["-h", "--help"]}

COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": inspect_command,
    "average": average,
    "bn-update": bn_update,
    "eval": evaluate,
    "run": run,
    "verify": verify,
    "demo": demo,
}


@final
class _Command(TyperCommand):
    def main(self, *args: Any, standalone_mode: bool = True, **settings: Any) -> Any:
        return _ended(super().main, *args, **settings) if standalone_mode else super().main(*args, **settings)


@final
class _Group(TyperGroup):
    def main(self, *args: Any, standalone_mode: bool = True, **settings: Any) -> Any:
        return _ended(super().main, *args, **settings) if standalone_mode else super().main(*args, **settings)


def _ended(main: Callable[..., Any], *args: Any, **settings: Any) -> NoReturn:
    """Run a command line; what is wrong with it, or with printing its help, is one message like all others."""
    try:
        code = main(*args, **settings, standalone_mode=False)
    except OSError as error:
        code = failed(OutputError(f"cannot write to standard output: {error.strerror or error}."), debug=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        code = 2 if type(error).__name__ == "NoArgsIsHelpError" else failed(_explained(error), debug=False)
    sys.exit(code or 0)


def _explained(error: Any) -> UsageError:
    context = getattr(error, "ctx", None)
    hint = f" See {context.command_path} --help." if context else ""
    said = error.format_message().replace(": Value error, ", ": ", 1)  # pydantic's prefix, which typer passes on
    return UsageError(f"{said.rstrip('.')}.{hint}")


def _app() -> typer.Typer:
    # Our own errors end in `exit_on_error`; typer's coloured tracebacks would only print what is local to a frame.
    return typer.Typer(cls=_Group, context_settings=_SETTINGS, pretty_exceptions_enable=False)


def _help(command: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, for the terminal to break."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")


def _add(app: typer.Typer, name: str | None, command: Callable[..., None]) -> None:
    for parameter in inspect.signature(command).parameters.values():
        for option in getattr(parameter.annotation, "__metadata__", ()):
            option.readable = False  # whether a file can be read is found out, and said, where it is
    app.command(name, cls=_Command, help=_help(command))(command)


def _program(name: str) -> typer.Typer:
    app = _app()
    _add(app, None, COMMANDS[name])
    return app


def _print_version(wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


swa = _app()
for _name, _command in COMMANDS.items():
    _add(swa, _name, _command)

swa_average = _program("average")
swa_bn_update = _program("bn-update")
swa_eval = _program("eval")


@swa.callback(no_args_is_help=True)
def _describe(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Stochastic weight averaging for checkpoints: average, recompute BatchNorm statistics, compare honestly."""
    del version
