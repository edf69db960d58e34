"""Checkpoints as torch's HuggingFaceStorageWriter writes them from several ranks, made in one process.

How a tensor is sharded follows from the first letter of its name: (r)ows, (c)olumns, a (g)rid of two rows of ranks,
(w)hole on one rank. ``dcp_program.py`` gives the same names to torch's own writer.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

INFO = "DCP_SHARDING_INFO"


def state_of(step: int) -> dict[str, torch.Tensor]:
    """Tensors of even and uneven sizes; some ranks have nothing of the small ones."""
    random = torch.Generator().manual_seed(step)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    return {
        "r.even": drawn(12, 4),
        "r.uneven": drawn(7, 3, 2),
        "r.small": drawn(1, 5),
        "r.bias": drawn(5),
        "r.half": drawn(9, 4).bfloat16(),
        "c.even": drawn(6, 12),
        "c.uneven": drawn(6, 10).half(),
        "g.even": drawn(6, 8),
        "g.uneven": drawn(5, 7),
        "w.scalar": drawn(),
        "w.matrix": drawn(3, 3),
        "w.none": drawn(0, 4),
        "w.count": torch.tensor(17),
    }


def shards(name: str, tensor: torch.Tensor, ranks: int) -> Iterator[tuple[int, tuple[int, ...], torch.Tensor]]:
    """Rank, first index and values of each shard; empty ones, which torch writes for some ranks, are left out."""
    across = 2 if ranks % 2 == 0 else 1
    splits = {"r": (ranks, 1), "c": (1, ranks), "g": (across, ranks // across), "w": (1, 1)}[name[0]]
    rows = [(0, tensor)]
    if tensor.ndim:
        rows = _chunks(tensor, splits[0], 0)
    for row, (first, part) in enumerate(rows):
        columns = _chunks(part, splits[1], 1) if tensor.ndim > 1 else [(0, part)]
        for column, (second, shard) in enumerate(columns):
            start = (first, second, *(0 for _ in tensor.shape[2:]))[: tensor.ndim]
            yield row * splits[1] + column, start, shard.contiguous()


def _chunks(tensor: torch.Tensor, count: int, axis: int) -> list[tuple[int, torch.Tensor]]:
    parts = tensor.chunk(count, axis)
    return [(sum(part.shape[axis] for part in parts[:number]), part) for number, part in enumerate(parts)]


def save_parts(state: Mapping[str, torch.Tensor], folder: Path, ranks: int, *, files: int = 1) -> Path:
    """Write one part for each rank, or several if the tensors are dealt out to so many ``files``."""
    folder.mkdir(parents=True)
    parts: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    starts: dict[tuple[int, int], dict[str, object]] = {}
    for number, (name, tensor) in enumerate(state.items()):
        for rank, start, shard in shards(name, tensor, ranks):
            where = rank + 1, number % files + 1
            parts.setdefault(where, {})[name] = shard
            starts.setdefault(where, {})[name] = {"saved_offsets": start}
    for (rank, file), tensors in parts.items():
        path = folder / f"shard-{rank:05}-model-{file:05}-of-{files:05}.safetensors"
        save_part(path, tensors, starts[rank, file])
    return folder


def save_part(path: Path, tensors: Mapping[str, torch.Tensor], starts: object) -> None:
    """Write one part; a ``starts`` that is text is written as it is."""
    info = starts if isinstance(starts, str) else json.dumps(starts)
    save_file(dict(tensors), path, metadata={INFO: info, "DCP_VERSION": "1.0", "format": "pt"})
