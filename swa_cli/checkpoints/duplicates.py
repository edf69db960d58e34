"""Finding duplicates: a trainer's ``last.ckpt`` or ``model_best.pth`` is a copy of another checkpoint."""

import hashlib
from collections.abc import Sequence

from swa_cli.formats import Checkpoint, TensorLayout, natural_key, step_in_name

_SAMPLED_TENSORS = 64
_SAMPLE = 256
_CHUNK = 1 << 20


def without_copies(checkpoints: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[tuple[Checkpoint, Checkpoint]]]:
    """Keep one of several files with the same tensors, unless their steps differ; also return the duplicates.

    Each duplicate comes with the file that is kept in its place, which is one with a step in its name if possible. A
    few kilobytes distinguish most files; only files that agree there are read whole.
    """
    kept: dict[object, list[Checkpoint]] = {}
    names: dict[int, tuple[str, ...]] = {}  # of each layout, in an order that no container has a part in
    copies: list[tuple[Checkpoint, Checkpoint]] = []
    preferred = sorted(checkpoints, key=lambda c: (step_in_name(c.path) is None, natural_key(c.path)))
    for checkpoint in preferred:
        layout = id(checkpoint.tensors)
        if layout not in names:
            names[layout] = tuple(sorted(checkpoint.tensors))
        alike = kept.setdefault((names[layout], _fingerprint(checkpoint, names[layout])), [])
        original = next(
            (other for other in alike if _may_be_copy(checkpoint, other) and _equal(other, checkpoint)), None
        )
        if original is None:
            alike.append(checkpoint)
        else:
            copies.append((checkpoint, original))
    return [checkpoint for alike in kept.values() for checkpoint in alike], copies


def _may_be_copy(checkpoint: Checkpoint, original: Checkpoint) -> bool:
    """Return whether the steps in two files allow them to be copies; some containers record more than others."""
    common = checkpoint.counters.keys() & original.counters.keys()
    if common:
        return all(checkpoint.counters[name] == original.counters[name] for name in common)
    step = step_in_name(checkpoint.path)
    return step is None or step == step_in_name(original.path)


def _fingerprint(checkpoint: Checkpoint, names: Sequence[str]) -> bytes:
    stride = max(1, len(names) // _SAMPLED_TENSORS)
    digest = hashlib.sha256()
    for name in names[::-stride]:  # from the end: heads differ where a body is frozen
        numel = checkpoint.spec(name).numel
        start = max(0, (numel - _SAMPLE) // 2)
        digest.update(checkpoint.get_elements(name, start, min(numel, start + _SAMPLE)).tobytes())
    return digest.digest()


def _equal(first: Checkpoint, second: Checkpoint) -> bool:
    if any(first.spec(name) != second.spec(name) for name in first.tensors):
        return False
    seen: set[tuple[TensorLayout, TensorLayout]] = set()
    for name in first.tensors:
        places = first.tensors[name], second.tensors[name]
        if places in seen:  # tied
            continue
        seen.add(places)
        numel = first.spec(name).numel
        for start in range(0, numel, _CHUNK):
            stop = min(numel, start + _CHUNK)
            if first.get_elements(name, start, stop).tobytes() != second.get_elements(name, start, stop).tobytes():
                return False
    return True
