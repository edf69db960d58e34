"""Checkpoints on disk: found, put in order, opened lazily, written."""

from swa_cli.checkpoints.discovery import SUFFIXES, Run, find_checkpoints, short_names
from swa_cli.checkpoints.opening import open_checkpoint
from swa_cli.checkpoints.provenance import BnStatistics, BnUpdate, Provenance, Source, read_provenance, to_metadata
from swa_cli.checkpoints.rewriting import replace_tensors
from swa_cli.checkpoints.safetensors_file import file_order, write_safetensors
from swa_cli.checkpoints.stored import Checkpoint, StoredTensor, TensorSpec
from swa_cli.checkpoints.unwrap import strip_wrappers

__all__ = [
    "SUFFIXES",
    "BnStatistics",
    "BnUpdate",
    "Checkpoint",
    "Provenance",
    "Run",
    "Source",
    "StoredTensor",
    "TensorSpec",
    "file_order",
    "find_checkpoints",
    "open_checkpoint",
    "read_provenance",
    "replace_tensors",
    "short_names",
    "strip_wrappers",
    "to_metadata",
    "write_safetensors",
]
