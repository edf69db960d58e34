"""What swa-cli records in the files that it writes.

A record comes with a file, and so from anybody: all that is read as one is validated by these models, strictly, before
anything else looks at it (`swa_cli.formats.provenance_text`).
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from swa_cli import __version__
from swa_cli.formats.provenance_fields import (
    Arguments,
    Checks,
    CombinerName,
    Count,
    Digests,
    FileName,
    Finite,
    FloatingDtype,
    Frames,
    Many,
    Name,
    Texts,
    Unicode,
)

BnStatistics = Literal["none", "as trained", "averaged", "recomputed"]


class Source(BaseModel):
    """One checkpoint that went into an average; what is not Unicode in a file's name is spelt out."""

    model_config = ConfigDict(frozen=True)

    name: Name
    """Its path from the folder that holds all of them."""
    step: int | None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    size: Count | None = None
    """Of its file, or of all its shards together, in bytes."""
    sha256: Digests = {}
    """Of the file, or of each shard, by name; empty unless asked for."""


class Options(BaseModel):
    """What an average depends on besides its sources."""

    model_config = ConfigDict(frozen=True)

    key: str | None = None
    dtype: FloatingDtype | None = None
    integers: Literal["agree", "last", "first", "mean-round"] = "agree"
    combine: CombinerName = "mean"
    """How floating tensors were combined; left out of the record where it is the mean, as older versions wrote it."""
    allow_nonfinite: bool = False
    like: Unicode | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Records of means stay those that older versions write and read."""
        fields = serialize(self)
        return {
            name: value
            for name, value in fields.items()
            if name != "combine" or value != type(self).model_fields["combine"].default
        }


class BnUpdate(BaseModel):
    """How BatchNorm statistics were recomputed: by which estimator, on which data, on how much of it.

    The defaults are what is true of the files of versions that did not record a field, or None.
    """

    model_config = ConfigDict(frozen=True)

    model: Unicode
    model_args: Arguments = {}
    data: Unicode
    data_args: Arguments = {}
    estimator: Literal["population", "torch", "official", "sequential"] = "population"
    n_samples: int | None
    """None where it cannot be known."""
    n_batches: int
    batch_size: Count | None = None
    """If another was asked for than the loader has."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Of the loader's randomness."""
    eval_transforms: bool = False
    """Whether the samples were transformed as for evaluation, and not as in training."""
    amp: Literal["bf16", "fp16"] | None = None
    """Which dtype the model ran in where autocast chose it."""
    standard_error: Finite = None
    """The largest of all layers: of their means in standard deviations of what the layer sees, or of their variances,
    relative to these."""
    partial: bool = False
    """Whether less than all data were asked for (--num-batches, --num-samples, --until-converged)."""
    kept: Texts = {}
    """Layers whose statistics were left alone, and why."""
    unreached: Many[Unicode] = ()
    """Layers that no batch reached; their statistics are those of the average."""
    tensors: Checks = {}
    """The statistics that are no longer those of the average, and the CRC-32 of each."""


class Provenance(BaseModel):
    """The record, stored as JSON under the key ``swa_cli`` of the safetensors metadata."""

    model_config = ConfigDict(frozen=True)

    tool_version: str = __version__
    n_averaged: int
    sources: Annotated[Many[Source], Field(min_length=1)]
    bn_statistics: BnStatistics
    bn_update: BnUpdate | None = None
    frozen_bn: Many[Unicode] = ()
    """BatchNorm layers whose statistics are the same in all sources, by their names without wrappers."""
    options: Options | None = None
    """None in files of versions that did not record them."""
    folder: Name | None = None
    """Where the sources lie, seen from the folder of the output."""
    fingerprints: Annotated[str, Field(pattern="^[0-9a-f]*$")] = ""
    """Of each tensor, 16 hexadecimal digits, in the order of their names (see `swa_cli.averaging.fingerprints`)."""
    files: Many[FileName] = ()
    """Names of the files of an output that is a directory."""
    frames: Frames = {}
    """SHA-256 of every file of the output, but for its tensors and this record (see `swa_cli.formats.frame`), by
    its name, or as "this file" where it is the only one; empty in files of versions that did not record them."""

    @model_validator(mode="after")
    def _check_count(self) -> Self:
        if self.n_averaged != len(self.sources):
            msg = f"expected {self.n_averaged} sources, found {len(self.sources)}"
            raise ValueError(msg)
        return self
