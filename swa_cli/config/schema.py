"""The sections of a configuration, and the whole of it, frozen."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from swa_cli.config.fields import (
    AnyPath,
    Count,
    Integer,
    Margins,
    Number,
    Numbers,
    Paths,
    Patterns,
    Size,
    Step,
    Threads,
    Windows,
)

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TargetConfig:
    """What to import and with which keyword arguments to call it (Lightning's form)."""

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AverageConfig:
    """The section ``average:``."""

    sources: Paths = ()
    output: AnyPath | None = None
    include: Patterns = ()
    exclude: Patterns = ()
    from_step: Step | None = None
    to_step: Step | None = None
    every: Count | None = None
    first: Count | None = None
    last: Count | None = None
    best: Count | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    key: str | None = None
    dtype: Literal["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] | None = None
    integers: Literal["agree", "last", "first", "mean-round"] = "agree"
    weights: Numbers | None = None
    ema: Number | None = None
    like: AnyPath | None = None
    max_shard_size: Size | None = None
    device: str = "auto"
    threads: Threads | None = None
    allow_nonfinite: bool = False
    checksum: bool = False
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BnUpdateConfig:
    """The section ``bn_update:``."""

    input: AnyPath | None = None
    output: AnyPath | None = None
    key: str | None = None
    estimator: Literal["population", "torch", "official", "sequential"] = "population"
    num_batches: Count | None = None
    num_samples: Count | None = None
    batch_size: Count | None = None
    until_converged: Annotated[Number, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] | None = None
    eval_transforms: bool = False
    recalibrate_frozen: bool = False
    amp: Literal["bf16", "fp16"] | None = None
    channels_last: bool = False
    compile: bool = False
    json: AnyPath | None = None
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvalConfig:
    """The section ``eval:``."""

    checkpoints: Paths = ()
    swa: AnyPath | None = None
    include: Patterns = ()
    exclude: Patterns = ()
    from_step: Step | None = None
    to_step: Step | None = None
    every: Count | None = None
    first: Count | None = None
    last: Count | None = None
    best: Count | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    key: str | None = None
    split: Literal["test", "val", "train"] | None = None
    compare_ensemble: bool = False
    best_by_val: bool = True
    control: bool = False
    curve: Windows | None = None
    greedy: bool = False
    margin: Margins = field(default_factory=dict[str, float])
    fail_unless: Literal["better", "non-inferior"] | None = None
    metrics: dict[str, TargetConfig] = field(default_factory=dict[str, TargetConfig])
    amp: Literal["bf16", "fp16"] | None = None
    channels_last: bool = False
    compile: bool = False
    at_once: Count | None = None
    cache: AnyPath | None = None
    from_records: AnyPath | None = None
    save_records: AnyPath | None = None
    json: AnyPath | None = None
    csv: AnyPath | None = None
    markdown: AnyPath | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Config:
    """All of it: model, data module, task, and a section for each command."""

    model: TargetConfig | None = None
    data: TargetConfig | None = None
    task: TargetConfig | None = None
    average: AverageConfig = field(default_factory=AverageConfig)
    bn_update: BnUpdateConfig = field(default_factory=BnUpdateConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
