"""``swa-bn-update``."""

from pathlib import Path
from typing import TYPE_CHECKING

from swa_cli.cli.ending import only_results_on_stdout
from swa_cli.cli.parameters import configured
from swa_cli.cli.save_report import is_stdout, save
from swa_cli.cli.terminal import notify, say, show, track, warn
from swa_cli.config.schema import Config

if TYPE_CHECKING:
    from swa_cli.pipeline.bn_update.step import BnUpdateResult


@configured("bn_update", "model", "data")
def bn_update(config: Config) -> None:
    """Recompute the BatchNorm statistics of an average from the training data.

    By default one pass over train_dataloader(), with mean and variance of all elements, merged in float64. Only layers
    that keep statistics are in train mode. The file is replaced unless -o names another. Under torchrun (torchrun -m
    swa_cli bn-update) the processes share the batches.
    """
    from swa_cli.pipeline.bn_update.step import bn_update_step  # noqa: PLC0415  # torch is imported after --help
    from swa_cli.report.bn_update import layers_table, recalibration_report  # noqa: PLC0415

    with only_results_on_stdout():
        result = bn_update_step(config, notify=notify, track=track)
    save_recalibration(result, config.bn_update.json)
    show_warnings(result)
    if result.recalibration and not is_stdout(config.bn_update.json):
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
        otherwise=f"The new statistics were written to {result.path}.",
    )


def show_warnings(result: "BnUpdateResult") -> None:
    """Print the warnings, which stand before the numbers."""
    from swa_cli.report.table import warning_panel  # noqa: PLC0415

    for warning in result.warnings:
        warn(warning_panel(warning))
