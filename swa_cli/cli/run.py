"""``swa run``."""

from typing import TYPE_CHECKING

from swa_cli.cli.bn_update import save_recalibration, show_warnings
from swa_cli.cli.ending import only_results_on_stdout
from swa_cli.cli.evaluate import check_verdict, has_stdout, save_reports, show_evaluation
from swa_cli.cli.parameters import configured
from swa_cli.cli.terminal import caution, notify, say, track
from swa_cli.config.schema import Config, EvalConfig

if TYPE_CHECKING:
    from swa_cli.pipeline.run import PipelineResult


@configured("bn_update", "average", "eval", only=("device", "force"), needs_file=True)
def run(config: Config) -> None:
    """Average, recompute BatchNorm statistics and evaluate, from one configuration."""
    from swa_cli.pipeline.run import run_pipeline  # noqa: PLC0415  # torch is imported after --help

    with only_results_on_stdout():
        result = run_pipeline(config, notify=notify, track=track)
    save_recalibration(result.bn_update, config.bn_update.json)
    show_steps(result, config.eval)
    check_verdict(result.evaluation, config.eval)


def show_steps(result: "PipelineResult", options: EvalConfig) -> None:
    """Write the evaluation's files and print the results of the three steps, unless a file is standard output."""
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
