"""Options that several commands share."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import typer

_MODEL_AND_DATA = "Model and data"
_SELECTION = "Selection, in this order"

Command = TypeVar("Command", bound=Callable[..., None])

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file with any of these options; flags override it.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str | None, typer.Option("--device", help="auto (the default), cpu, cuda or cuda:1.")]
Force = Annotated[bool | None, typer.Option("--force", help="Replace an existing output.")]
Key = Annotated[str | None, typer.Option("--key", help="Path of the state_dict within torch files, as in model.ema.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=256, help="Worker threads; by default one for each core, up to 8."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Class or function that builds the model: file.py:Name, package.module.Name, torchvision.models.resnet50.",
        rich_help_panel=_MODEL_AND_DATA,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Class or function that builds the data module (a LightningDataModule, or anything with its loaders).",
        rich_help_panel=_MODEL_AND_DATA,
    ),
]
ModelArg = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        help="key=value for the model; the value is read as YAML. May be repeated.",
        rich_help_panel=_MODEL_AND_DATA,
    ),
]
DataArg = Annotated[
    list[str] | None,
    typer.Option(
        "--data-arg",
        help="key=value for the data module; the value is read as YAML. May be repeated.",
        rich_help_panel=_MODEL_AND_DATA,
    ),
]


def _selecting(kind: Any, flag: str, text: str, **settings: Any) -> Any:
    return Annotated[kind | None, typer.Option(flag, help=text, rich_help_panel=_SELECTION, **settings)]


_SELECTING = {
    "include": _selecting(
        list[str],
        "--include",
        "Keep only checkpoints that match this glob: their file name or the name of a folder above them, or the path "
        "below the source if the glob has a slash. May be repeated.",
    ),
    "exclude": _selecting(
        list[str], "--exclude", "Leave out checkpoints that match this glob, as for --include. Repeatable."
    ),
    "from_step": _selecting(int, "--from", "Skip checkpoints before this step."),
    "to_step": _selecting(int, "--to", "Skip checkpoints after this step."),
    "every": _selecting(int, "--every", "Keep every N-th checkpoint, counting back from the newest.", min=1),
    "first": _selecting(int, "--first", "Keep the N oldest checkpoints.", min=1),
    "last": _selecting(int, "--last", "Keep the N newest checkpoints.", min=1),
    "best": _selecting(int, "--best", "Keep the N best checkpoints by --metric and --mode.", min=1),
    "metric": _selecting(str, "--metric", "Metric in the checkpoints or in their names; swa inspect lists them."),
    "mode": _selecting(Literal["min", "max"], "--mode", "Whether a lower or a higher metric is better."),
}


def selecting(command: Command) -> Command:
    """Give ``command`` the options that say which checkpoints are meant, instead of its ``**selection``."""
    signature = inspect.signature(command)
    own = [entry for entry in signature.parameters.values() if entry.kind is not inspect.Parameter.VAR_KEYWORD]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _SELECTING.items()
    ]
    cast("Any", command).__signature__ = signature.replace(parameters=[*own, *shared])
    return command


def target_options(class_path: str | None, arguments: Sequence[str] | None) -> dict[str, Any]:
    """``--model`` and ``--model-arg`` as the section of the configuration that they stand for."""
    return {"class_path": class_path, "init_args": _parse_arguments(arguments) if arguments else None}


def _parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    import yaml  # noqa: PLC0415  # not needed for --help

    from swa_cli.config.load import parse_yaml  # noqa: PLC0415
    from swa_cli.errors import UsageError  # noqa: PLC0415

    parsed: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.isidentifier() or not equals:
            msg = f"cannot read the argument {argument!r}: expected key=value."
            raise UsageError(msg)
        try:
            parsed[name] = parse_yaml(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            msg = f"cannot read the argument {argument!r}: {' '.join(str(error).split())}"
            raise UsageError(msg) from error
    return parsed
