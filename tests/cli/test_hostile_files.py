"""Small files that ask for much time or memory: whatever they hold, a command takes little of both, and says something.

The commands run one after the other in one process, which measures each.
"""

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from support.containers import forged, saved

pytestmark = pytest.mark.slow

SECONDS, MEGABYTES = 6, 300
"""Of the processor, three times what is promised, since the machine may be busy; of memory over what it has idle."""
MEASURE = """
import json, re, sys, time
from pathlib import Path
import swa_cli.pipeline.average, swa_cli.report.inspect, swa_cli.pipeline.evaluation.records_io
from swa_cli.cli import main

def peak():
    found = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
    Path("/proc/self/clear_refs").write_text("5")  # from here on another peak is measured
    return found

for argv in json.loads(sys.argv[1]):
    peak()
    before, started, code = peak(), time.process_time(), 0
    sys.argv = ["swa", *argv]
    try:
        main.swa()
    except SystemExit as end:
        code = end.code
    print("\\n#", json.dumps([code, time.process_time() - started, peak() - before]), file=sys.stderr)
"""
SIZE = 3 << 20


def counted(text: bytes) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text


def pickled(content: bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        return ["inspect", str(forged(folder, b"\x80\x04" + content))]

    return make


def many_copies(folder: Path) -> list[str]:
    copy = {"w": torch.ones(1)}
    torch.save({"model": copy, **{f"ema_{number}": copy for number in range(30_000)}}, folder / "a.pt")
    return ["inspect", str(folder)]


def many_metrics(folder: Path) -> list[str]:
    metrics = {f"m{number}": float(number) for number in range(50_000)}
    for step in range(2):
        torch.save({"epoch": step, "metrics": metrics, "model": {"w": torch.ones(1) * step}}, folder / f"{step}.pt")
    return ["inspect", str(folder)]


def many_shards(folder: Path) -> list[str]:
    where = {f"w{number}": f"{number}.safetensors" for number in range(100_000)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return ["average", str(folder), "-o", "x.pt"]


def of_modules(folder: Path) -> list[str]:
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(20):
        module = nn.ModuleList([module, module])
    return ["inspect", str(saved({"model": module}, folder / "x.pt"))]


def of_equal_files(tensors: Callable[[], dict[str, torch.Tensor]]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        for name in ("1.pt", "2.pt"):
            saved({"epoch": 3, "state_dict": tensors()}, folder / name)
        return ["average", str(folder), "--dry-run"]

    return make


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(1 << 18).float()
    return {f"w{i}": base[i:] for i in range(1000)}


def far_apart() -> dict[str, torch.Tensor]:
    base = torch.arange(1 << 18).float()
    return {f"w{i}": base.as_strided((900,), (280,), i) for i in range(2000)}


def tied() -> dict[str, torch.Tensor]:
    base = torch.arange(1 << 18).float()
    return {f"w{i}": base for i in range(3000)}


def safetensors(header: bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        return ["inspect", str(folder / "x.safetensors")]

    return make


def beside_a_model(name: str, content: bytes) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        saved({"w": torch.ones(1)}, folder / "pytorch_model.bin")
        (folder / name).write_bytes(content)
        return ["inspect", str(folder / (name if "index" in name else "pytorch_model.bin"))]

    return make


def records(arrays: int, numel: int) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        np.savez_compressed(folder / "x.npz", *(np.zeros(numel) for _ in range(arrays)))
        return ["eval", "--from-records", str(folder / "x.npz")]

    return make


def many_records(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "x.npz", "w") as file:
        for number in range(20_000):
            file.writestr(str(number), b"")
    return ["eval", "--from-records", str(folder / "x.npz")]


def parquet(folder: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"unit": np.zeros(30_000_000, np.int64)}), folder / "x.parquet")
    return ["eval", "--from-records", str(folder / "x.parquet")]


def configuration(text: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "x.yaml").write_text(text)
        return ["average", "--config", str(folder / "x.yaml")]

    return make


DOUBLED = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 31))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 31))
T = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)Rq\x00"

TENSOR = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R"
STATE = b"}(" + b"".join(counted(b"%d" % i) + b"N" for i in range(100_000)) + b"u"


def of_states(state: bytes, *, is_wrapped: bool) -> Callable[[Path], list[str]]:
    """Parameters that share a large state, made by their own function or through that of subclasses of tensors."""
    parameter = b"ctorch._utils\n_rebuild_parameter_with_state\n"
    call = parameter + b"q\x000(" + TENSOR + b"\x89N" + state + b"tq\x010"
    if is_wrapped:
        call += b"(h\x00ctorch\nTensor\nh\x01}tq\x010ctorch._tensor\n_rebuild_from_type_v2\nq\x000"
    return pickled(call + b"h\x00h\x01R0" * 100_000 + b"}.")


def of_keys(rest: bytes) -> Callable[[Path], list[str]]:
    """One tuple of 990 parts, in the memo at 0, and what uses it as a key."""
    return pickled(b"(" + b"N" * 990 + b"tq\x000" + rest + b".")


FILES: dict[str, Callable[[Path], list[str]]] = {
    "lists": pickled(b"]" * SIZE + b"."),
    "marks": pickled(b"(" * SIZE + b"}."),
    "a memo of all": pickled(b"}\x94" * (SIZE // 2) + b"}."),
    "sets": pickled(b"\x8f(\x90" * (SIZE // 3) + b"}."),
    "a long name above mappings of tensors": pickled(
        T
        + b"0}"
        + counted(b"k" * SIZE)
        + b"}("
        + b"".join(counted(b"%d" % i) + b"}" + counted(b"w") + b"h\x00s" for i in range(3000))
        + b"us."
    ),
    "a dict copied again and again": pickled(
        b"ccollections\nOrderedDict\nq\x00}q\x01("
        + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in range(30_000))
        + b"u0"
        + b"h\x00h\x01\x85R0" * 100_000
        + b"}."
    ),
    "a state of many parameters": of_states(STATE, is_wrapped=False),
    "a state in two parts": of_states(STATE + b"N\x86", is_wrapped=False),
    "a state of many parameters of a subclass": of_states(STATE, is_wrapped=True),
    "a state in two parts of a subclass": of_states(STATE + b"N\x86", is_wrapped=True),
    "a large tuple as a key again and again": of_keys(b"}(" + b"h\x00N" * 800_000 + b"u"),
    "a large tuple in a frozenset again and again": of_keys(b"(" + b"h\x00" * 800_000 + b"\x91"),
    "a large tuple in a set's list again and again": of_keys(b"cbuiltins\nset\n](" + b"h\x00" * 800_000 + b"e\x85R"),
    "many sets of a large tuple": of_keys(
        b"cbuiltins\nset\nq\x02]h\x00aq\x0300" + b"h\x02h\x03\x85R0" * 300_000 + b"}"
    ),
    "tuples as keys": pickled(b"}(" + b"".join(b"K%cK%c\x86N" % (i & 255, i >> 8) for i in range(60_000)) + b"u."),
    "modules that are shared": of_modules,
    "equal files of expanded tensors": of_equal_files(
        lambda: {f"w{i}": torch.arange(4.0).expand(1 << 20, 4) for i in range(9)}
    ),
    "equal files of views": of_equal_files(views),
    "equal files of elements far apart": of_equal_files(far_apart),
    "equal files of tied tensors": of_equal_files(tied),
    "a header of a long shape": safetensors(
        b'{"w":{"dtype":"F32","shape":[' + b"1," * (SIZE // 2) + b'1],"data_offsets":[0,4]}}'
    ),
    "a header of many metadata": safetensors(
        b'{"__metadata__":{'
        + b",".join(b'"%x":""' % i for i in range(200_000))
        + b'},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "a state of empty lists": beside_a_model(
        "trainer_state.json", b'{"global_step":1,"log_history":[' + b"[]," * (SIZE // 3) + b"[]]}"
    ),
    "a state of long numbers": beside_a_model(
        "trainer_state.json", b'{"global_step":1,"log_history":[{"step":1,"loss":1' + b"0" * 400 + b"}]}"
    ),
    "an index of empty lists": beside_a_model("x.safetensors.index.json", b'{"a":[' + b"[]," * (SIZE // 3) + b"[]]}"),
    "an index too deep": beside_a_model("x.safetensors.index.json", b"[" * 100_000),
    "records that are compressed": records(4, 1 << 24),
    "records of many arrays": many_records,
    "records of one value": parquet,
    "aliases": configuration(f"{DOUBLED}average: *a30\n"),
    "aliases that are merged": configuration(f"{MERGED}average: *a30\n"),
    "an alias of itself": configuration("average: &a [*a]\n"),
    "many faults": configuration(f"average: {{{', '.join(f'k{number}: 1' for number in range(9000))}}}\n"),
    "many EMA copies": many_copies,
    "many metrics": many_metrics,
    "many shards that are missing": many_shards,
    "a long list": configuration("average: [" + "a," * 100_000 + "]\n"),
}


def test_a_small_file_takes_little_time_and_memory(tmp_path):
    commands: dict[str, list[str]] = {}
    for number, name in enumerate(FILES):
        folder = tmp_path / str(number)
        folder.mkdir()
        commands[name] = FILES[name](folder)
        assert sum(file.stat().st_size for file in folder.iterdir()) < 16 << 20, name

    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([*commands.values()])],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=240,
        env={**os.environ, "COLUMNS": "200"},
    )

    measured = [line.removeprefix("# ") for line in ran.stderr.splitlines() if line.startswith("# [")]
    assert len(measured) == len(commands)
    for name, line in zip(commands, measured, strict=True):
        code, seconds, megabytes = json.loads(line)
        assert code in {0, 1, 2}, name
        assert seconds < SECONDS, (name, seconds)
        assert megabytes < MEGABYTES, (name, megabytes)
    assert "Traceback" not in ran.stderr
    assert "a bug in swa-cli" not in ran.stderr
    assert len(ran.stderr) + len(ran.stdout) < 100_000
