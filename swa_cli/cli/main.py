"""The programs: ``swa`` with its commands, and ``swa-average``, ``swa-bn-update``, ``swa-eval``."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated

import typer

from swa_cli import __version__
from swa_cli.cli.average import average
from swa_cli.cli.bn_update import bn_update
from swa_cli.cli.demo import demo
from swa_cli.cli.evaluate import evaluate
from swa_cli.cli.inspect import inspect as inspect_command
from swa_cli.cli.run import run
from swa_cli.cli.verify import verify

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


def _app() -> typer.Typer:
    # Our own errors end in `exit_on_error`; typer's coloured tracebacks would only print what is local to a frame.
    return typer.Typer(context_settings=_SETTINGS, pretty_exceptions_enable=False)


def _help(command: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, for the terminal to break."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")


def _program(name: str) -> typer.Typer:
    app = _app()
    app.command(help=_help(COMMANDS[name]))(COMMANDS[name])
    return app


def _print_version(wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


swa = _app()
for _name, _command in COMMANDS.items():
    swa.command(_name, help=_help(_command))(_command)

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
