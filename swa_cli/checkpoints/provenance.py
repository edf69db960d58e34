"""What swa-cli records in the metadata of the files it writes."""

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from swa_cli import __version__
from swa_cli.checkpoints.dtypes import BY_NAME, is_floating
from swa_cli.checkpoints.safetensors_file import EXTRA_STATE
from swa_cli.checkpoints.safetensors_file import PROVENANCE as KEY

BnStatistics = Literal["none", "as trained", "averaged", "recomputed"]

_DEEPEST = 8
"""Of an argument, how many mappings and lists within each other are kept as such: YAML can put a list into itself."""


def spelt(name: str) -> str:
    """How a record spells the name of a file: what is no Unicode in it is written out."""
    return name.encode(errors="backslashreplace").decode()


def _spelt_if_text(value: object) -> object:
    return spelt(value) if isinstance(value, str) else value


def _as_json(value: object) -> object:
    return _within(value, _DEEPEST)


def _within(value: object, depth: int) -> object:
    """A value of YAML as JSON has it: a set as a list, a date, NaN and whatever else JSON lacks as text."""
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, dict) and depth:
        entries = cast("dict[object, object]", value).items()
        return {spelt(str(name)): _within(entry, depth - 1) for name, entry in entries}
    if isinstance(value, (list, tuple)) and depth:
        return [_within(entry, depth - 1) for entry in cast("list[object]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted([spelt(str(entry)) for entry in cast("set[object]", value)], key=str)
    return spelt(str(cast("object", value)))


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_Unicode = Annotated[str, BeforeValidator(_spelt_if_text)]
"""What is no Unicode in a file's name is spelt out; `as_named` reads it."""
_Arguments = Annotated[dict[str, Any], BeforeValidator(_as_json)]
"""What a model or data module was called with, as it survives JSON."""
_Finite = Annotated[float | None, BeforeValidator(_finite)]
"""None where it is not known, or not finite, for which JSON has no number."""


def _floating(name: str) -> str:
    if name not in BY_NAME or not is_floating(BY_NAME[name]):
        msg = "no floating dtype"
        raise ValueError(msg)
    return name


class Source(BaseModel):
    """One checkpoint that went into an average; what is not Unicode in a file's name is spelt out."""

    model_config = ConfigDict(frozen=True)

    name: _Unicode
    """Its path from the folder that holds all of them."""
    step: int | None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    size: int | None = None
    """Of its file, or of all its shards together, in bytes."""
    sha256: dict[_Unicode, str] = {}
    """Of the file, or of each shard, by name; empty unless asked for."""


class Options(BaseModel):
    """What an average depends on besides its sources."""

    model_config = ConfigDict(frozen=True)

    key: str | None = None
    dtype: Annotated[str, AfterValidator(_floating)] | None = None
    integers: Literal["agree", "last", "first", "mean-round"] = "agree"
    allow_nonfinite: bool = False
    like: _Unicode | None = None


class BnUpdate(BaseModel):
    """How BatchNorm statistics were recomputed: by which estimator, on which data, on how much of it.

    The defaults are what is true of the files of versions that did not record a field, or None.
    """

    model_config = ConfigDict(frozen=True)

    model: _Unicode
    model_args: _Arguments = {}
    data: _Unicode
    data_args: _Arguments = {}
    estimator: str = "population"
    n_samples: int
    n_batches: int
    batch_size: int | None = None
    """If another was asked for than the loader has."""
    seed: int | None = None
    """Of the loader's randomness."""
    eval_transforms: bool = False
    """Whether the samples were transformed as for evaluation, and not as in training."""
    amp: str | None = None
    """Which dtype the model ran in where autocast chose it."""
    standard_error: _Finite = None
    """The largest of all layers: of their means in standard deviations of what the layer sees, or of their variances,
    relative to these."""
    partial: bool = False
    """Whether less than all data were asked for (--num-batches, --num-samples, --until-converged)."""
    kept: dict[_Unicode, _Unicode] = {}
    """Layers whose statistics were left alone, and why."""
    unreached: tuple[_Unicode, ...] = ()
    """Layers that no batch reached; their statistics are those of the average."""
    tensors: dict[_Unicode, int] = {}
    """The statistics that are no longer those of the average, and the CRC-32 of each."""


class Provenance(BaseModel):
    """The record, stored as JSON under the key ``swa_cli`` of the safetensors metadata."""

    model_config = ConfigDict(frozen=True)

    tool_version: str = __version__
    n_averaged: int
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    bn_statistics: BnStatistics
    bn_update: BnUpdate | None = None
    frozen_bn: tuple[_Unicode, ...] = ()
    """BatchNorm layers whose statistics are the same in all sources, by their names without wrappers."""
    options: Options | None = None
    """None in files of versions that did not record them."""
    folder: _Unicode | None = None
    """Where the sources lie, seen from the folder of the output."""
    fingerprints: Annotated[str, Field(pattern="^[0-9a-f]*$")] = ""
    """Of each tensor, 16 hexadecimal digits, in the order of their names (see `swa_cli.averaging.fingerprints`)."""
    files: tuple[_Unicode, ...] = ()
    """Names of the files of an output that is a directory."""


def to_metadata(
    provenance: Provenance, *, tied: Mapping[str, str] | None = None, extra: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Safetensors metadata; ``format`` is what Hugging Face's loaders look for.

    Args:
        tied: from names that the file leaves out to those of the same tensors that it holds
            (``safetensors.torch.save_model`` writes them likewise).
        extra: entries of the state_dict that are not tensors.
    """
    metadata = {**(tied or {}), "format": "pt", KEY: provenance.model_dump_json(exclude_none=False)}
    return metadata | ({EXTRA_STATE: json.dumps(extra)} if extra else {})


def read_provenance(metadata: Mapping[str, str]) -> Provenance | None:
    """The record of a file that swa-cli wrote, or None for any other file."""
    text = metadata.get(KEY)
    if text is None:
        return None
    try:
        return Provenance.model_validate(json.loads(text))
    except (ValueError, RecursionError, ValidationError):
        return None


def as_named(text: str) -> str:
    """The name of a file as it is, from how a record spells it."""
    return re.sub(r"\\(udc[89a-f][0-9a-f])", lambda found: chr(int(found[1][1:], 16)), text)
