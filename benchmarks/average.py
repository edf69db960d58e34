"""Speed and memory of ``swa-average``, beside what else could have averaged the same files.

    python benchmarks/average.py speed                     # against plain torch, AveragedModel, mergekit, cat
    python benchmarks/average.py memory                    # for 3 and 60 checkpoints, of 0.1 and of 5 GB
    python benchmarks/average.py small-tensors             # 30,000 tensors against 100 of the same bytes
    python benchmarks/average.py optimizer                 # what is read where most of a file is optimizer state

Each makes its checkpoints in a temporary folder below the current one, and removes them. Programs are whole processes,
run in turns (A B C, A B C, ...) after one uncounted round, in which what they write is checked; every output is deleted
before the next program runs. Ratios are medians over the rounds of the ratio within a round: absolute times drift on a
shared machine, ratios hold. The swa_cli measured is the one beside this folder. swa-average ends when its output is on
the disk (fsync), the others when the kernel has taken theirs. Linux only.

"CPU" is user and system time: where a run took much longer than its CPU, it waited, for the disk or for other people.
Memory: "resident" is ``ru_maxrss`` of wait4, the exact peak of the largest single process, and includes pages of files
that are mapped; "anonymous" is the largest RssAnon seen, sampled every 5 ms.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reporting import (
    GB,
    MB,
    Report,
    clean_up_when_terminated,
    computer,
    environment,
    ours,
    positive,
    ratios,
    show_bytes,
    spread,
    system,
)

# The parent imports neither torch nor numpy: Linux counts what a process held before it became another program towards
# the ru_maxrss of that program.

CONTAINERS = ("safetensors", "torch", "torch-nested", "sharded")
ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
PROGRAMS = ("swa-average", "plain", "averaged-model", "mergekit", "cat", "import-torch", "averaging-itself")
OURS, ITSELF = "swa-average", "averaging-itself"
TENSORS = 300  # ViT-L has 296
SHARDS = 4
SAMPLING = 0.005
SPARE_DISK = 10**9


# --- The checkpoints


@dataclass(frozen=True, kw_only=True)
class CheckpointSet:
    """Checkpoints to be made; ``size`` is that of the weights of one, ``optimizer_ratio`` what lies beside them."""

    size: int
    count: int
    dtype: str
    container: str
    tensors: int
    optimizer_ratio: float

    @property
    def lengths(self) -> list[int]:
        """Elements of each tensor; as equal as can be."""
        elements = self.size // ITEMSIZES[self.dtype]
        tensors = min(self.tensors, elements)
        length, longer = divmod(elements, tensors)
        return [length + (index < longer) for index in range(tensors)]

    @property
    def weights(self) -> int:
        """Bytes of the weights of all checkpoints."""
        return sum(self.lengths) * ITEMSIZES[self.dtype] * self.count

    @property
    def name(self) -> str:
        """Of the folder that holds them."""
        ratio = f"-optimizer-{self.optimizer_ratio:g}" if self.optimizer_ratio else ""
        return f"{self.count}-of-{self.size}-bytes-{self.dtype}-{self.container}-{len(self.lengths)}{ratio}"

    def __str__(self) -> str:
        ratio = f", optimizer state {self.optimizer_ratio:g} × the weights" if self.optimizer_ratio else ""
        return (
            f"{self.count} checkpoints of {show_bytes(self.size)}, {self.dtype}, {self.container}, "
            f"{len(self.lengths):,} tensors each{ratio}"
        )


@contextlib.contextmanager
def made(checkpoints: CheckpointSet, args: argparse.Namespace) -> Generator[Path]:
    """The folder of ``checkpoints``, removed afterwards unless they are to be kept; kept ones are taken again."""
    folder, finished = args.folder / checkpoints.name, args.folder / f"{checkpoints.name}.made"
    if not finished.exists():
        needed = int(checkpoints.weights * (1 + checkpoints.optimizer_ratio)) + 2 * checkpoints.size + SPARE_DISK
        free = shutil.disk_usage(args.folder).free
        if free < needed:
            sys.exit(f"{args.folder}: {show_bytes(free)} are free, {show_bytes(needed)} are needed for {checkpoints}.")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        if not finished.exists():
            began = time.perf_counter()
            run(Program(name="make", command=worker("make", folder, json.dumps(asdict(checkpoints)))))
            os.sync()
            print(f"made {checkpoints} in {time.perf_counter() - began:.0f} s", file=sys.stderr)
            finished.touch()
        yield folder
    finally:
        if not args.keep:
            finished.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def paths_of(folder: Path) -> list[list[Path]]:
    """The files of each checkpoint in ``folder``: one, or the shards in a folder of its own."""
    return [
        sorted(shard for shard in path.iterdir() if shard.suffix == ".safetensors") if path.is_dir() else [path]
        for path in sorted(folder.iterdir())
    ]


# --- Running programs


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command, what it writes, and whether it prints a report: a JSON object whose ``seconds`` are what counts."""

    name: str
    command: list[str]
    output: Path | None = None
    exact: bool = False
    reports: bool = False


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run; bytes, seconds."""

    wall: float
    cpu: float
    resident: int
    anonymous: int
    from_disk: int
    report: dict[str, float] = field(default_factory=dict[str, float])


def worker(name: str, *arguments: object) -> list[str]:
    """The command that runs one of `WORKERS` in a process of its own."""
    return [sys.executable, str(Path(__file__).resolve()), "--worker", name, *map(str, arguments)]


def run(program: Program) -> Measured:
    """Run ``program`` to its end, or end with what it said."""
    drop(program.output)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        stdout = out if program.reports else subprocess.DEVNULL
        process = subprocess.Popen(program.command, stdout=stdout, stderr=errors, env=environment())
        try:
            with _anonymous_memory(process.pid) as peak:
                _, status, usage = os.wait4(process.pid, 0)
                wall = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it once more
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{program.name} failed ({process.returncode}):\n{errors.read()[-4000:].decode(errors='replace')}")
        out.seek(0)
        report = json.loads(out.read()) if program.reports else {}
    return Measured(
        wall=report.get("seconds", wall),
        cpu=usage.ru_utime + usage.ru_stime,
        resident=usage.ru_maxrss * 1024,
        anonymous=max(peak),
        from_disk=usage.ru_inblock * 512,
        report=report,
    )


@contextlib.contextmanager
def _anonymous_memory(pid: int) -> Generator[list[int]]:
    done, seen = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(SAMPLING):
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            except OSError:
                return
            match = re.search(r"RssAnon:\s+(\d+) kB", status)
            if match:
                seen.append(int(match[1]) * 1024)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def drop(output: Path | None) -> None:
    """Delete what a program wrote."""
    if output is not None and output.is_dir():
        shutil.rmtree(output)
    elif output is not None:
        output.unlink(missing_ok=True)


def alternate(programs: Sequence[tuple[Program, Path]], repeats: int) -> dict[str, list[Measured]]:
    """Run the programs in turns; each comes with the folder of the checkpoints that it averages.

    The first round is not counted: it brings files and libraries in the page cache, and its outputs are checked.
    """
    for program, folder in programs:
        print(f"warm-up: {program.name}", file=sys.stderr)
        run(program)
        if program.output is not None:
            kind = "exact" if program.exact else "close"
            run(Program(name=f"check of {program.name}", command=worker("check", folder, program.output, kind)))
            drop(program.output)
    runs: dict[str, list[Measured]] = {program.name: [] for program, _ in programs}
    for number in range(repeats):
        for program, _ in programs:
            measured = run(program)
            drop(program.output)
            runs[program.name].append(measured)
            print(
                f"round {number + 1} of {repeats}: {program.name}: {measured.wall:.2f} s, {measured.cpu:.2f} s of CPU",
                file=sys.stderr,
            )
    return runs


def programs_for(
    checkpoints: CheckpointSet, folder: Path, args: argparse.Namespace, *, suffix: str = ""
) -> dict[str, Program]:
    """All programs that can average ``checkpoints``; their outputs lie beside ``folder``."""
    outputs = folder.parent / "outputs"
    outputs.mkdir(exist_ok=True)
    ours, other = outputs / "swa.safetensors", outputs / "other"
    files = [str(path) for shards in paths_of(folder) for path in shards]
    average = [sys.executable, "-m", "swa_cli", "average", str(folder), "-o", str(ours), "--force"]
    programs = [
        Program(name=OURS + suffix, command=average, output=ours, exact=True),
        Program(name="plain", command=worker("plain", folder, other), output=other),
        Program(name="averaged-model", command=worker("averaged-model", folder, other), output=other),
        Program(name="cat", command=["cat", *files]),
        Program(name="import-torch", command=[sys.executable, "-c", "import torch"]),
        Program(name=ITSELF + suffix, command=worker("itself", folder, ours), output=ours, exact=True, reports=True),
    ]
    if args.mergekit is not None and checkpoints.container in {"safetensors", "torch"}:
        configuration = outputs / "mergekit.yaml"
        models = [{"model": path, "parameters": {"weight": 1.0}} for path in files]
        wide = "float64" if checkpoints.dtype == "float64" else "float32"
        dtypes = {"dtype": wide, "out_dtype": checkpoints.dtype}
        # Every JSON file is a YAML file.
        configuration.write_text(json.dumps({"merge_method": "linear", "models": models, **dtypes}), encoding="utf-8")
        options = ["--quiet", *shlex.split(args.mergekit_options)]
        command = [args.mergekit, str(configuration), str(other), *options]
        programs.insert(3, Program(name="mergekit", command=command, output=other))
    return {program.name: program for program in programs}


# --- The claims


def speed(args: argparse.Namespace, report: Report) -> None:
    """Wall time and memory of swa-average and of the others."""
    for container in args.container:
        checkpoints = CheckpointSet(
            size=args.size,
            count=args.count,
            dtype=args.dtype,
            container=container,
            tensors=args.tensors,
            optimizer_ratio=args.optimizer_ratio if container == "torch-nested" else 0,
        )
        with made(checkpoints, args) as folder:
            available = programs_for(checkpoints, folder, args)
            missing = [name for name in args.only if name not in available]
            if missing:
                report.say(f"Left out, as not installed or not made for {container}: {', '.join(missing)}.")
            chosen = [program for name, program in available.items() if name in args.only]
            runs = alternate([(program, folder) for program in chosen], args.repeats)
            size_of_files = sum(path.stat().st_size for shards in paths_of(folder) for path in shards)
        report.keep(str(checkpoints), runs)
        _speed_table(checkpoints, size_of_files, runs, report)


def _speed_table(
    checkpoints: CheckpointSet, size_of_files: int, runs: Mapping[str, Sequence[Measured]], report: Report
) -> None:
    rows: list[list[str]] = []
    for name, measured in runs.items():
        read = 0 if name == "import-torch" else size_of_files if name == "cat" else checkpoints.weights
        rate = statistics.median(read / one.wall for one in measured) / GB
        rows.append(
            [
                name,
                *walls(measured),
                f"{ratio(measured, runs[OURS]):.2f}" if OURS in runs else "",
                f"{rate:.2f}" if read else "",
                "" if name == ITSELF else f"{statistics.median(one.cpu for one in measured):.2f} s",
                # Of so small a program, ru_maxrss is that of this one, which started it.
                "" if name == "cat" else show_bytes(max(one.resident for one in measured)),
                "" if name == "cat" else show_bytes(max(one.anonymous for one in measured)),
            ]
        )
    columns = [
        "program",
        "wall, median",
        "min-max",
        f"× {OURS}",
        "GB/s of input",
        "CPU",
        "peak resident",
        "peak anonymous",
    ]
    from_disk, name = max((one.from_disk, name) for name, measured in runs.items() for one in measured)
    title = f"{checkpoints}; warm cache (at most {show_bytes(from_disk)} came from the disk in a run, of {name})"
    report.table(title, columns, rows)
    if ITSELF in runs:
        io = runs[ITSELF][-1].report
        against_cat = ""
        if "cat" in runs:
            rates = ratio(runs["cat"], runs[ITSELF]) * checkpoints.weights / size_of_files
            against_cat = f", at {rates:.2f} × the rate of cat"
        report.say(
            f"{ITSELF} is without the start of the interpreter and imports: it reads {show_bytes(io['rchar'])} "
            f"({io['rchar'] / checkpoints.weights:.3f} × the weights) and writes {show_bytes(io['wchar'])}"
            f"{against_cat}."
        )


def memory(args: argparse.Namespace, report: Report) -> None:
    """Peak memory of swa-average beyond ``import torch``, for few, many and large checkpoints."""
    points = (
        [(3, 10 * MB), (20, 10 * MB), (3, 200 * MB)] if args.quick else [(3, 100 * MB), (60, 100 * MB), (3, 5 * GB)]
    )
    rows: list[list[str]] = []
    for container in args.container:
        for count, size in points:
            checkpoints = CheckpointSet(
                size=size, count=count, dtype=args.dtype, container=container, tensors=args.tensors, optimizer_ratio=0
            )
            with made(checkpoints, args) as folder:
                available = programs_for(checkpoints, folder, args)
                runs = alternate([(available[name], folder) for name in ("import-torch", OURS)], args.repeats)
            report.keep(str(checkpoints), runs)
            resident = {name: statistics.median(one.resident for one in runs[name]) for name in runs}
            anonymous = {name: statistics.median(one.anonymous for one in runs[name]) for name in runs}
            rows.append(
                [
                    container,
                    str(count),
                    show_bytes(size),
                    show_bytes(resident[OURS]),
                    f"{(resident[OURS] - resident['import-torch']) / MB:+.0f} MB",
                    show_bytes(anonymous[OURS]),
                    f"{(anonymous[OURS] - anonymous['import-torch']) / MB:+.0f} MB",
                ]
            )
    beyond = "over import torch"
    columns = ["container", "checkpoints", "size of each", "peak resident", beyond, "peak anonymous", beyond]
    report.table(f"Memory of {OURS}, {args.dtype}, {args.tensors:,} tensors each; medians", columns, rows)


def small_tensors(args: argparse.Namespace, report: Report) -> None:
    """Many small tensors against few large ones of the same bytes."""
    rows: list[list[str]] = []
    for container in args.container:
        with contextlib.ExitStack() as stack:
            chosen: list[tuple[Program, Path]] = []
            for tensors in (args.tensors, args.few):
                checkpoints = CheckpointSet(
                    size=args.size,
                    count=args.count,
                    dtype=args.dtype,
                    container=container,
                    tensors=tensors,
                    optimizer_ratio=args.optimizer_ratio if container == "torch-nested" else 0,
                )
                folder = stack.enter_context(made(checkpoints, args))
                programs = programs_for(checkpoints, folder, args, suffix=f" {tensors}")
                chosen += [(programs[f"{name} {tensors}"], folder) for name in (OURS, ITSELF)]
            runs = alternate(chosen, args.repeats)
        report.keep(f"small tensors, {container}", runs)
        for name in (OURS, ITSELF):
            many, few = runs[f"{name} {args.tensors}"], runs[f"{name} {args.few}"]
            memory_of = [show_bytes(max(one.resident for one in measured)) for measured in (many, few)]
            rows.append([container, name, *walls(many), *walls(few), f"{ratio(many, few):.2f}", *memory_of])
    many_, few_ = f"{args.tensors:,} tensors", f"{args.few:,} tensors"
    columns = ["container", "program", many_, "min-max", few_, "min-max", "ratio", f"peak, {many_}", f"peak, {few_}"]
    title = f"{args.count} checkpoints of {show_bytes(args.size)}, {args.dtype}, in many or few tensors; warm cache"
    report.table(title, columns, rows)


def optimizer(args: argparse.Namespace, report: Report) -> None:
    """How many bytes are read where the optimizer's state lies in the same files."""
    checkpoints = CheckpointSet(
        size=args.size,
        count=args.count,
        dtype=args.dtype,
        container="torch-nested",
        tensors=args.tensors,
        optimizer_ratio=args.optimizer_ratio,
    )
    with made(checkpoints, args) as folder:
        runs = alternate([(programs_for(checkpoints, folder, args)[ITSELF], folder)], args.repeats)
        size_of_files = sum(path.stat().st_size for (path,) in paths_of(folder))
    report.keep(str(checkpoints), runs)
    read = statistics.median(one.report["rchar"] for one in runs[ITSELF])
    row = [*map(show_bytes, (size_of_files, checkpoints.weights, read)), f"{read / checkpoints.weights:.3f}"]
    columns = ["files", "weights in them", "read (rchar)", "read / weights", f"{ITSELF}, median", "min-max"]
    report.table(f"{checkpoints}; what is read through mmap is not counted", columns, [[*row, *walls(runs[ITSELF])]])


# --- The report


def machine(args: argparse.Namespace) -> dict[str, str]:
    """Where and with what the figures were measured."""
    return {
        "machine": computer(),
        "system": system("torch", "safetensors", "numpy"),
        "programs": f"{ours()}, {_mergekit(args.mergekit)}",
        "files": f"on {_file_system(args.folder)}",
    }


def _mergekit(executable: str | None) -> str:
    """Mergekit's version and that of its torch, from the environment that it is installed in."""
    if executable is None:
        return "no mergekit"
    code = "from importlib.metadata import version as v; print('mergekit', v('mergekit'), 'with torch', v('torch'))"
    asked = [str(Path(executable).absolute().with_name("python")), "-c", code]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` is on."""
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = [(len(Path(point).parts), kind) for _, point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(above, default=(0, "an unknown file system"))[1]


def walls(measured: Sequence[Measured]) -> tuple[str, str]:
    """The median, and the range."""
    return spread([one.wall for one in measured])


def ratio(measured: Sequence[Measured], other: Sequence[Measured]) -> float:
    """The median over the rounds of the ratio of wall times within a round."""
    return statistics.median(ratios([one.wall for one in measured], [one.wall for one in other]))


def parse_bytes(text: str) -> int:
    """The bytes that ``1.2GB`` or ``100kB`` means, in decimal units."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMG]?)B?", text)
    if match is None or not float(match[1]):
        msg = f"expected a size as in 1.2GB, 100MB or 100kB, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return round(float(match[1]) * {"": 1, "k": 1000, "M": MB, "G": GB}[match[2]])


# --- Workers: each is a process of its own, and imports torch there


def make(folder: str, described: str) -> None:
    """Write the checkpoints. One block of random numbers serves all tensors, scaled and shifted for each file."""
    import torch

    checkpoints = CheckpointSet(**json.loads(described))
    lengths, dtype = checkpoints.lengths, getattr(torch, checkpoints.dtype)
    offsets = 1 << 16  # tensors begin at different places of the block
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    block = torch.randn(max(lengths) + offsets, generator=generator, dtype=wide) / 50
    for number in range(checkpoints.count):
        values = (block * (1 + number / 64) + number / 1024).to(dtype)
        tensors = {
            f"blocks.{index}.weight": values[(start := index * 7919 % offsets) : start + length]
            for index, length in enumerate(lengths)
        }
        if checkpoints.container == "safetensors":
            _write_safetensors(tensors, Path(folder, f"epoch-{number:04}.safetensors"))
        elif checkpoints.container == "sharded":
            _write_shards(tensors, Path(folder, f"checkpoint-{number + 1:04}"))
        else:
            _write_torch(checkpoints, tensors, number, Path(folder, f"epoch-{number:04}.pt"))


def _write_safetensors(tensors: Mapping[str, Any], path: Path) -> None:
    """As ``save_file`` does, but for tensors that share memory, and without a copy of all of them."""
    import torch

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            stream.write(tensor.view(torch.uint8).numpy())


def _write_shards(tensors: Mapping[str, Any], folder: Path) -> None:
    """As Hugging Face's ``save_pretrained`` does."""
    folder.mkdir()
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(SHARDS):
        file_name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[len(names) * number // SHARDS : len(names) * (number + 1) // SHARDS]
        weight_map |= dict.fromkeys(part, file_name)
        _write_safetensors({name: tensors[name] for name in part}, folder / file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_torch(checkpoints: CheckpointSet, tensors: Mapping[str, Any], number: int, path: Path) -> None:
    import torch

    state = {name: tensor.clone() for name, tensor in tensors.items()}
    if checkpoints.container == "torch":
        torch.save(state, path)
        return
    moments: dict[int, object] = {}
    for index, tensor in enumerate(state.values()):
        length = round(len(tensor) * checkpoints.optimizer_ratio / 2)
        if length:
            moments[index] = {
                "step": torch.tensor(float(number)),
                "exp_avg": tensor.new_full((length,), number / 1024),
                "exp_avg_sq": tensor.new_full((length,), number / 512),
            }
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": list(range(len(state)))}]
    torch.save({"epoch": number, "model": state, "optimizer": {"state": moments, "param_groups": groups}}, path)


def _load(shards: Sequence[Path], *, mmap: bool = False) -> dict[str, Any]:
    """One checkpoint, as everybody loads it."""
    import torch
    from safetensors.torch import load_file

    if shards[0].suffix == ".pt":
        state = torch.load(shards[0], weights_only=True, map_location="cpu", mmap=mmap)
        return state.get("model", state)
    state = {}
    for shard in shards:
        state |= load_file(shard)
    return state


def _save(state: dict[str, Any], shards: Sequence[Path], output: str) -> None:
    """In the format that the checkpoints have."""
    import torch
    from safetensors.torch import save_file

    if shards[0].suffix == ".pt":
        torch.save(state, output)
    else:
        save_file(state, output)


def plain(folder: str, output: str) -> None:
    """Load each file and keep a running mean in float32, in place and in one pass: the fastest plain way."""
    import torch

    checkpoints = paths_of(Path(folder))
    first = _load(checkpoints[0])
    mean = {name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for name, tensor in first.items()}
    dtypes = {name: tensor.dtype for name, tensor in first.items()}
    del first
    for seen, shards in enumerate(checkpoints[1:], 2):
        for name, tensor in _load(shards).items():
            mean[name].lerp_(tensor.to(mean[name].dtype), 1 / seen)
    _save({name: tensor.to(dtypes[name]) for name, tensor in mean.items()}, checkpoints[0], output)


def averaged_model(folder: str, output: str) -> None:
    """Torch's own ``AveragedModel``, which averages in the dtype of the tensors, over a module that holds them."""
    from torch import nn
    from torch.optim.swa_utils import AveragedModel

    checkpoints = paths_of(Path(folder))
    model = nn.Module()
    for name, tensor in _load(checkpoints[0]).items():
        *parents, leaf = name.split(".")
        module = model
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    for shards in checkpoints[1:]:
        model.load_state_dict(_load(shards))
        averaged.update_parameters(model)
    _save(averaged.module.state_dict(), checkpoints[0], output)


def itself(folder: str, output: str) -> None:
    """Average from within, after all imports; print seconds and what went through read and write."""
    from swa_cli.averaging import average, plan_average
    from swa_cli.checkpoints import find_checkpoints

    before, began = _io(), time.perf_counter()
    average(plan_average(find_checkpoints([Path(folder)]).checkpoints), Path(output))
    seconds, after = time.perf_counter() - began, _io()
    print(json.dumps({"seconds": seconds, **{name: after[name] - before[name] for name in ("rchar", "wchar")}}))


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def check(folder: str, output: str, kind: str) -> None:
    """Compare a sample of an average with the float64 mean of the same elements, so that no wrong result is timed.

    ``exact``: it must be the mean rounded once, to the nearest and at a tie to the even one. ``close``: or nearly so.
    """
    import torch

    checkpoints = paths_of(Path(folder))
    found = Path(output)
    found_in = sorted(found.glob("*.safetensors")) if found.is_dir() else [found]
    named = set(_names(checkpoints[0]))
    if set(_names(found_in)) != named:
        sys.exit(f"{output} does not have the tensors of {checkpoints[0][0]}")
    sample = sorted(named)[:: max(1, len(named) // 64)]
    averages = _sampled(found_in, sample)
    sources = [_sampled(shards, sample) for shards in checkpoints]
    for name, average in averages.items():
        dtype = sources[0][name].dtype
        if average.dtype != dtype:
            sys.exit(f"{output}: {name} is {average.dtype}, expected {dtype}")
        mean = torch.zeros(average.shape, dtype=torch.float64)
        for source in sources:
            mean += source[name]
        mean /= len(sources)
        near = _nearest(average, mean) if kind == "exact" else _close(average, mean)
        if not near.all():
            at = int(torch.nonzero(~near)[0])
            sys.exit(f"{output}: {name} is not the mean: expected {mean[at].item()!r}, found {average[at].item()!r}")


def _names(shards: Sequence[Path]) -> list[str]:
    from safetensors import safe_open

    if _is_zip(shards[0]):
        return list(_load_mapped(shards[0]))
    names: list[str] = []
    for shard in shards:
        with safe_open(shard, "pt") as stored:
            names += stored.keys()
    return names


def _sampled(shards: Sequence[Path], names: Sequence[str]) -> dict[str, Any]:
    """Elements from the beginning, the middle and the end of the tensors ``names``."""
    from safetensors import safe_open

    if _is_zip(shards[0]):
        state = _load_mapped(shards[0])
        return {name: _pieces(state[name], len(state[name])) for name in names}
    sampled: dict[str, Any] = {}
    for shard in shards:
        with safe_open(shard, "pt") as stored:
            for name in set(stored.keys()) & set(names):
                view = stored.get_slice(name)
                sampled[name] = _pieces(view, view.get_shape()[0])
    return sampled


def _pieces(tensor: Any, length: int) -> Any:
    import torch

    return torch.cat([tensor[max(0, start) : max(0, start) + 256] for start in (0, length // 2 - 128, length - 256)])


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"PK"


def _load_mapped(path: Path) -> dict[str, Any]:
    import torch

    state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    return state.get("model", state)


def _nearest(average: Any, mean: Any) -> Any:
    """Where no neighbour of ``average`` in its dtype is nearer to ``mean``, nor as near and even."""
    import torch

    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    bits = average.view(integers[average.itemsize])
    distance = (average.to(torch.float64) - mean).abs()
    nearest = torch.isfinite(average)
    for step in (-1, 1):
        away = ((bits + step).view(average.dtype).to(torch.float64) - mean).abs().nan_to_num(nan=float("inf"))
        nearest &= (distance < away) | ((distance == away) & (bits % 2 == 0))
    return nearest


def _close(average: Any, mean: Any) -> Any:
    """Within a few roundings for each of the sources, which may all cancel out: relative to the largest element."""
    import torch

    return (average.to(torch.float64) - mean).abs() <= 8 * torch.finfo(average.dtype).eps * mean.abs().max()


WORKERS: dict[str, Callable[..., None]] = {
    "make": make,
    "plain": plain,
    "averaged-model": averaged_model,
    "itself": itself,
    "check": check,
}


# --- The command line


def parse() -> argparse.Namespace:
    """The command line, with the defaults of each claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims = parser.add_subparsers(required=True, metavar="CLAIM")
    _add(claims, "speed", speed, size="1.2GB", count=6, repeats=5, container=["safetensors"])
    _add(claims, "memory", memory, repeats=3, container=["safetensors", "torch"])
    three = ["safetensors", "torch", "torch-nested"]
    _add(claims, "small-tensors", small_tensors, size="123MB", count=10, repeats=5, container=three, tensors=30_000)
    _add(claims, "optimizer", optimizer, size="400MB", count=6, repeats=3, optimizer_ratio=2.0)
    args = parser.parse_args()
    args.mergekit = vars(args).get("mergekit") or None
    return args


def _add(claims: Any, name: str, claim: Callable[..., None], **defaults: Any) -> None:
    parser = claims.add_parser(name, help=claim.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dtype", choices=sorted(ITEMSIZES), default="float32", help="of the tensors")
    parser.add_argument("--tensors", type=positive, default=TENSORS, help="in each checkpoint")
    parser.add_argument("--repeats", type=positive, help="rounds that count")
    if "size" in defaults:
        parser.add_argument("--size", type=parse_bytes, help="bytes of the weights of one checkpoint: 1.2GB, 100MB")
        parser.add_argument("--count", type=positive, help="how many checkpoints")
    if "container" in defaults:
        parser.add_argument("--container", nargs="+", choices=CONTAINERS, help="one table or row for each")
    if name != "memory":
        about = "bytes of optimizer state over those of the weights, in torch-nested files"
        parser.add_argument("--optimizer-ratio", type=float, default=0.0, help=about)
    if name == "speed":
        parser.add_argument("--only", type=_programs, default=list(PROGRAMS), help=f"some of {','.join(PROGRAMS)}")
        parser.add_argument("--mergekit", default=shutil.which("mergekit-pytorch"), help="path of mergekit-pytorch")
        parser.add_argument("--mergekit-options", default="", help="more options for it, as in '--async-write'")
    if name == "small-tensors":
        parser.add_argument("--few", type=positive, default=100, help="tensors to compare with")
    if name == "memory":
        parser.add_argument("--quick", action="store_true", help="3 and 20 checkpoints, of 10 and 200 MB")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder in this one")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints, for the next run in that --folder")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    parser.set_defaults(claim=claim, **defaults)


def _programs(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        msg = f"unknown: {', '.join(unknown)}; there are {', '.join(PROGRAMS)}"
        raise argparse.ArgumentTypeError(msg)
    return names


def main() -> None:
    """Measure one claim."""
    args = parse()
    clean_up_when_terminated()
    with contextlib.ExitStack() as stack:
        if args.folder is None and args.keep:
            args.folder = Path(tempfile.mkdtemp(prefix="swa-benchmark-", dir=Path.cwd()))
        elif args.folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="swa-benchmark-", dir=Path.cwd())
            args.folder = Path(stack.enter_context(temporary))
        args.folder = args.folder.resolve()
        args.folder.mkdir(parents=True, exist_ok=True)
        stack.callback(shutil.rmtree, args.folder / "outputs", ignore_errors=True)
        report = Report(machine(args), rounds=args.repeats)
        args.claim(args, report)
    report.write(args.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        WORKERS[sys.argv[2]](*sys.argv[3:])
    else:
        main()
