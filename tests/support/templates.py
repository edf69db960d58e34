"""Averages written like another checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePath

import torch
from safetensors.torch import save_file

from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.formats import open_checkpoint
from swa_cli.outputs import Like, Target


def plan_of(*paths: Path, **options):
    return plan_average(find_checkpoints(paths).checkpoints, **options)


def average_like(sources: Sequence[PurePath], like: Path, output: Path, *, key: str | None = None) -> None:
    plan = plan_average([open_checkpoint(path, key=key) for path in sources])
    average(plan, Target(path=output, like=Like(checkpoint=open_single(like, key=key), key=key)))


def state_of_all_kinds() -> dict[str, torch.Tensor]:
    base = torch.randn(40)
    return {
        "float32": torch.randn(3, 4),
        "float64": torch.randn(5).double(),
        "bfloat16": torch.randn(7).bfloat16(),
        "float8": torch.randn(9).to(torch.float8_e4m3fn),
        "complex128": torch.randn(2, dtype=torch.complex128),
        "complex64": torch.randn(2, dtype=torch.complex64),
        "uint16": torch.arange(5).to(torch.uint16),
        "int8": torch.arange(5).to(torch.int8),
        "uint8": torch.arange(5).to(torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "transposed": torch.randn(6, 5).t(),
        "expanded": torch.randn(4, 1).expand(4, 6),
        "view": base[10:30:2],
        "overlapping": base.as_strided((5, 4), (2, 1)),
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and torch.equal(
            first.contiguous().reshape(-1).view(torch.uint8), second.contiguous().reshape(-1).view(torch.uint8)
        )
    )


def huggingface(folder: Path, value: float, *, sharded: bool = False) -> Path:
    folder.mkdir(parents=True)
    tensors = {"a.weight": torch.full((4,), value), "b.weight": torch.full((6,), value)}
    if sharded:
        for number, (name, tensor) in enumerate(tensors.items(), 1):
            torch.save({name: tensor}, folder / f"pytorch_model-0000{number}-of-00002.bin")
        where = {name: f"pytorch_model-0000{number}-of-00002.bin" for number, name in enumerate(tensors, 1)}
        index = {"metadata": {"total_size": 40, "more": 1}, "weight_map": where}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt", "spiece.model",
                 "special_tokens_map.json", "generation_config.json", "modeling_own.py", "chat_template.jinja",
                 "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json",
                 "README.md", "zero_to_fp32.py", ".hidden.json"):  # fmt: skip
        (folder / name).write_text(name)
    return folder
