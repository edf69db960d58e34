"""Tied weights: one tensor under several names."""

from collections.abc import Sequence

from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.safetensors.header import RESERVED


def find_ties(sources: Sequence[Checkpoint]) -> dict[str, str]:
    """From every further name of a tensor to its first one, in the order of the newest source.

    Two names are one tensor if every source stores them at the same place (or maps one to the other, as safetensors
    files do in their metadata). A tensor that one source stores twice may differ there, and is then two.
    """
    newest = sources[-1]
    if any(_all_apart(source) for source in sources):
        return {}
    first_name: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for name, layout in newest.tensors.items():
        if layout.spec.numel == 0 or name in RESERVED or any(name not in source.tensors for source in sources):
            continue
        places = tuple(source.tensors[name] for source in sources)
        kept = first_name.setdefault(places, name)
        if kept != name:
            tied[name] = kept
    return tied


def _all_apart(source: Checkpoint) -> bool:
    return len({layout.origin for layout in source.tensors.values()}) == len(source.tensors)
