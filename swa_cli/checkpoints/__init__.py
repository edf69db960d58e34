"""Discovering, ordering and selecting the checkpoints of a run."""

from swa_cli.checkpoints.directories import short_names
from swa_cli.checkpoints.discovery import find_checkpoints
from swa_cli.checkpoints.inspection import Description, Inspection, describe, inspect_checkpoints
from swa_cli.checkpoints.selection import Selection, known_metrics, select
from swa_cli.checkpoints.series import CheckpointSeries, SeriesMember
from swa_cli.checkpoints.single import open_single

__all__ = [
    "CheckpointSeries",
    "Description",
    "Inspection",
    "Selection",
    "SeriesMember",
    "describe",
    "find_checkpoints",
    "inspect_checkpoints",
    "known_metrics",
    "open_single",
    "select",
    "short_names",
]
