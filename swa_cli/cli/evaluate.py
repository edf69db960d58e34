"""``swa-eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from swa_cli.cli.ending import exit_on_error, only_results_on_stdout
from swa_cli.cli.options import (
    ConfigFile,
    Data,
    DataArg,
    Debug,
    Device,
    Key,
    Model,
    ModelArg,
    selecting,
    target_options,
)
from swa_cli.cli.save_report import is_stdout, save
from swa_cli.cli.terminal import notify, say, show, track, warn

if TYPE_CHECKING:
    from swa_cli.config.schema import EvalConfig
    from swa_cli.evaluation import EvaluationResult

NOT_SHIPPED = 3
"""Exit code where ``--fail-unless`` is not met."""

_TASK, _ROWS, _DECISION = "Task", "Rows", "Decision"
_SPEED, _FILES = "Speed", "Files"


@selecting
def evaluate(  # noqa: PLR0913
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CKPTS", help="The members: directories, files, patterns.", show_default=False),
    ] = None,
    *,
    swa: Annotated[Path | None, typer.Option("--swa", help="The average.", show_default=False)] = None,
    model: Model = None,
    model_arg: ModelArg = None,
    data: Data = None,
    data_arg: DataArg = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="classification, multilabel, regression, segmentation, nodes, causal_lm, or file.py:Name. By default "
            "auto: classification or segmentation, if the shapes of batch and output say so.",
            rich_help_panel=_TASK,
        ),
    ] = None,
    task_arg: Annotated[
        list[str] | None,
        typer.Option("--task-arg", help="key=value, as ignore_index=255 or top_k=[5].", rich_help_panel=_TASK),
    ] = None,
    compare_ensemble: Annotated[
        bool | None,
        typer.Option(
            "--compare-ensemble",
            help="Add the ensemble, the mean of all members' probabilities, and the geometric one, of their logits.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    best_by_val: Annotated[
        bool | None,
        typer.Option(
            "--best-by-val/--no-best-by-val",
            help="Add the checkpoint that is the best on validation data (the default), a pass more.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    control: Annotated[
        bool | None,
        typer.Option(
            "--control",
            help="Add the last checkpoint with recomputed BatchNorm statistics: what of the gain is not averaging.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    curve: Annotated[
        str | None,
        typer.Option(
            "--curve",
            metavar="K1,K2,…|log",
            help="Averages of the last K on validation data, each with its own statistics; the best is added.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    greedy: Annotated[
        bool | None,
        typer.Option("--greedy", help="Add the greedy soup, chosen on validation data.", rich_help_panel=_ROWS),
    ] = None,
    split: Annotated[
        Literal["test", "val", "train"] | None,
        typer.Option("--split", help="By default test where the data module has it, else val."),
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin",
            metavar="[METRIC=]LOSS",
            help="The loss that you accept, in the table's unit (points, for accuracy); without "
            "METRIC, by the score that decides.",
            rich_help_panel=_DECISION,
        ),
    ] = None,
    fail_unless: Annotated[
        Literal["better", "non-inferior"] | None,
        typer.Option(
            "--fail-unless",
            help=f"End with exit code {NOT_SHIPPED} unless the verdict is that, or better.",
            rich_help_panel=_DECISION,
        ),
    ] = None,
    amp: Annotated[
        Literal["bf16", "fp16"] | None, typer.Option("--amp", help="Autocast to that.", rich_help_panel=_SPEED)
    ] = None,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last", help="Channels last in memory.", rich_help_panel=_SPEED)
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile", help="torch.compile, once for all members.", rich_help_panel=_SPEED),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            help="Models in memory side by side; by default as many as half of the free memory holds.",
            min=1,
            rich_help_panel=_SPEED,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            help="Folder for outputs, which are used again for the same weights and data.",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    key: Key = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Write the result as JSON; - for standard output, without the table.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write all scores of all rows as CSV.", rich_help_panel=_FILES)
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", help="Write the report, as it goes into a pull request.", rich_help_panel=_FILES),
    ] = None,
    save_records: Annotated[
        Path | None,
        typer.Option(
            "--save-records",
            help="Write what each candidate did with each example, for --from-records: .parquet or .npz.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    from_records: Annotated[
        Path | None,
        typer.Option(
            "--from-records",
            help="Make the result anew from what --save-records wrote, without model and data.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    device: Device = None,
    config: ConfigFile = None,
    debug: Debug = False,
    **selection: Any,
) -> None:
    """Compare an average with each checkpoint and with their ensembles, and say whether to ship it.

    One pass over the data for all of them. Scores of every row, and the differences with their 95 % intervals. Under
    torchrun (torchrun -m swa_cli eval) each process takes its share of the batches.
    """
    with exit_on_error(debug=debug):
        from swa_cli.config.load import load_config  # noqa: PLC0415  # torch is imported after --help
        from swa_cli.pipeline.evaluation.step import eval_step  # noqa: PLC0415

        flags = {
            "checkpoints": checkpoints,
            "swa": swa,
            "compare_ensemble": compare_ensemble,
            "best_by_val": best_by_val,
            "control": control,
            "curve": curve,
            "greedy": greedy,
            "split": split,
            **selection,
            "margin": margin,
            "fail_unless": fail_unless,
            "amp": amp,
            "channels_last": channels_last,
            "compile": compile_,
            "at_once": at_once,
            "cache": cache,
            "key": key,
            "json": json,
            "csv": csv,
            "markdown": markdown,
            "save_records": save_records,
            "from_records": from_records,
            "device": device,
        }
        sections = {
            "eval": flags,
            "model": target_options(model, model_arg),
            "data": target_options(data, data_arg),
            "task": target_options(task, task_arg),
        }
        options = load_config(config, sections)
        with only_results_on_stdout():
            result = eval_step(options, notify=notify, track=track)
        if result:
            save_reports(result, options.eval)
            show_evaluation(result, options.eval)
            check_verdict(result, options.eval)


def save_reports(result: "EvaluationResult", options: "EvalConfig") -> None:
    """Write the files, before anything is printed, so that nothing that happens to the terminal can lose them."""
    from swa_cli.report.csv_report import to_csv  # noqa: PLC0415
    from swa_cli.report.json_report import to_json  # noqa: PLC0415
    from swa_cli.report.markdown import to_markdown  # noqa: PLC0415

    save(options.csv, lambda: to_csv(result))
    save(options.markdown, lambda: to_markdown(result))
    save(options.json, lambda: to_json(result))


def has_stdout(options: "EvalConfig") -> bool:
    """Whether one of the files is standard output, which is then that file alone."""
    return any(is_stdout(path) for path in (options.json, options.csv, options.markdown))


def show_evaluation(result: "EvaluationResult", options: "EvalConfig") -> None:
    """Print the tables and what they say; where a file is standard output, only the warnings."""
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


def check_verdict(result: "EvaluationResult", options: "EvalConfig") -> None:
    """End with an exit code of its own where the average is not what was asked for.

    Raises:
        typer.Exit: it is not.
    """
    wanted = {"better": ("better",), "non-inferior": ("better", "non-inferior")}
    if options.fail_unless and result.decision.verdict not in wanted[options.fail_unless]:
        notify(f"the verdict is {result.decision.verdict}, not {options.fail_unless}: exit code {NOT_SHIPPED}.")
        raise typer.Exit(NOT_SHIPPED)
