"""``swa-bn-update``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swa_cli.cli.ending import exit_on_error, only_results_on_stdout
from swa_cli.cli.options import ConfigFile, Data, DataArg, Debug, Device, Force, Key, Model, ModelArg, target_options
from swa_cli.cli.save_report import is_stdout, save
from swa_cli.cli.terminal import notify, say, show, track, warn

if TYPE_CHECKING:
    from swa_cli.pipeline.bn_update.step import BnUpdateResult

_STATISTICS, _BATCHES, _SPEED = "Statistics", "Batches", "Speed"


def bn_update(  # noqa: PLR0913
    swa: Annotated[
        Path | None,
        typer.Argument(metavar="SWA", help="The average, or any checkpoint of the model.", show_default=False),
    ] = None,
    *,
    model: Model = None,
    model_arg: ModelArg = None,
    data: Data = None,
    data_arg: DataArg = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of replacing the file.")
    ] = None,
    key: Key = None,
    estimator: Annotated[
        Literal["population", "torch", "official", "sequential"] | None,
        typer.Option(
            "--estimator",
            help="population (the default): mean and variance of all elements; torch, official: as update_bn and the "
            "SWA paper's code have them; sequential: population layer by layer, a pass for each.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    num_batches: Annotated[
        int | None,
        typer.Option("--num-batches", min=1, help="Use only so many batches.", rich_help_panel=_STATISTICS),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            "--num-samples",
            min=1,
            help="Use only so many samples, rounded up to whole batches.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    until_converged: Annotated[
        float | None,
        typer.Option(
            "--until-converged",
            metavar="TOL",
            help="Stop once the standard errors of all layers are at most this: of the mean in standard deviations, "
            "of the variance relative to itself.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    recalibrate_frozen: Annotated[
        bool | None,
        typer.Option(
            "--recalibrate-frozen",
            help="Also the layers whose statistics were the same in all checkpoints.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Instead of the training loader's own.", rich_help_panel=_BATCHES),
    ] = None,
    eval_transforms: Annotated[
        bool | None,
        typer.Option(
            "--eval-transforms",
            help="Training images as evaluation sees them, without augmentation, where the data module offers it.",
            rich_help_panel=_BATCHES,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=2**32 - 1,
            help="Of shuffling and augmentation (default: 0, and the loader's own generator as it is).",
            rich_help_panel=_BATCHES,
        ),
    ] = None,
    amp: Annotated[
        Literal["bf16", "fp16"] | None,
        typer.Option("--amp", help="Autocast to this dtype.", rich_help_panel=_SPEED),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option("--channels-last", help="Channels last in memory.", rich_help_panel=_SPEED),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile", help="Compile the model with torch.compile.", rich_help_panel=_SPEED),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write what became of each layer as JSON; - for standard output, without the table."
        ),
    ] = None,
    device: Device = None,
    force: Force = None,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Recompute the BatchNorm statistics of an average from the training data.

    By default one pass over train_dataloader(), with mean and variance of all elements, merged in float64. Only layers
    that keep statistics are in train mode. The file is replaced in place unless -o names another. Under torchrun
    (torchrun -m swa_cli bn-update) each process takes its share of the batches.
    """
    with exit_on_error(debug=debug):
        from swa_cli.config.load import load_config  # noqa: PLC0415  # torch is imported after --help
        from swa_cli.pipeline.bn_update.step import bn_update_step  # noqa: PLC0415
        from swa_cli.report.bn_update import layers_table, recalibration_report  # noqa: PLC0415

        flags = {
            "input": swa,
            "output": output,
            "key": key,
            "estimator": estimator,
            "num_batches": num_batches,
            "num_samples": num_samples,
            "until_converged": until_converged,
            "recalibrate_frozen": recalibrate_frozen,
            "batch_size": batch_size,
            "eval_transforms": eval_transforms,
            "seed": seed,
            "amp": amp,
            "channels_last": channels_last,
            "compile": compile_,
            "json": json,
            "device": device,
            "force": force,
        }
        sections = {
            "bn_update": flags,
            "model": target_options(model, model_arg),
            "data": target_options(data, data_arg),
        }
        options = load_config(config, sections)
        with only_results_on_stdout():
            result = bn_update_step(options, notify=notify, track=track)
        save_recalibration(result, options.bn_update.json)
        show_warnings(result)
        if result.recalibration and not is_stdout(options.bn_update.json):
            for line in recalibration_report(result.recalibration):
                say(line)
            show(layers_table(result.recalibration))
            say(f"Wrote {result.path}.")


def save_recalibration(result: "BnUpdateResult", json: Path | None) -> None:
    """Write or print the JSON, before anything else is printed."""
    from swa_cli.report.bn_update_json import recalibration_json  # noqa: PLC0415

    save(
        json,
        lambda: recalibration_json(result.path, result.recalibration, result.update, result.warnings),
        otherwise=f"The new statistics are in {result.path} all the same.",
    )


def show_warnings(result: "BnUpdateResult") -> None:
    """What the reader must know before the numbers."""
    from swa_cli.report.table import warning_panel  # noqa: PLC0415

    for warning in result.warnings:
        warn(warning_panel(warning))
