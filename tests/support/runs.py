"""Runs of checkpoints with tensors of all kinds, in every container."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from swa_cli.averaging import plan_average
from swa_cli.averaging.plan import AveragePlan
from swa_cli.formats import open_checkpoint


def states_of_all_kinds(n: int = 5) -> list[dict[str, torch.Tensor]]:
    """Dense, transposed, channels-last, overlapping, tied, complex, narrow, empty and integer tensors."""
    made = []
    for step in range(n):
        base = torch.randn(7, 30)
        tied = torch.randn(3, 3)
        made.append(
            {
                "a": base,
                "b.t": base.t(),
                "c.columns": base[:, 3:9],
                "d.overlap": base.as_strided((5, 8), (3, 2)),
                "e.last": torch.randn(2, 5, 4, 4).to(memory_format=torch.channels_last),
                "f.permuted": torch.randn(4, 5, 6).permute(2, 0, 1),
                "g.expanded": torch.randn(1, 6).expand(9, 6),
                "h.tied": tied,
                "h.tied_too": tied,
                "i.complex": torch.randn(11, dtype=torch.complex64),
                "j.half": torch.randn(40).half(),
                "k.brain": torch.randn(40).bfloat16(),
                "l.eight": torch.randn(40).to(torch.float8_e4m3fn),
                "m.double": torch.randn(3, 9, dtype=torch.float64),
                "n.empty": torch.empty(0, 4),
                "o.scalar": torch.randn(()),
                "p.ids": torch.arange(50),
                "p.mask": torch.tensor([True, False]),
                "q.num_batches_tracked": torch.tensor(10 * step),
                **{f"r.{i}": torch.randn(i) for i in range(1, 12)},
            }
        )
    return made


def save_as(container: str, state: dict[str, torch.Tensor], path: Path) -> Path:
    """One state_dict in some container; the safetensors ones keep one name of tied tensors, as their libraries do."""
    if container == "torch":
        torch.save(state, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    if container == "nested":
        torch.save({"optimizer": {0: torch.randn(50)}, "epoch": 1, "model": state}, path.with_suffix(".pth"))
        return path.with_suffix(".pth")
    if container == "reversed":
        torch.save(dict(reversed(state.items())), path.with_suffix(".ckpt"))
        return path.with_suffix(".ckpt")
    kept = {name: tensor.contiguous().clone() for name, tensor in state.items() if name != "h.tied_too"}
    metadata = {"h.tied_too": "h.tied"}
    if container == "safetensors":
        save_file(kept, path.with_suffix(".safetensors"), metadata=metadata)
        return path.with_suffix(".safetensors")
    return save_sharded(kept, path, metadata, n=int(container.removeprefix("shards ")))


def save_sharded(state: dict[str, torch.Tensor], folder: Path, metadata: dict[str, str], n: int) -> Path:
    folder.mkdir()
    names = list(state)
    where = {}
    for shard in range(n):
        file = f"model-{shard + 1:05}-of-{n:05}.safetensors"
        part = {name: state[name] for name in names[shard::n]}
        own = {name: kept for name, kept in metadata.items() if kept in part}
        save_file(part, folder / file, metadata=own)
        where |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    raw = (first.contiguous().view(-1).view(torch.uint8), second.contiguous().view(-1).view(torch.uint8))
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(*raw)


def plan_of(paths: list[Path]) -> AveragePlan:
    return plan_average([open_checkpoint(path) for path in paths])
