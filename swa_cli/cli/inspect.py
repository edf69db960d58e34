"""``swa inspect``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from swa_cli.cli.ending import exit_on_error
from swa_cli.cli.options import ConfigFile, Debug, Key, selecting
from swa_cli.cli.terminal import notify, show, write


@selecting
def inspect(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Checkpoints: directories, files and patterns.", show_default=False),
    ] = None,
    *,
    key: Key = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    config: ConfigFile = None,
    debug: Debug = False,
    **selection: Any,
) -> None:
    """Show what checkpoints hold, in the order of averaging, and which of them each selection would pick.

    Container, place of the weights, step, metrics, tensors and copies, from the headers alone. With --config, it is
    the section average: that says what is looked at.
    """
    with exit_on_error(debug=debug):
        from swa_cli.config.load import load_config  # noqa: PLC0415  # not needed for --help
        from swa_cli.pipeline.inspect import check_inspection, inspect_step  # noqa: PLC0415
        from swa_cli.report.inspect import inspection_report  # noqa: PLC0415
        from swa_cli.report.inspect_json import inspection_json  # noqa: PLC0415

        options = load_config(config, {"average": {"sources": paths, "key": key, **selection}}).average
        inspection = inspect_step(options, notify=notify)
        if json:
            write(inspection_json(inspection))
        else:
            show(inspection_report(inspection))
        check_inspection(inspection)
