"""``swa-eval``."""

from functools import partial
from typing import TYPE_CHECKING

import typer

from swa_cli.cli.ending import only_results_on_stdout
from swa_cli.cli.parameters import configured
from swa_cli.cli.save_report import is_stdout, save
from swa_cli.cli.terminal import notify, say, show, track, warn
from swa_cli.config.reporters import REPORTERS
from swa_cli.config.schema import Config, EvalConfig

if TYPE_CHECKING:
    from swa_cli.evaluation import EvaluationResult

NOT_SHIPPED = 3
"""Exit code if ``--fail-unless`` is not met."""


@configured("eval", "model", "data", "task")
def evaluate(config: Config) -> None:
    """Compare an average with each checkpoint and with their ensembles, and say whether to ship it.

    Runs all models in one pass over the data, and shows their scores and the differences with 95 % intervals. Under
    torchrun (torchrun -m swa_cli eval) the processes share the batches.
    """
    from swa_cli.pipeline.evaluation.step import eval_step  # noqa: PLC0415  # torch is imported after --help

    with only_results_on_stdout():
        result = eval_step(config, notify=notify, track=track)
    if result:
        save_reports(result, config.eval)
        show_evaluation(result, config.eval)
        check_verdict(result, config.eval)


def save_reports(result: "EvaluationResult", options: EvalConfig) -> None:
    """Write the files before anything is printed, so that a broken terminal cannot lose them."""
    for name, path in options.reports.items():
        save(path, partial(REPORTERS[name].render, result))


def has_stdout(options: EvalConfig) -> bool:
    """Return whether one of the reports goes to standard output, which then has nothing else."""
    return any(map(is_stdout, options.reports.values()))


def show_evaluation(result: "EvaluationResult", options: EvalConfig) -> None:
    """Print tables and sentences; only the warnings if a report goes to standard output."""
    from swa_cli.report.summary_sentences import sentences  # noqa: PLC0415
    from swa_cli.report.table import evaluation_table, further_tables, warning_panels  # noqa: PLC0415
    from swa_cli.report.verdict_sentence import final_sentence  # noqa: PLC0415

    for panel in warning_panels(result):
        warn(panel)
    if has_stdout(options):
        return
    for table in (evaluation_table(result), *further_tables(result)):
        show(table)
    for sentence in (*sentences(result), final_sentence(result)):
        say(sentence)


def check_verdict(result: "EvaluationResult", options: EvalConfig) -> None:
    """Exit with code 3 if the verdict is not what ``--fail-unless`` asks for.

    Raises:
        typer.Exit: it is not.
    """
    wanted = {"better": ("better",), "non-inferior": ("better", "non-inferior")}
    if options.fail_unless and result.decision.verdict not in wanted[options.fail_unless]:
        notify(f"the verdict is {result.decision.verdict}, not {options.fail_unless}: exit code {NOT_SHIPPED}.")
        raise typer.Exit(NOT_SHIPPED)
