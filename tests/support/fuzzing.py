"""Damaged files of every kind that swa-cli reads: the originals, what is damaged, and the commands that read them.

Mutant ``n`` is always the same. Used by test_fuzz.py.
"""

import argparse
import io
import json
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import nn

from support.evaluating import MODEL_AND_DATA, prepared

LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
OPCODES = b"(.012FIJKLMNPQRSTUVXabcde}giohjl]pqrstu)GBC" + bytes(range(0x80, 0x99))
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf"), -0.0),
    *("", ".", "..", "../..", "/etc/passwd", "/dev/zero", "\0", "a\0b", "\x1b[31m", "\u202e", "\ud800", "x" * 5000),
    *("9" * 400, "1e999", "float32", "mean", [], {}, [[]], {"": None}, [None] * 3, [[[[[[[[[[[[]]]]]]]]]]]]),
)


@dataclass(frozen=True, kw_only=True)
class Seed:
    """Files that a command reads, one of which is damaged.

    Attributes:
        file: the one, relative to the folder of all.
        commands: names and arguments of commands, each of which reads it.
        check: what is asked of it besides: "torch" (reads as torch does), "verify" (any damage is found), "cache".
    """

    file: str
    commands: tuple[tuple[str, Mapping[str, Any]], ...]
    check: str = ""


# The originals


def write_seeds(folder: Path, run: Callable[..., Any]) -> list[Seed]:
    """Write all originals below ``folder``, which is the current one, with ``swa`` itself where it writes them.

    Args:
        run: runs ``swa`` with arguments.
    """
    return [*_checkpoints(folder), *_folders(folder), *_written(folder, run), *_evaluated(folder, run), *_configured()]


def trained_contents() -> list[Any]:
    """A training script's checkpoint, whole modules, a state_dict."""
    torch.manual_seed(0)
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = OrderedDict(
        {
            "module.w": base,
            "module.tied": base,
            "module.turned": base.permute(2, 0, 1),
            "module.wide": base[:, :1].expand(2, 5, 4),
            "module.b": torch.ones(3, dtype=torch.bfloat16),
            "module.n": torch.tensor(7),
            "module._extra_state": {"scale": [1.0, None, True]},
        }
    )
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    trained = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, names={"a", "b"}),
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }
    return [trained, {"model": module, "ema": module, "rng": torch.get_rng_state()[:8]}, state]


def _checkpoints(folder: Path) -> list[Seed]:
    """Single files of every container."""
    seeds: list[Seed] = []
    for number, content in enumerate(trained_contents()):
        for form, options in (("zip", {}), ("legacy", {"_use_new_zipfile_serialization": False})):
            seeds.append(_checkpoint(f"{form}-{number}.pt"))
            torch.save(content, folder / seeds[-1].file, **options)
    seeds.append(_checkpoint("protocol-5.pt"))
    torch.save(trained_contents()[0], folder / seeds[-1].file, pickle_protocol=5)
    seeds.append(_checkpoint("plain.safetensors"))
    tensors = {"w": torch.arange(24.0).reshape(2, 3, 4), "b": torch.ones(2), "n": torch.tensor(7)}
    safetensors.torch.save_file(tensors, folder / seeds[-1].file, {"step": "3"})
    for seed in seeds:
        (folder / f"other-{seed.file}").write_bytes((folder / seed.file).read_bytes())
    return seeds


def _checkpoint(name: str) -> Seed:
    sources = [Path(name), Path(f"other-{name}")]
    commands = (("inspect", {"sources": sources[:1]}), ("average", {"sources": sources, "dry_run": True}))
    # torch.load(weights_only=True) knows neither modules in files from before torch 1.6 nor pickle's protocol 5.
    unknown = name.endswith(".safetensors") or name in {"legacy-1.pt", "protocol-5.pt"}
    return Seed(file=name, commands=commands, check="" if unknown else "torch")


def _folders(folder: Path) -> list[Seed]:
    """A Trainer's run of sharded checkpoints."""
    torch.manual_seed(1)
    for step in (10, 20):
        where = folder / f"run/checkpoint-{step}"
        where.mkdir(parents=True)
        shards = {"model-00001-of-00002.safetensors": "a.w", "model-00002-of-00002.safetensors": "b.w"}
        for shard, name in shards.items():
            safetensors.torch.save_file({name: torch.randn(3, 2)}, where / shard, {"format": "pt"})
        index = {"metadata": {"total_size": 48}, "weight_map": {name: shard for shard, name in shards.items()}}
        (where / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
        (where / "config.json").write_text(json.dumps({"architectures": ["Net"], "hidden_size": 2}))
        log = [{"step": at, "epoch": at / 10, "eval_loss": 1 / at, "loss": 2 / at} for at in (10, 20) if at <= step]
        state = {"global_step": step, "epoch": step / 10, "best_metric": 0.1, "log_history": log}
        (where / "trainer_state.json").write_text(json.dumps(state, indent=1))
    run: dict[str, Any] = {"sources": [Path("run")], "dry_run": True}
    commands = (
        ("inspect", {"sources": [Path("run")]}),
        ("average", {**run, "best": 1, "metric": "eval_loss", "mode": "min"}),
        ("average", {**run, "like": Path("run/checkpoint-20"), "output": Path("like-run")}),
    )
    names = ("model.safetensors.index.json", "config.json", "trainer_state.json", "model-00001-of-00002.safetensors")
    return [Seed(file=f"run/checkpoint-20/{name}", commands=commands) for name in names]


def _written(folder: Path, run: Callable[..., Any]) -> list[Seed]:
    """Averages in every form of output."""
    generator = torch.Generator().manual_seed(2)
    (folder / "sources").mkdir()
    contents: dict[str, Any] = {}
    for step in range(2):
        state = {
            "a.weight": torch.randn(4, 3, generator=generator),
            "b.weight": torch.randn(5, generator=generator).to(torch.bfloat16),
            "bn.num_batches_tracked": torch.tensor(step),
        }
        state["tied"] = state["a.weight"]
        contents = {"state_dict": state, "epoch": step, "optimizer": {"state": {0: torch.randn(2)}}}
        torch.save(contents, folder / f"sources/epoch-{step}.pt")
    torch.save(contents, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    forms = {
        "swa.safetensors": (),
        "summed.safetensors": ("--checksum",),
        "swa.pt": (),
        "like-zip.pt": ("--like", "sources/epoch-1.pt"),
        "like-legacy.pth": ("--like", "legacy.pth"),
        "sharded": ("--max-shard-size", "60"),
    }
    seeds: list[Seed] = []
    for name, options in forms.items():
        result = run("average", "sources", "-o", name, *options)
        assert result.exit_code == 0, result.output
        files = sorted((folder / name).iterdir()) if (folder / name).is_dir() else [folder / name]
        commands = (("verify", {"swa": Path(name)}), ("inspect", {"sources": [Path(name)]}))
        seeds += [Seed(file=str(file.relative_to(folder)), commands=commands, check="verify") for file in files]
    return seeds


def _evaluated(folder: Path, run: Callable[..., Any]) -> list[Seed]:
    """Records in both forms, and an output that is cached."""
    prepared(folder)
    evaluated = ("eval", "ckpts", "--last", "2", "--swa", "mean.safetensors", *MODEL_AND_DATA, "--compare-ensemble")
    for arguments in (
        ("average", "ckpts", "--last", "2", "-o", "mean.safetensors"),
        ("bn-update", "mean.safetensors", *MODEL_AND_DATA),
        (*evaluated, "--cache", "cache", "--save-records", "records.npz"),
        (*evaluated, "--save-records", "records.parquet"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    cached = next(path for path in sorted((folder / "cache").rglob("*.safetensors")))
    return [
        *(
            Seed(file=f"records.{form}", commands=(("eval", {"from_records": Path(f"records.{form}")}),))
            for form in ("npz", "parquet")
        ),
        Seed(file=str(cached.relative_to(folder)), commands=(), check="cache"),
        Seed(file="mean.safetensors", commands=(("verify", {"swa": Path("mean.safetensors")}),), check="verify"),
    ]


def _configured() -> list[Seed]:
    options = {"sources": ["sources"], "output": "out", "last": 2, "every": 1, "dtype": "float32"}
    more = {"weights": [1, 2], "include": ["epoch-*"], "max_shard_size": "5GB", "device": "cpu", "threads": 2}
    evaluated = {"margin": {"accuracy": 0.5}, "curve": [1, 2], "compare_ensemble": True}
    model = {"class_path": "evalcode.py:Net", "init_args": {"classes": 3}}
    contents = {"model": model, "average": {**options, **more}, "bn_update": {"seed": 0}, "eval": evaluated}
    Path("run.yaml").write_text(yaml.safe_dump(contents))
    config = {"config": Path("run.yaml")}
    commands = (("average", {**config, "dry_run": True}), ("inspect", config))
    return [Seed(file="run.yaml", commands=commands)]


# What is done to them: bytes


def _flip(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)


def _replace(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    data[chosen.randrange(len(data))] = chosen.randrange(256)


def _truncate(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    del data[chosen.randrange(len(data)) :]


def _insert(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    at = chosen.randrange(len(data))
    data[at:at] = chosen.randbytes(chosen.randint(1, 8))


def _insert_opcodes(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    at = chosen.randrange(len(data))
    data[at:at] = bytes(chosen.choices(OPCODES, k=chosen.randint(1, 6)))


def _replace_opcode(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    data[chosen.randrange(len(data))] = chosen.choice(OPCODES)


def _repeat(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    first = chosen.randrange(len(data))
    part = data[first : first + chosen.randint(1, 40)]
    data[first:first] = part * chosen.choice((1, 2, 50))


def _splice(data: bytearray, chosen: Random, others: list[bytes]) -> None:
    other = chosen.choice(others)
    at, first = chosen.randrange(len(data)), chosen.randrange(len(other))
    size = chosen.randint(1, 200)
    data[at : at + chosen.choice((0, size))] = other[first : first + size]


def _edit_length(data: bytearray, chosen: Random, _others: list[bytes]) -> None:
    size = chosen.choice((1, 2, 4, 8))
    at = chosen.randrange(max(1, len(data) - size))
    data[at : at + size] = (chosen.choice(LENGTHS) % (1 << 8 * size)).to_bytes(size, "little")


MUTATIONS: tuple[Callable[[bytearray, Random, list[bytes]], None], ...] = (
    *(_flip, _replace, _truncate, _insert, _insert_opcodes, _replace_opcode, _repeat, _splice, _edit_length),
)


def _with_bytes_changed(content: bytes, chosen: Random, others: list[bytes]) -> bytes:
    data = bytearray(content)
    for _ in range(chosen.choice((1, 1, 2, 4, 8))):
        chosen.choice(MUTATIONS)(data, chosen, others)
        if not data:
            break
    return bytes(data)


# What is done to them: values of JSON


def _with_values_changed(text: str, chosen: Random) -> str:
    """JSON (or a text that holds some) in which values are replaced, added, renamed or left out."""
    value = json.loads(text)
    for _ in range(chosen.choice((1, 1, 1, 2, 4))):
        value = _edited(value, chosen)
    return json.dumps(value)


def _edited(value: Any, chosen: Random) -> Any:
    if isinstance(value, str) and value.startswith("{") and chosen.random() < 0.9:  # JSON within JSON
        with suppress(ValueError):
            return _with_values_changed(value, chosen)
    if not isinstance(value, (dict, list)) or not value or chosen.random() < 0.15:
        return chosen.choice(ODD_VALUES)
    if isinstance(value, list):
        place = chosen.randrange(len(value))
        return [*value[:place], *_instead(value[place], chosen), *value[place + 1 :]]
    name = chosen.choice(list(value))
    odd = str(chosen.choice(ODD_VALUES))
    left_out = {key: entry for key, entry in value.items() if key != name}
    return chosen.choice((left_out, value | {odd: value[name]}, *[value | {name: _edited(value[name], chosen)}] * 6))


def _instead(value: Any, chosen: Random) -> list[Any]:
    what = chosen.random()
    return [] if what < 0.1 else [value, value] if what < 0.2 else [_edited(value, chosen)]


def _safetensors_changed(content: bytes, chosen: Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = _with_values_changed(content[8 : 8 + size].decode(), chosen).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


# Mutants


def mutant(content: bytes, name: str, chosen: Random, others: list[bytes]) -> bytes:
    """``content`` damaged: its bytes, those of one record if it is a zip, or the values of the JSON in it."""
    if chosen.random() < 0.5:
        return _with_bytes_changed(content, chosen, others)
    if content.startswith(b"PK"):
        return _zip_changed(content, chosen, others)
    with suppress(ValueError, yaml.YAMLError):
        if name.endswith(".safetensors"):
            return _safetensors_changed(content, chosen)
        if name.endswith(".json"):
            return _with_values_changed(content.decode(), chosen).encode()
        if name.endswith(".yaml"):
            changed = json.loads(_with_values_changed(json.dumps(yaml.safe_load(content)), chosen))
            return yaml.safe_dump(changed, allow_unicode=chosen.random() < 0.5).encode(errors="surrogatepass")
    return _with_bytes_changed(content, chosen, others)


def _zip_changed(content: bytes, chosen: Random, others: list[bytes]) -> bytes:
    """One record of an archive is damaged, which else is whole."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(stream, "w") as target:
        infos = source.infolist()
        pickles = [info for info in infos if re.search(r"data\.pkl|swa_cli", info.filename)]
        damaged = chosen.choice(pickles or infos) if chosen.random() < 0.9 else chosen.choice(infos)
        for info in infos:
            data = source.read(info)
            if info is damaged:
                data = _record_changed(data, chosen, others)
            target.writestr(zipfile.ZipInfo(info.filename), data, info.compress_type)
            if info is damaged and chosen.random() < 0.02:
                with warnings.catch_warnings(action="ignore"):  # the same name twice
                    target.writestr(zipfile.ZipInfo(info.filename), source.read(info), info.compress_type)
    return stream.getvalue()


def _record_changed(data: bytes, chosen: Random, others: list[bytes]) -> bytes:
    if data.startswith(b"{") and chosen.random() < 0.8:
        with suppress(ValueError):
            return _with_values_changed(data.decode(), chosen).encode(errors="surrogatepass")
    if data.startswith(b"\x93NUMPY") and b"<U" in data[:100] and chosen.random() < 0.8:
        return _array_of_text_changed(data, chosen)
    return _with_bytes_changed(data, chosen, others) if data else b"?"


def _array_of_text_changed(data: bytes, chosen: Random) -> bytes:
    stream = io.BytesIO()
    text = _with_values_changed(str(np.load(io.BytesIO(data))), chosen)
    np.save(stream, np.array(text))
    return stream.getvalue()
