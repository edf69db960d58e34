"""``swa verify``."""

from pathlib import Path
from typing import Annotated

import typer

from swa_cli.cli.ending import exit_on_error
from swa_cli.cli.parameters import Debug
from swa_cli.cli.terminal import say, track


def verify(
    swa: Annotated[Path, typer.Argument(metavar="SWA", help="The average: a file, or a directory of shards.")],
    *,
    sources: Annotated[
        Path | None,
        typer.Option(
            "--sources",
            help="Directory of the sources, if they were moved or are not below the directory of the average.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Path of the state_dict inside the average, such as model.ema.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, or auto.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=256, help="Worker threads (default: one per core, at most 8)."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Recompute an average from its recorded sources, and compare it bit for bit.

    Exits with code 1 if a tensor of the average or of a source has changed.
    """
    with exit_on_error(debug=debug, flags={"sources": "--sources"}):
        from swa_cli.pipeline.verify import verify_step  # noqa: PLC0415  # not needed for --help
        from swa_cli.report.verify import verification_report  # noqa: PLC0415

        result = verify_step(swa, sources=sources, key=key, device=device, threads=threads, track=track)
        for line in verification_report(result):
            say(line)
