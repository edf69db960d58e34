"""``swa-bn-update``."""

from pathlib import Path
from typing import Annotated

import typer

from swa_cli.cli.options import ConfigFile, Data, DataArg, Debug, Device, Force, Key, Model, ModelArg, target_options
from swa_cli.cli.terminal import exit_on_error, notify, only_results_on_stdout, say, track


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
    num_batches: Annotated[
        int | None, typer.Option("--num-batches", min=1, help="Use only so many training batches.")
    ] = None,
    device: Device = None,
    force: Force = None,
    config: ConfigFile = None,
    debug: Debug = False,
) -> None:
    """Recompute the BatchNorm statistics of an average from the training data.

    One pass over train_dataloader(); mean and variance are pooled over all elements in float64. Only BatchNorm
    layers are in train mode. The file is replaced in place unless -o names another.
    """
    with exit_on_error(debug=debug):
        from swa_cli.config import load_config  # noqa: PLC0415  # torch is imported after --help
        from swa_cli.pipeline.bn_update import bn_update_step  # noqa: PLC0415
        from swa_cli.report.bn_update import recalibration_report  # noqa: PLC0415

        flags = {
            "input": swa,
            "output": output,
            "key": key,
            "num_batches": num_batches,
            "device": device,
            "force": force,
        }
        sections = {
            "bn_update": flags,
            "model": target_options(model, model_arg),
            "data": target_options(data, data_arg),
        }
        with only_results_on_stdout():
            result = bn_update_step(load_config(config, sections), notify=notify, track=track)
        if result.recalibration:
            for line in recalibration_report(result.recalibration):
                say(line)
            say(f"Wrote {result.path}.")
