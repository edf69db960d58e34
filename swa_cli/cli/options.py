"""Options that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

_MODEL_AND_DATA = "Model and data"

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file with any of these options; flags are put over it.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str | None, typer.Option("--device", help="auto (the default), cpu, cuda or cuda:1.")]
Force = Annotated[bool | None, typer.Option("--force", help="Replace an existing output.")]
Key = Annotated[
    str | None, typer.Option("--key", help="Where the state_dict lies in torch files; dotted, as in model.ema")
]
Last = Annotated[int | None, typer.Option("--last", min=1, help="Take only the newest so many checkpoints.")]
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
        help="key=value for the data module, likewise.",
        rich_help_panel=_MODEL_AND_DATA,
    ),
]


def target_options(class_path: str | None, arguments: Sequence[str] | None) -> dict[str, Any]:
    """``--model`` and ``--model-arg`` as the section of the configuration that they stand for."""
    return {"class_path": class_path, "init_args": _parse_arguments(arguments) if arguments else None}


def _parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    import yaml  # noqa: PLC0415  # not needed for --help

    from swa_cli.errors import UsageError  # noqa: PLC0415

    parsed: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.isidentifier() or not equals:
            msg = f"cannot read the argument {argument!r}: expected key=value."
            raise UsageError(msg)
        try:
            parsed[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            msg = f"cannot read the argument {argument!r}: {' '.join(str(error).split())}"
            raise UsageError(msg) from error
    return parsed
