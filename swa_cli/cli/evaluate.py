"""``swa-eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

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
from swa_cli.cli.terminal import exit_on_error, notify, only_results_on_stdout, say, stderr, stdout, track

if TYPE_CHECKING:
    from swa_cli.evaluation import EvaluationResult


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
    compare_ensemble: Annotated[
        bool | None, typer.Option("--compare-ensemble", help="Add the ensemble: the mean of all members' softmax.")
    ] = None,
    split: Annotated[
        Literal["test", "val", "train"] | None,
        typer.Option("--split", help="By default test where the data module has it, else val."),
    ] = None,
    key: Key = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the result as JSON; - for standard output, without the table.")
    ] = None,
    device: Device = None,
    config: ConfigFile = None,
    debug: Debug = False,
    **selection: Any,
) -> None:
    """Compare an average with each checkpoint and with their ensemble, in one pass over the data.

    Accuracy, NLL, Brier score and ECE of every row, and the differences with their 95 % intervals.
    """
    with exit_on_error(debug=debug):
        from swa_cli.config import load_config  # noqa: PLC0415  # torch is imported after --help
        from swa_cli.pipeline.evaluate import eval_step  # noqa: PLC0415

        flags = {
            "checkpoints": checkpoints,
            "swa": swa,
            "compare_ensemble": compare_ensemble,
            "split": split,
            **selection,
            "key": key,
            "json": json,
            "device": device,
        }
        sections = {
            "eval": flags,
            "model": target_options(model, model_arg),
            "data": target_options(data, data_arg),
        }
        options = load_config(config, sections)
        with only_results_on_stdout():
            result = eval_step(options, notify=notify, track=track)
        save_json(result, options.eval.json)
        show(result, options.eval.json)


def save_json(result: "EvaluationResult", json: Path | None) -> None:
    """Write the JSON, before anything is printed, so that nothing that happens to the terminal can lose it."""
    from swa_cli.files import publish  # noqa: PLC0415
    from swa_cli.report.json_report import to_json  # noqa: PLC0415

    if json and str(json) != "-":
        with publish(json, overwrite=True) as stream:
            stream.write(to_json(result).encode())


def show(result: "EvaluationResult", json: Path | None) -> None:
    """Print the table; with ``-`` for ``json``, the JSON alone."""
    from swa_cli.report.json_report import to_json  # noqa: PLC0415
    from swa_cli.report.table import evaluation_table, sentences, warning_panels  # noqa: PLC0415

    for panel in warning_panels(result):
        stderr().print(panel)
    if str(json) == "-":
        typer.echo(to_json(result), nl=False)
        return
    stdout().print(evaluation_table(result))
    for sentence in sentences(result):
        say(sentence)
