"""Random training runs: a model, its data and its checkpoints, with the commands that average and evaluate them."""

import json
import random
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

USER_CODE = '''\
"""A model and data, both described by spec.json."""

import json
from pathlib import Path

import torch
from torch import nn

SPEC = json.loads(Path(__file__).with_name("spec.json").read_text())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layers, before = [], SPEC["inputs"]
        for width, normalised in SPEC["hidden"]:
            layers.append(nn.Linear(before, width))
            if normalised:
                layers.append(nn.BatchNorm1d(width, momentum=None if width % 2 else 0.1))
            layers.append(nn.GELU())
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before, SPEC["classes"], bias=SPEC["bias"])
        if SPEC["tied"]:
            self.copy = nn.Linear(before, SPEC["classes"], bias=False)
            self.copy.weight = self.head.weight
        for name, dtype in SPEC["buffers"].items():
            self.register_buffer(name, torch.arange(5).to(getattr(torch, dtype)))

    def forward(self, x):
        return self.head(self.body(x))


class Data:
    def _batches(self, seed, n, size):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, SPEC["inputs"], generator=generator) + torch.arange(n)[:, None] / n
        y = (x.sum(1) * 3).round().to(torch.int64) % SPEC["classes"]
        return list(zip(x.split(size), y.split(size)))

    def train_dataloader(self):
        return self._batches(1, SPEC["n"], 16)

    def val_dataloader(self):
        return self._batches(2, 60, 25)

    def test_dataloader(self):
        return self._batches(3, SPEC["n"] // 2, 32)
'''

CONTAINERS = ("safetensors", "shards", "zip", "legacy", "trainer")
BUFFERS = ("counter", "größe 長さ", "a b/c", "…mask", "x" * 70, "quote'\"\\", "\N{ROCKET}")
FLOATS = ("float32", "float32", "float64", "float16", "bfloat16")


def make_run(folder: Path, seed: int) -> list[list[str]]:
    """Write the user's code and checkpoints into ``folder``; return the arguments of each command to run."""
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    hidden = [(chosen.randint(2, 40), chosen.random() < 0.7) for _ in range(chosen.randint(1, 4))]
    dtypes = ("int64", "int32", "uint8", "bool", "float32", "complex64")
    spec = {
        "inputs": chosen.randint(2, 9),
        "hidden": hidden,
        "classes": chosen.randint(2, 6),
        "bias": chosen.random() < 0.5,
        "tied": chosen.random() < 0.4,
        "buffers": {name: chosen.choice(dtypes) for name in chosen.sample(BUFFERS, chosen.randint(0, 4))},
        "n": 16 * chosen.randint(6, 18) + chosen.choice([0, 2, 9]),  # no batch of one: BatchNorm refuses it
    }
    folder.mkdir()
    (folder / "user.py").write_text(USER_CODE)
    (folder / "spec.json").write_text(json.dumps(spec))
    container, count = chosen.choice(CONTAINERS), chosen.randint(3, 8)
    changing = chosen.random() < 0.3
    paths = [
        write(folder / "ckpts", state, step=step, container=container)
        for step, state in enumerate(states(folder, chosen, count=count, changing=changing))
    ]
    return commands(chosen, [path.relative_to(folder) for path in paths], container, changing=changing)


def states(folder: Path, chosen: random.Random, *, count: int, changing: bool) -> list[dict[str, torch.Tensor]]:
    """State_dicts of the model in ``user.py`` as a run leaves them, in one or two dtypes."""
    namespace: dict[str, Any] = {"__file__": str(folder / "user.py"), "__name__": "user"}
    exec(USER_CODE, namespace)
    model, data = namespace["Net"](), namespace["Data"]()
    weights, statistics = getattr(torch, chosen.choice(FLOATS)), getattr(torch, chosen.choice(FLOATS))
    found: list[dict[str, torch.Tensor]] = []
    for step in range(count):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for inputs, _ in data.train_dataloader():
                model(inputs)
        made: dict[torch.Tensor, torch.Tensor] = {}  # tied tensors stay tied
        state = model.state_dict(keep_vars=True)
        for name, tensor in state.items():
            if changing and not tensor.is_floating_point() and not name.endswith("tracked"):
                tensor.add_(step) if tensor.dtype != torch.bool else tensor.logical_not_()
            dtype = statistics if "running" in name else weights if tensor.is_floating_point() else tensor.dtype
            made.setdefault(tensor, tensor.detach().to(dtype, copy=True))
        found.append({name: made[tensor] for name, tensor in state.items()})
    return found


def write(folder: Path, state: dict[str, torch.Tensor], *, step: int, container: str) -> Path:
    """One checkpoint; safetensors hold copies of tied tensors."""
    folder.mkdir(exist_ok=True)
    name, copies = f"epoch={step}-val_loss={1 / (1 + step % 3):.3f}", {key: state[key].clone() for key in state}
    match container:
        case "safetensors":
            path = folder / f"{name}.safetensors"
            save_file(copies, path, {"format": "pt"})
        case "shards":
            path = folder / f"checkpoint-{10 * (step + 1)}"
            path.mkdir()
            parts = [list(copies)[::2], list(copies)[1::2]]
            names = [f"model-{number + 1:05}-of-00002.safetensors" for number in range(2)]
            for part, name in zip(parts, names, strict=True):
                save_file({key: copies[key] for key in part}, path / name, {"format": "pt"})
            where = {key: name for part, name in zip(parts, names, strict=True) for key in part}
            index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in copies.values())}, "weight_map": where}
            (path / "model.safetensors.index.json").write_text(json.dumps(index))
            (path / "config.json").write_text('{"model_type": "net"}')
        case "zip" | "legacy":
            path = folder / f"{name}.pth"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.save(state, path, _use_new_zipfile_serialization=container == "zip")
        case _:
            path = folder / f"{name}.ckpt"
            optimizer = {"state": {0: {"exp_avg": torch.randn(50), "step": torch.tensor(3.0)}}, "param_groups": []}
            torch.save({"state_dict": state, "optimizer": optimizer, "epoch": step, "global_step": 100 * step}, path)
    return path


def commands(chosen: random.Random, paths: list[Path], container: str, *, changing: bool) -> list[list[str]]:
    """``inspect``, ``average``, ``verify``, ``bn-update`` and ``eval``, with random options that fit the run."""
    selections = [[], [], ["--last", "3"], ["--every", "2"], ["--first", "2"], ["--exclude", paths[1].name]]
    if container != "shards":
        selections.append(["--best", "2", "--metric", "val_loss", "--mode", "min"])
    selection = chosen.choice(selections)
    ways = [[], [], ["--ema", "0.9"], ["--dtype", chosen.choice(FLOATS)], ["--checksum"], ["--threads", "3"]]
    if not selection:
        ways.append(["--weights", ",".join(str(chosen.randint(1, 9)) for _ in paths)])
    integers = ["--integers", chosen.choice(["last", "first", "mean-round"])] if changing else []
    like = str(paths[chosen.randrange(len(paths))])
    output, form = chosen.choice(
        [
            ("swa.safetensors", []),
            ("swa.pt", []),
            ("swa", ["--max-shard-size", "2kB"]),
            ("swa" if container == "shards" else f"swa{Path(like).suffix}", ["--like", like]),
        ]
    )
    estimator = ["--estimator", chosen.choice(["population", "torch", "official", "sequential"])]
    batches = chosen.choice([[], ["--num-batches", "3"], ["--num-samples", "50"], ["--until-converged", "0.2"]])
    user = ["--model", "user.py:Net", "--data", "user.py:Data"]
    updated = f"updated{Path(output).suffix}"
    candidates = ["--compare-ensemble", "--control", "--greedy", "--no-best-by-val", "--curve=1,2"]
    rows = [flag for flag in candidates if chosen.random() < 0.5]
    if "--no-best-by-val" in rows:
        rows = [flag for flag in rows if flag not in {"--greedy", "--curve=1,2"}]
    reports = ["--json", "eval.json", "--csv", "eval.csv", "--markdown", "eval.md", "--save-records", "records.npz"]
    return [
        ["inspect", "ckpts", "--json"],
        ["average", "ckpts", "-o", output, *selection, *chosen.choice(ways), *integers, *form],
        ["verify", output],
        ["bn-update", output, "-o", updated, "--json", "bn.json", *user, *estimator, *batches],
        ["eval", "ckpts", *selection, "--swa", updated, *user, *rows, *reports],
    ]
