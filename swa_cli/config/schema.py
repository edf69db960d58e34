"""The sections of a configuration, as frozen dataclasses.

An option is one field with a type and an `Option`. Its flag, its YAML key, its entry in the reference pages and the
nearest-name error are derived from the field.
"""

import dataclasses
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from swa_cli.config.choices import Combine, Integers
from swa_cli.config.fields import (
    AnyPath,
    Count,
    Integer,
    Margins,
    Number,
    Numbers,
    Paths,
    Patterns,
    Reports,
    Size,
    Step,
    Threads,
    Windows,
)
from swa_cli.config.option import ImportOption, Option, Panel

_STRICT = ConfigDict(extra="forbid", defer_build=True)  # --help needs no validators

_Amp = Annotated[
    Literal["bf16", "fp16"] | None, Option(help="Run the model under autocast with this dtype.", panel=Panel.SPEED)
]
_CHANNELS_LAST = Option(help="Run the model in channels-last memory format.", panel=Panel.SPEED)
_COMPILE = Option(help="Compile the model once with torch.compile.", panel=Panel.SPEED)
_DEVICE = Option(help="Device of the forward passes: auto (the default), cpu, cuda or cuda:1.")
_FORCE = Option(help="Replace an existing output.")
_KEY = Option(help="Path of the state_dict inside torch files, such as model.ema.")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TargetConfig:
    """What to import and with which keyword arguments to call it (Lightning's form)."""

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """The keys that select checkpoints, shared by the sections that search for them."""

    include: Annotated[
        Patterns,
        Option(
            help="Keep only checkpoints that match this glob: their file name or the name of a folder above them, or "
            "the path below the source if the glob has a slash. Repeatable.",
            panel=Panel.SELECTION,
        ),
    ] = ()
    exclude: Annotated[
        Patterns,
        Option(help="Skip checkpoints that match this glob, as for --include. Repeatable.", panel=Panel.SELECTION),
    ] = ()
    from_step: Annotated[
        Step | None,
        Option(help="Skip checkpoints before this step.", flags=("--from",), panel=Panel.SELECTION),
    ] = None
    to_step: Annotated[
        Step | None, Option(help="Skip checkpoints after this step.", flags=("--to",), panel=Panel.SELECTION)
    ] = None
    every: Annotated[
        Count | None,
        Option(help="Keep every N-th checkpoint, counting back from the newest.", panel=Panel.SELECTION),
    ] = None
    first: Annotated[
        Count | None,
        Option(
            help="Keep the N oldest checkpoints.", replaces=("last", "best", "metric", "mode"), panel=Panel.SELECTION
        ),
    ] = None
    last: Annotated[
        Count | None,
        Option(
            help="Keep the N newest checkpoints.", replaces=("first", "best", "metric", "mode"), panel=Panel.SELECTION
        ),
    ] = None
    best: Annotated[
        Count | None,
        Option(
            help="Keep the N best checkpoints by --metric and --mode.",
            replaces=("first", "last"),
            panel=Panel.SELECTION,
        ),
    ] = None
    metric: Annotated[
        str | None,
        Option(help="Metric in the checkpoints or in their names; swa inspect lists them.", panel=Panel.SELECTION),
    ] = None
    mode: Annotated[
        Literal["min", "max"] | None,
        Option(help="Whether a lower or a higher metric is better.", panel=Panel.SELECTION),
    ] = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AverageConfig(SelectionConfig):
    """The section ``average:``."""

    sources: Annotated[
        Paths,
        Option(help="Checkpoints: directories, files and glob patterns.", positional=True, metavar="SOURCES"),
    ] = ()
    output: Annotated[
        AnyPath | None,
        Option(
            help="Output: a .safetensors file, a torch file (.pt, .pth, .ckpt, .bin), or a directory.",
            flags=("--output", "-o"),
        ),
    ] = None
    like: Annotated[
        AnyPath | None,
        Option(
            help="Write the average in the structure of this checkpoint, so that the same code can load it.",
            replaces=("max_shard_size",),
        ),
    ] = None
    max_shard_size: Annotated[
        Size | None,
        Option(help="Write a directory of shards up to this size (5GB, say) and an index.", replaces=("like",)),
    ] = None
    key: Annotated[str | None, _KEY] = None
    dtype: Annotated[
        Literal["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] | None,
        Option(help="Output dtype of floating-point tensors (default: same as input)."),
    ] = None
    integers: Annotated[
        Integers,
        Option(
            help="What to write for integers and bools: require all checkpoints to agree (the default), or take the "
            "newest, the oldest, or the rounded mean."
        ),
    ] = "agree"
    combine: Annotated[
        Combine, Option(help="How to combine the checkpoints (default: mean).", replaces=("weights", "ema"))
    ] = "mean"
    weights: Annotated[
        Numbers | None,
        Option(
            help="Weight of each checkpoint, oldest first: 1,1,2 (default: equal weights).",
            replaces=("combine", "ema"),
        ),
    ] = None
    ema: Annotated[
        Number | None,
        Option(
            help="Weight the checkpoints as an exponential moving average with this decay, such as 0.9.",
            replaces=("combine", "weights"),
        ),
    ] = None
    device: Annotated[
        str,
        Option(
            help="cpu, cuda, cuda:1, or auto (the default): the CPU, unless there are 16 GiB or more to read and a "
            "short trial shows that CUDA is faster."
        ),
    ] = "auto"
    threads: Annotated[Threads | None, Option(help="Worker threads (default: one per core, at most 8).")] = None
    dry_run: Annotated[bool, Option(help="Print the plan and write nothing.")] = False
    force: Annotated[bool, _FORCE] = False
    allow_nonfinite: Annotated[bool, Option(help="Average NaN and infinity like any number.")] = False
    checksum: Annotated[bool, Option(help="Also record the SHA-256 of every file that is averaged.")] = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BnUpdateConfig:
    """The section ``bn_update:``."""

    input: Annotated[
        AnyPath | None,
        Option(help="The average, or any checkpoint of the model.", positional=True, metavar="SWA"),
    ] = None
    output: Annotated[
        AnyPath | None,
        Option(help="Output file (default: replace the input).", flags=("--output", "-o")),
    ] = None
    key: Annotated[str | None, _KEY] = None
    estimator: Annotated[
        Literal["population", "torch", "official", "sequential"],
        Option(
            help="population (the default): mean and variance over all elements; torch: as torch's update_bn; "
            "official: as the SWA paper's code; sequential: population layer by layer, one pass per layer.",
            panel=Panel.STATISTICS,
        ),
    ] = "population"
    num_batches: Annotated[Count | None, Option(help="Stop after this many batches.", panel=Panel.STATISTICS)] = None
    num_samples: Annotated[
        Count | None,
        Option(help="Stop after this many samples, rounded up to whole batches.", panel=Panel.STATISTICS),
    ] = None
    until_converged: Annotated[
        Annotated[Number, Field(gt=0, allow_inf_nan=False)] | None,
        Option(
            help="Stop once the standard errors of all layers are at most this: of means in standard deviations, of "
            "variances relative.",
            metavar="TOL",
            panel=Panel.STATISTICS,
        ),
    ] = None
    recalibrate_frozen: Annotated[
        bool,
        Option(
            help="Also recompute layers that were frozen: whose statistics are equal in all checkpoints.",
            panel=Panel.STATISTICS,
        ),
    ] = False
    batch_size: Annotated[
        Count | None, Option(help="Batch size (default: the training loader's own).", panel=Panel.BATCHES)
    ] = None
    eval_transforms: Annotated[
        bool,
        Option(
            help="Use the training images without augmentation, if the data module offers it.",
            panel=Panel.BATCHES,
        ),
    ] = False
    seed: Annotated[
        Annotated[Integer, Field(ge=0, lt=2**32)] | None,
        Option(
            help="Seed of shuffling and augmentation (default: 0; the loader's own generator keeps its seed).",
            panel=Panel.BATCHES,
        ),
    ] = None
    amp: _Amp = None
    channels_last: Annotated[bool, _CHANNELS_LAST] = False
    compile: Annotated[bool, _COMPILE] = False
    json: Annotated[
        AnyPath | None,
        Option(help="Write each layer's statistics and changes as JSON; - for standard output, without the table."),
    ] = None
    device: Annotated[str, _DEVICE] = "auto"
    force: Annotated[bool, _FORCE] = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvalConfig(SelectionConfig):
    """The section ``eval:``."""

    checkpoints: Annotated[
        Paths,
        Option(help="Checkpoints: directories, files and glob patterns.", positional=True, metavar="CKPTS"),
    ] = ()
    swa: Annotated[AnyPath | None, Option(help="The average to compare with the checkpoints.")] = None
    split: Annotated[
        Literal["test", "val", "train"] | None,
        Option(help="Split to evaluate on (default: test if the data module has it, else val)."),
    ] = None
    key: Annotated[str | None, _KEY] = None
    compare_ensemble: Annotated[
        bool,
        Option(
            help="Add the ensembles of all checkpoints: the mean of their probabilities, and of their logits.",
            panel=Panel.ROWS,
        ),
    ] = False
    best_by_val: Annotated[
        bool,
        Option(
            help="Add the best checkpoint on the validation data (the default); costs a pass over them.",
            panel=Panel.ROWS,
        ),
    ] = True
    control: Annotated[
        bool,
        Option(
            help="Add the last checkpoint with recomputed BatchNorm statistics, to separate their gain from that of "
            "averaging.",
            panel=Panel.ROWS,
        ),
    ] = False
    curve: Annotated[
        Windows | None,
        Option(
            help="Score averages of the last K checkpoints on the validation data, and add the best.",
            metavar="K1,K2,…|log",
            panel=Panel.ROWS,
        ),
    ] = None
    greedy: Annotated[bool, Option(help="Add the greedy soup, chosen on validation data.", panel=Panel.ROWS)] = False
    margin: Annotated[
        Margins,
        Option(
            help="Loss that you accept, in the table's unit (points for accuracy); without METRIC, of the metric "
            "that decides.",
            metavar="[METRIC=]LOSS",
            panel=Panel.DECISION,
        ),
    ] = field(default_factory=dict[str, float])
    fail_unless: Annotated[
        Literal["better", "non-inferior"] | None,
        Option(help="Exit with code 3 unless the verdict is at least this.", panel=Panel.DECISION),
    ] = None
    metrics: Annotated[
        dict[str, TargetConfig],
        Option(help="Further metrics by name: torchmetrics classes or your own.", in_file_only=True),
    ] = field(default_factory=dict[str, TargetConfig])
    amp: _Amp = None
    channels_last: Annotated[bool, _CHANNELS_LAST] = False
    compile: Annotated[bool, _COMPILE] = False
    max_resident_models: Annotated[
        Count | None,
        Option(
            help="Largest number of models kept in memory (default: as many as fit in half of the free memory).",
            former=("at_once",),
            panel=Panel.SPEED,
        ),
    ] = None
    cache: Annotated[
        AnyPath | None,
        Option(help="Directory of cached outputs, reused for the same weights and data.", panel=Panel.SPEED),
    ] = None
    reports: Reports = field(default_factory=dict[str, AnyPath])
    save_records: Annotated[
        AnyPath | None,
        Option(
            help="Write the per-example records of each candidate, for --from-records: .parquet or .npz.",
            panel=Panel.FILES,
        ),
    ] = None
    from_records: Annotated[
        AnyPath | None,
        Option(help="Compute the result from a file of --save-records, without model and data.", panel=Panel.FILES),
    ] = None
    device: Annotated[str, _DEVICE] = "auto"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Config:
    """A configuration: model, data module, task, and one section per command."""

    model: Annotated[
        TargetConfig | None,
        ImportOption(
            help="Class or function that builds the model: file.py:Name, package.module.Name, "
            "torchvision.models.resnet50.",
            arguments="key=value for the model; the value is YAML. Repeatable.",
            panel=Panel.MODEL,
        ),
    ] = None
    data: Annotated[
        TargetConfig | None,
        ImportOption(
            help="Class or function that builds the data module: a LightningDataModule, or an object with its loaders.",
            arguments="key=value for the data module; the value is YAML. Repeatable.",
            panel=Panel.MODEL,
        ),
    ] = None
    task: Annotated[
        TargetConfig | None,
        ImportOption(
            help="classification, multilabel, regression, segmentation, nodes, causal_lm, or file.py:Name (default: "
            "classification or segmentation, by the shapes of the first batch and output).",
            arguments="key=value for the task, such as ignore_index=255 or top_k=[5]. Repeatable.",
            panel=Panel.TASK,
        ),
    ] = None
    average: AverageConfig = field(default_factory=AverageConfig)
    bn_update: BnUpdateConfig = field(default_factory=BnUpdateConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
