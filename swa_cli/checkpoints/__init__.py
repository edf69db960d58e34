"""Checkpoints on disk: found, put in order, opened lazily, written."""

from swa_cli.checkpoints.checkpoint import Checkpoint
from swa_cli.checkpoints.discovery import SUFFIXES, Run, find_checkpoints, short_names
from swa_cli.checkpoints.hashing import checksums
from swa_cli.checkpoints.opening import open_checkpoint
from swa_cli.checkpoints.provenance import BnStatistics, BnUpdate, Provenance, Source, read_provenance, to_metadata
from swa_cli.checkpoints.reading import OpenFiles, read_tensor
from swa_cli.checkpoints.safetensors_file import file_order, safetensors_header
from swa_cli.checkpoints.stored import StoredTensor, TensorSpec
from swa_cli.checkpoints.ties import find_ties
from swa_cli.checkpoints.unwrap import strip_wrappers

__all__ = [
    "SUFFIXES",
    "BnStatistics",
    "BnUpdate",
    "Checkpoint",
    "OpenFiles",
    "Provenance",
    "Run",
    "Source",
    "StoredTensor",
    "TensorSpec",
    "checksums",
    "file_order",
    "find_checkpoints",
    "find_ties",
    "open_checkpoint",
    "read_provenance",
    "read_tensor",
    "safetensors_header",
    "short_names",
    "strip_wrappers",
    "to_metadata",
]
