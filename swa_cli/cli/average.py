"""``swa-average``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from swa_cli.cli.ending import exit_on_error
from swa_cli.cli.options import ConfigFile, Debug, Force, Key, Threads, selecting
from swa_cli.cli.terminal import caution, notify, say, show, track


@selecting
def average(  # noqa: PLR0913
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCES", help="Checkpoints: directories, files and glob patterns.", show_default=False
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="What to write: .safetensors, a torch file (.pt, .pth, .ckpt, .bin), or a directory.",
            show_default=False,
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", help="Write the average in the structure of this checkpoint, so that the same code loads it."
        ),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            "--max-shard-size", help="Write a directory of shards of this size at most, as 5GB, and an index."
        ),
    ] = None,
    key: Key = None,
    dtype: Annotated[
        Literal["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] | None,
        typer.Option("--dtype", help="Of the floating tensors written; by default, as stored."),
    ] = None,
    integers: Annotated[
        Literal["agree", "last", "first", "mean-round"] | None,
        typer.Option("--integers", help="Integers and bools: must agree (the default), or what is taken instead."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="How much each checkpoint counts, oldest first: 1,1,2; by default all the same."
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option("--ema", help="Weights of an exponential moving average with this decay, as 0.9, instead."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="cpu, cuda, cuda:1, or auto (the default): the CPU, unless there is very much to read and a trial "
            "shows CUDA to be faster.",
        ),
    ] = None,
    threads: Threads = None,
    dry_run: Annotated[bool | None, typer.Option("--dry-run", help="Print the plan and write nothing.")] = None,
    force: Force = None,
    allow_nonfinite: Annotated[
        bool | None, typer.Option("--allow-nonfinite", help="Average NaN and infinity like any number.")
    ] = None,
    checksum: Annotated[
        bool | None, typer.Option("--checksum", help="Also take the SHA-256 of every file that is averaged.")
    ] = None,
    config: ConfigFile = None,
    debug: Debug = False,
    **selection: Any,
) -> None:
    """Average the checkpoints of a run, with equal weights unless told otherwise.

    Reads .safetensors, sharded ones (*.index.json), and torch .pt, .pth, .ckpt, .pth.tar and .bin files, piece by
    piece. Every floating tensor is summed in float64 and rounded once; integers must agree.
    """
    with exit_on_error(debug=debug):
        from swa_cli.config.load import load_config  # noqa: PLC0415  # torch is imported after --help
        from swa_cli.pipeline.average import average_step, dry_run_step  # noqa: PLC0415
        from swa_cli.report.average import average_report, plan_report  # noqa: PLC0415

        flags = {
            "sources": sources,
            "output": output,
            "like": like,
            "max_shard_size": max_shard_size,
            **selection,
            "key": key,
            "dtype": dtype,
            "integers": integers,
            "weights": weights,
            "ema": ema,
            "device": device,
            "threads": threads,
            "dry_run": dry_run,
            "force": force,
            "allow_nonfinite": allow_nonfinite,
            "checksum": checksum,
        }
        options = load_config(config, {"average": flags}).average
        if options.dry_run:
            show(plan_report(*dry_run_step(options, notify=notify)))
            return
        result = average_step(options, notify=notify, track=track)
        for line in average_report(result):
            say(line)
        for warning in result.warnings:
            caution(warning)
