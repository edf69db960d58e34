"""``swa inspect``."""

from dataclasses import fields
from typing import Annotated

import typer

from swa_cli.cli.parameters import configured
from swa_cli.cli.terminal import notify, show, write
from swa_cli.config.schema import Config, SelectionConfig


@configured("average", only=("sources", "key", *(field.name for field in fields(SelectionConfig))))
def inspect(
    config: Config, *, json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False
) -> None:
    """Show what checkpoints contain, in the order of averaging, and which of them each selection would take.

    Reads only the headers: container, key of the weights, step, metrics, tensors, duplicates. With --config, the
    section "average" names the checkpoints.
    """
    from swa_cli.pipeline.inspect import check_inspection, inspect_step  # noqa: PLC0415  # not needed for --help
    from swa_cli.report.inspect import inspection_report  # noqa: PLC0415
    from swa_cli.report.inspect_json import inspection_json  # noqa: PLC0415

    inspection = inspect_step(config.average, notify=notify)
    if json:
        write(inspection_json(inspection))
    else:
        show(inspection_report(inspection))
    check_inspection(inspection)
