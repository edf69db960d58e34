"""Safetensors files as checkpoints."""

import json
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import cast, final

from swa_cli.errors import CheckpointError, option
from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.protocol import PossibleCheckpoint
from swa_cli.formats.provenance_text import EXTRA_STATE
from swa_cli.formats.safetensors.header import looks_like_safetensors, read_header
from swa_cli.formats.suffixes import SAFETENSORS
from swa_cli.formats.training_metrics import metrics_in_name, metrics_of_text
from swa_cli.formats.training_step import counters_of


@final
class SafetensorsReader:
    """See `CheckpointReader`."""

    name = "safetensors"
    description = "one safetensors file"
    written_by = "safetensors, transformers, diffusers, PEFT, timm, swa-cli"
    kept = "tied weights and, from the metadata, the step and metrics"
    suffixes = SAFETENSORS

    def claims(self, entry: PossibleCheckpoint) -> bool:
        """See `CheckpointReader`."""
        return looks_like_safetensors(entry.head)

    def parts(self, path: PurePath) -> Collection[str]:  # noqa: ARG002  # it is whole
        """See `CheckpointReader`."""
        return ()

    def open(self, entry: PossibleCheckpoint, *, key: str | None) -> Checkpoint:
        """See `CheckpointReader`.

        A name that the metadata map to a tensor's (``safetensors.torch.save_model`` does so for tied weights) is a name
        of that tensor too.
        """
        path, file = entry.path, entry.file
        if key is not None:
            msg = f"{path}: a safetensors file is flat and has no key {key!r}; leave out {option('key')}."
            raise CheckpointError(msg)
        header = read_header(path, file)
        return Checkpoint(
            path=path,
            stamps={path: file.stamp},
            tensors=header.tensors,
            metadata=header.metadata,
            counters=counters_of(header.metadata),
            metrics={**metrics_in_name(path), **metrics_of_text(header.metadata)},
            extra=_extra(header.metadata),
            container="safetensors",
            template="safetensors",
            stripped=header.stripped,
        )


def _extra(metadata: Mapping[str, str]) -> Mapping[str, object]:
    try:
        extra = json.loads(metadata.get(EXTRA_STATE, "{}"))
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", extra) if isinstance(extra, dict) else {}
