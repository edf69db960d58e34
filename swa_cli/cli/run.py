"""``swa run``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swa_cli.cli.bn_update import save_recalibration, show_warnings
from swa_cli.cli.ending import exit_on_error, only_results_on_stdout
from swa_cli.cli.evaluate import check_verdict, has_stdout, save_reports, show_evaluation
from swa_cli.cli.options import Debug, Device, Force
from swa_cli.cli.terminal import caution, notify, say, track

if TYPE_CHECKING:
    from swa_cli.config.schema import EvalConfig
    from swa_cli.pipeline.run import PipelineResult


def run(
    *,
    config: Annotated[Path, typer.Option("--config", help="YAML file with model, data and the three sections.")],
    device: Device = None,
    force: Force = None,
    debug: Debug = False,
) -> None:
    """Average, recompute BatchNorm statistics and evaluate, in one go, from one configuration."""
    with exit_on_error(debug=debug):
        from swa_cli.config.load import load_config  # noqa: PLC0415  # torch is imported after --help
        from swa_cli.pipeline.run import run_pipeline  # noqa: PLC0415

        sections = {
            "average": {"device": device, "force": force},
            "bn_update": {"device": device, "force": force},
            "eval": {"device": device},
        }
        options = load_config(config, sections)
        with only_results_on_stdout():
            result = run_pipeline(options, notify=notify, track=track)
        save_recalibration(result.bn_update, options.bn_update.json)
        show_steps(result, options.eval)
        check_verdict(result.evaluation, options.eval)


def show_steps(result: "PipelineResult", options: "EvalConfig") -> None:
    """Write the evaluation's files, and print what each of the three steps gave, unless a file is standard output."""
    from swa_cli.report.average import average_report  # noqa: PLC0415
    from swa_cli.report.bn_update import recalibration_report  # noqa: PLC0415

    save_reports(result.evaluation, options)
    if not has_stdout(options):
        say(next(iter(average_report(result.average))))
        if result.bn_update.recalibration:
            for line in recalibration_report(result.bn_update.recalibration):
                say(line)
    for warning in result.average.warnings:
        caution(warning)
    show_warnings(result.bn_update)
    show_evaluation(result.evaluation, options)
