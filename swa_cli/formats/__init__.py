"""One checkpoint: its header read without running anything from it, tensors on demand, and writers of each format."""

from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.dtypes import BY_NAME, Dtype, is_averaged, is_floating, real_dtype, reals
from swa_cli.formats.file_checksums import checksums
from swa_cli.formats.file_reader import OpenFiles
from swa_cli.formats.foreign import about_directories
from swa_cli.formats.frame import ByteRange, frame_digest
from swa_cli.formats.hf_sharded import INDEX_SUFFIX, shards_of
from swa_cli.formats.latest import forget_latest
from swa_cli.formats.opening import checkpoints_among, open_checkpoint, recorded_key
from swa_cli.formats.output_layout import Contents, Layout, OutputFile
from swa_cli.formats.provenance import BnStatistics, BnUpdate, Options, Provenance, Source
from swa_cli.formats.provenance_fields import escape_surrogates, unescape_surrogates
from swa_cli.formats.provenance_text import EXTRA_STATE, PROVENANCE, as_text
from swa_cli.formats.registry import READERS, SUFFIXES
from swa_cli.formats.rounding import LOST, round_into, round_once
from swa_cli.formats.safetensors.header import file_order, stored_names
from swa_cli.formats.safetensors.writer import index_file, part_of, safetensors_file, sharded_files
from swa_cli.formats.suffixes import SAFETENSORS, TORCH
from swa_cli.formats.tensor_layout import Box, TensorLayout, TensorSpec
from swa_cli.formats.tied_weights import find_ties
from swa_cli.formats.torch.rewrite_template import torch_file_like
from swa_cli.formats.torch.state_dict import strip_wrappers
from swa_cli.formats.torch.writer import torch_file
from swa_cli.formats.training_metrics import metrics_in_name
from swa_cli.formats.training_step import COUNTERS, OF_THE_WHOLE_RUN, natural_key, numbers_in_name, step_in_name

__all__ = [
    "BY_NAME",
    "COUNTERS",
    "EXTRA_STATE",
    "INDEX_SUFFIX",
    "LOST",
    "OF_THE_WHOLE_RUN",
    "PROVENANCE",
    "READERS",
    "SAFETENSORS",
    "SUFFIXES",
    "TORCH",
    "BnStatistics",
    "BnUpdate",
    "Box",
    "ByteRange",
    "Checkpoint",
    "Contents",
    "Dtype",
    "Layout",
    "OpenFiles",
    "Options",
    "OutputFile",
    "Provenance",
    "Source",
    "TensorLayout",
    "TensorSpec",
    "about_directories",
    "as_text",
    "checkpoints_among",
    "checksums",
    "escape_surrogates",
    "file_order",
    "find_ties",
    "forget_latest",
    "frame_digest",
    "index_file",
    "is_averaged",
    "is_floating",
    "metrics_in_name",
    "natural_key",
    "numbers_in_name",
    "open_checkpoint",
    "part_of",
    "real_dtype",
    "reals",
    "recorded_key",
    "round_into",
    "round_once",
    "safetensors_file",
    "sharded_files",
    "shards_of",
    "step_in_name",
    "stored_names",
    "strip_wrappers",
    "torch_file",
    "torch_file_like",
    "unescape_surrogates",
]
