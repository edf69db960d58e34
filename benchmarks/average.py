"""Speed and memory of ``swa-average``, beside what else could have averaged the same files.

    python benchmarks/average.py --container safetensors torch               # beside all that can average
    python benchmarks/average.py --programs swa-average import-torch --size 100MB --count 60          # memory
    python benchmarks/average.py --programs swa-average --size 123MB --count 10 --tensors 30000 100   # small tensors
    python benchmarks/average.py --programs averaging-itself --size 400MB --optimizer-ratio 2 --container torch-nested

``--against OLD/bin/python`` adds "swa-average before": the one that is installed in the environment of that
interpreter. Checkpoints are made in a temporary folder below the current one. Programs are whole processes that run in
turns, and their averages are checked in a first round that is not counted. swa-average ends when its output is on the
disk (fsync), the others when the kernel has taken theirs. averaging-itself is swa-average without the start of the
interpreter and imports. Ratios are medians of the ratio of wall times within a round: to the first program, or with
several ``--tensors`` to the same program with the last of them. Linux only.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from common import Parser, Run, alternate, print_setup, ratios, run, show_bytes, spread, start, table, worker
from pydantic import ByteSize, TypeAdapter

OURS, BEFORE, ITSELF, IMPORT = "swa-average", "swa-average before", "averaging-itself", "import-torch"
PROGRAMS = (OURS, BEFORE, "plain", "averaged-model", "mergekit", "cat", IMPORT, ITSELF)
COLUMNS = ("tensors", "program", "wall, median", "min-max", "ratio", "GB/s of input", "CPU", "peak resident",
           "peak anonymous", "from disk", "read / weights")  # fmt: skip


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints to make: ``size`` is the bytes of the weights of one, ``optimizer_ratio`` what lies beside them."""

    container: str
    dtype: str
    count: int
    size: int
    tensors: int
    optimizer_ratio: float

    @property
    def weights(self) -> int:
        """Bytes of the weights of all checkpoints."""
        return self.count * self.size


@contextmanager
def made(checkpoints: Checkpoints) -> Generator[Path]:
    """Write the checkpoints into a temporary folder below the current one."""
    needed = checkpoints.weights * (1 + checkpoints.optimizer_ratio) + 2 * checkpoints.size
    if shutil.disk_usage(".").free < needed:
        sys.exit(f"{show_bytes(needed)} of free disk are needed for {checkpoints}.")
    with tempfile.TemporaryDirectory(prefix="swa-benchmark-", dir=Path.cwd()) as name:
        folder = Path(name, "checkpoints")
        folder.mkdir()
        run(worker("make", str(folder), *astuple(checkpoints)))
        yield folder


def programs_for(folder: Path, options: argparse.Namespace, dtype: str) -> dict[str, tuple[list[Any], Path | None]]:
    """Return every program that averages the files in ``folder``: its command, and what it writes."""
    files = sorted(folder.iterdir())
    output, same_format = folder.parent / "swa.safetensors", folder.parent / f"other{files[0].suffix}"
    average = ["-m", "swa_cli", "average", folder, "-o", output]
    programs: dict[str, tuple[list[Any], Path | None]] = {
        OURS: ([sys.executable, *average], output),
        ITSELF: (worker("itself", str(folder), str(output)), output),
        "plain": (worker("plain", str(folder), str(same_format)), same_format),
        "averaged-model": (worker("averaged_model", str(folder), str(same_format)), same_format),
        "cat": (["cat", *files], None),
        IMPORT: ([sys.executable, "-c", "import torch"], None),
    }
    if options.against:
        programs[BEFORE] = ([options.against.absolute(), *average], output)
    if options.mergekit:
        models = "".join(f"\n- model: {path}\n  parameters: {{weight: 1.0}}" for path in files)
        recipe, merged = folder.parent / "mergekit.yaml", folder.parent / "merged"
        recipe.write_text(f"merge_method: linear\ndtype: float32\nout_dtype: {dtype}\nmodels:{models}", "utf-8")
        programs["mergekit"] = ([options.mergekit, recipe, merged, "--quiet"], merged)
    return programs


def measure(sets: list[Checkpoints], options: argparse.Namespace) -> list[list[str]]:
    """Run the programs on all sets of checkpoints in turns; return a row for each."""
    with ExitStack() as stack:
        folders = {one: stack.enter_context(made(one)) for one in sets}
        programs = {one: programs_for(folder, options, one.dtype) for one, folder in folders.items()}
        chosen = [(one, name) for one in sets for name in options.programs if name in programs[one]]

        def once(key: tuple[Checkpoints, str]) -> Run:
            command, output = programs[key[0]][key[1]]
            if output:
                shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
            return run(command, reports=key[1] == ITSELF)

        def check_output(key: tuple[Checkpoints, str], _: Run) -> None:
            if output := programs[key[0]][key[1]][1]:
                run(worker("check", str(folders[key[0]]), str(output)))

        runs = alternate({key: partial(once, key) for key in chosen}, options.repeats, check_output)
        on_disk = {one: sum(path.stat().st_size for path in folder.iterdir()) for one, folder in folders.items()}
    walls = {key: [one.report["seconds"] if one.report else one.wall for one in found] for key, found in runs.items()}
    rows: list[list[str]] = []
    for (of, name), found in runs.items():
        seconds, size = walls[of, name], {IMPORT: 0, "cat": on_disk[of]}.get(name, of.weights)
        baseline = walls[(sets[-1], name) if len(sets) > 1 else (of, chosen[0][1])]
        memory = [show_bytes(max(getattr(one, kind) for one in found)) for kind in ("resident", "anonymous")]
        rows.append(
            [
                f"{of.tensors:,}",
                name,
                *spread(seconds, unit=" s"),
                f"{median(ratios(seconds, baseline)):.2f}",
                f"{size / median(seconds) / 1e9:.2f}" if size else "",
                "" if name == ITSELF else f"{median(one.cpu for one in found):.2f} s",
                *(["", ""] if name == "cat" else memory),  # its peak is that of the process that started it
                show_bytes(max(one.from_disk for one in found)),
                f"{median(one.report['rchar'] / of.weights for one in found):.3f}" if name == ITSELF else "",
            ]
        )
    return rows


# --- Workers: each is a process of its own, and imports torch there


def make(folder: str, container: str, dtype: str, count: int, size: int, tensors: int, ratio: float) -> None:
    """Write the checkpoints. One block of random numbers serves all tensors, scaled and shifted for each file."""
    import torch

    kind = getattr(torch, dtype)
    length, offsets = size // kind.itemsize // tensors, 1 << 16
    block = torch.randn(length + offsets, generator=torch.Generator().manual_seed(0)) / 50
    for number in range(count):
        values = (block * (1 + number / 64) + number / 1024).to(kind)
        starts = [7919 * index % offsets for index in range(tensors)]
        state = {f"blocks.{index}.weight": values[at : at + length].clone() for index, at in enumerate(starts)}
        moment = torch.zeros(int(length * ratio / 2))
        moments = {index: {"exp_avg": moment.clone(), "exp_avg_sq": moment.clone()} for index in range(tensors)}
        optimizer = {"state": moments if ratio else {}, "param_groups": [{"lr": 1e-3, "params": list(range(tensors))}]}
        suffix = "safetensors" if container == "safetensors" else "pt"
        nested = {"epoch": number, "model": state, "optimizer": optimizer}
        save(nested if container == "torch-nested" else state, f"{folder}/epoch-{number:04}.{suffix}")


def load(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Load one checkpoint as everybody does, or a folder of shards as mergekit writes it."""
    import torch
    from safetensors.torch import load_file

    if path.is_dir():
        return {name: tensor for part in path.glob("*.safetensors") for name, tensor in load_file(part).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    return state.get("model", state)


def save(state: dict[str, Any], output: str) -> None:
    """Save in the format that the suffix names."""
    import torch
    from safetensors.torch import save_file

    save_file(state, output) if output.endswith(".safetensors") else torch.save(state, output)


def plain(folder: str, output: str) -> None:
    """Keep a running mean in float32, in place and in one pass: the fastest plain way."""
    first, *others = sorted(Path(folder).iterdir())
    state = load(first)
    mean, dtypes = {name: one.float() for name, one in state.items()}, {name: one.dtype for name, one in state.items()}
    del state
    for seen, path in enumerate(others, 2):
        for name, tensor in load(path).items():
            mean[name].lerp_(tensor.float(), 1 / seen)
    save({name: tensor.to(dtypes[name]) for name, tensor in mean.items()}, output)


def averaged_model(folder: str, output: str) -> None:
    """Use torch's own ``AveragedModel``, which averages in the dtype of the tensors, over a module that holds them."""
    from torch import nn
    from torch.optim.swa_utils import AveragedModel

    first, *others = sorted(Path(folder).iterdir())
    state = load(first)
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Module() for _ in state)
    for number, block in enumerate(model.blocks):
        block.weight = nn.Parameter(state[f"blocks.{number}.weight"], requires_grad=False)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    for path in others:
        model.load_state_dict(load(path))
        averaged.update_parameters(model)
    save(averaged.module.state_dict(), output)


def itself(folder: str, output: str) -> dict[str, float]:
    """Average after all imports; return the seconds, and the bytes that went through read."""
    from swa_cli.averaging import average, plan_average
    from swa_cli.checkpoints import find_checkpoints

    def read() -> int:
        return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])

    before, began = read(), time.perf_counter()
    average(plan_average(find_checkpoints([Path(folder)]).checkpoints), Path(output))
    return {"seconds": time.perf_counter() - began, "rchar": read() - before}


def check(folder: str, output: str) -> None:
    """Compare 64 tensors with their float64 mean, so that no wrong result is timed."""
    import torch

    paths, average = sorted(Path(folder).iterdir()), load(Path(output), mmap=True)
    sample = sorted(average)[:: max(1, len(average) // 64)]
    mean: dict[str, Any] = dict.fromkeys(sample, 0)
    for path in paths:
        state = load(path, mmap=True)
        assert state.keys() == average.keys(), f"{output} does not have the tensors of {path}"
        for name in sample:
            mean[name] = mean[name] + state[name].double() / len(paths)
            assert average[name].dtype == state[name].dtype, f"{output}: {name} is {average[name].dtype}"
    for name in sample:  # a few roundings for each source, which may all cancel out
        allowed = 8 * torch.finfo(average[name].dtype).eps
        largest = float(mean[name].abs().max())
        torch.testing.assert_close(average[name].double(), mean[name], rtol=allowed, atol=allowed * largest)


def main() -> None:
    """Measure, and print a table for each container and dtype."""
    parser, size = Parser(description=__doc__), TypeAdapter(ByteSize).validate_python
    containers, dtypes = ["safetensors", "torch", "torch-nested"], ["float32", "float16", "bfloat16"]
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS, help="(default: all)")
    parser.add_argument("--against", type=Path, metavar="PYTHON", help="interpreter with another version of swa-cli")
    parser.add_argument("--mergekit", default=shutil.which("mergekit-pytorch"), help="path of mergekit-pytorch")
    parser.add_argument("--container", nargs="+", choices=containers, default=["safetensors"])
    parser.add_argument("--dtype", nargs="+", choices=dtypes, default=["float32"])
    parser.add_argument("--count", type=int, default=6, help="checkpoints (default: 6)")
    parser.add_argument("--size", type=size, default=size("1.2GB"), help="of the weights of one (default: 1.2GB)")
    parser.add_argument("--tensors", type=int, nargs="+", default=[300], help="in each (default: 300; ViT-L has 296)")
    parser.add_argument("--optimizer-ratio", type=float, default=0, help="beside the weights, in torch-nested files")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default: 5)")
    options = parser.parse_args()
    print_setup("torch", "safetensors", "numpy")
    for container, dtype in product(options.container, options.dtype):
        sets = [
            Checkpoints(container, dtype, options.count, options.size, tensors, options.optimizer_ratio)
            for tensors in options.tensors
        ]
        title = f"{options.count} checkpoints of {show_bytes(options.size)}, {dtype}, {container}; warm cache"
        table(title, COLUMNS, measure(sets, options))


if __name__ == "__main__":
    start(main, [make, itself, plain, averaged_model, check])
