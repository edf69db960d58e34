"""Flip every bit of a small average in each form of output, one at a time, and count what ``swa verify`` does not find.

    python benchmarks/flips.py                     # every bit of every form: minutes to half an hour
    python benchmarks/flips.py --forms torch --every 50

The exit code is 1 if a flip passed, or ended in an error that is none of swa-cli's.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path


def make(form: str, folder: Path) -> list[Path]:
    """Write an average of that form; the first path is to be verified, all are to be damaged."""
    import torch

    from swa_cli.averaging import average, plan_average
    from swa_cli.checkpoints import find_checkpoints, open_single
    from swa_cli.outputs import Like, Target

    save_run(folder / "run")
    plan = partial(plan_average, find_checkpoints([folder / "run"]).checkpoints)
    path = folder / {"safetensors": "swa.safetensors", "shards": "out", "like shards": "out"}.get(form, "swa.pt")
    match form:
        case "like a trainer's file":
            target = Target(path=path, like=Like(checkpoint=open_single(folder / "run" / "epoch-2.pt"), key=None))
        case "like a legacy file":
            state = torch.load(folder / "run" / "epoch-2.pt")
            torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
            target = Target(path=path, like=Like(checkpoint=open_single(folder / "old.pt"), key=None))
        case "shards" | "like shards":
            target = Target(path=path, max_shard_size=100)
        case _:
            target = Target(path=path)
    average(plan(weights=[0.25, 0.5, 1] if form == "weighted" else None), target, checksum=form == "checksums")
    if form == "like shards":
        (path / "config.json").write_text(json.dumps({"model_type": "none"}))
        like = Like(checkpoint=open_single(path), key=None)
        path = folder / "again"
        average(plan(), Target(path=path, like=like))
    if form == "BatchNorm recomputed":
        recompute(path)
    return [path, *sorted(path.iterdir())] if path.is_dir() else [path, path]


def save_run(folder: Path) -> None:
    """Three checkpoints with two tied names."""
    import torch

    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        weight = torch.randn(3, 2, generator=generator)
        state = {
            "linear.weight": weight,
            "tied": weight,
            "bn.weight": torch.rand(3, generator=generator).to(torch.bfloat16),
            "bn.running_mean": torch.randn(3, generator=generator),
            "bn.running_var": torch.rand(3, generator=generator),
            "bn.num_batches_tracked": torch.tensor(step),
        }
        torch.save({"state_dict": state, "epoch": step, "args": {"lr": 0.1}}, folder / f"epoch-{step}.pt")


def recompute(path: Path) -> None:
    """What ``swa-bn-update`` does with other statistics, which cannot be derived from the sources."""
    import torch

    from swa_cli.formats import BnUpdate, open_checkpoint
    from swa_cli.outputs import Like, Target
    from swa_cli.outputs.rewriting import replace_tensors

    average = open_checkpoint(path)
    assert average.provenance
    update = BnUpdate(model="m.py:M", data="d.py:D", n_samples=9, n_batches=3)
    replace_tensors(
        average,
        Target(path=path, like=Like(checkpoint=average, key=None)),
        {"bn.running_mean": torch.tensor([1.0, 2.0, 3.0]), "bn.running_var": torch.tensor([0.5, 1.5, 2.5])},
        average.provenance.model_copy(update={"bn_statistics": "recomputed", "bn_update": update}),
    )


FORMS = (
    "safetensors",
    "torch",
    "weighted",
    "checksums",
    "BatchNorm recomputed",
    "like a trainer's file",
    "like a legacy file",
    "shards",
    "like shards",
)


def verdict(path: Path, folder: Path) -> str:
    """Return how ``swa verify`` ends: "passed", the kind of error, or "a bug"."""
    from swa_cli.averaging import Engine
    from swa_cli.averaging.verify import verify
    from swa_cli.errors import SwaError
    from swa_cli.pipeline.common import open_average

    try:
        verify(open_average(path, key=None), sources=folder, engine=Engine(device="cpu", threads=1))
    except SwaError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001  # that is what is looked for
        return f"a bug: {error!r}"
    return "passed"


def measure(form: str, every: int) -> dict[str, int]:
    """How many flips of one form end in which way."""
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="swa-flips-") as name:
        folder = Path(name)
        path, *files = make(form, folder)
        whole = verdict(path, folder / "run")
        assert whole == "passed", whole
        for file in files:
            content = file.read_bytes()
            for bit in range(0, 8 * len(content), every):
                damaged = bytearray(content)
                damaged[bit // 8] ^= 1 << bit % 8
                file.write_bytes(damaged)
                end = verdict(path, folder / "run")
                counts[end] = counts.get(end, 0) + 1
            file.write_bytes(content)
    return counts


def main() -> None:
    """Print a row for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="*", default=FORMS, choices=FORMS)
    parser.add_argument("--every", type=int, default=1, help="flip one bit in so many")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    start = time.perf_counter()
    print(f"{'form':24} {'flips':>8} {'found':>8} {'passed':>8}")
    failed = False
    with ProcessPoolExecutor(options.processes) as pool:
        for form, counts in zip(
            options.forms, pool.map(partial(measure, every=options.every), options.forms), strict=True
        ):
            total, passed = sum(counts.values()), counts.get("passed", 0)
            print(f"{form:24} {total:>8,} {total - passed:>8,} {passed:>8,}")
            bugs = [end for end in counts if end.startswith("a bug")]
            print(*(f"  {end}" for end in bugs), sep="\n", end="\n" if bugs else "")
            failed |= passed > 0 or bool(bugs)
    print(f"{time.perf_counter() - start:.0f} s")
    sys.exit(failed)


if __name__ == "__main__":
    main()
