"""Checkpoints on disk: found, put in order, chosen, opened lazily."""

from swa_cli.checkpoints.checkpoint import Checkpoint
from swa_cli.checkpoints.discovery import Run, find_checkpoints
from swa_cli.checkpoints.folders import SUFFIXES, short_names
from swa_cli.checkpoints.frame import Extent, frame_digest
from swa_cli.checkpoints.hashing import checksums
from swa_cli.checkpoints.inspection import Description, Inspection, Pick, describe, inspect_checkpoints
from swa_cli.checkpoints.opening import open_checkpoint
from swa_cli.checkpoints.provenance import BnStatistics, BnUpdate, Options, Provenance, Source
from swa_cli.checkpoints.reading import OpenFiles, read_tensor
from swa_cli.checkpoints.record_fields import as_named, spelt
from swa_cli.checkpoints.record_text import PROVENANCE, as_text, read_provenance, to_metadata
from swa_cli.checkpoints.safetensors_file import file_order, safetensors_entries, safetensors_header
from swa_cli.checkpoints.selection import Selection, known_metrics, select
from swa_cli.checkpoints.single import open_single, recorded_key
from swa_cli.checkpoints.stored import StoredTensor, TensorSpec
from swa_cli.checkpoints.survey import Survey, survey_checkpoints
from swa_cli.checkpoints.ties import find_ties
from swa_cli.checkpoints.unwrap import strip_wrappers

__all__ = [
    "PROVENANCE",
    "SUFFIXES",
    "BnStatistics",
    "BnUpdate",
    "Checkpoint",
    "Description",
    "Extent",
    "Inspection",
    "OpenFiles",
    "Options",
    "Pick",
    "Provenance",
    "Run",
    "Selection",
    "Source",
    "StoredTensor",
    "Survey",
    "TensorSpec",
    "as_named",
    "as_text",
    "checksums",
    "describe",
    "file_order",
    "find_checkpoints",
    "find_ties",
    "frame_digest",
    "inspect_checkpoints",
    "known_metrics",
    "open_checkpoint",
    "open_single",
    "read_provenance",
    "read_tensor",
    "recorded_key",
    "safetensors_entries",
    "safetensors_header",
    "select",
    "short_names",
    "spelt",
    "strip_wrappers",
    "survey_checkpoints",
    "to_metadata",
]
