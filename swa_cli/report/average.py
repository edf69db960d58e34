"""Reports of the averaging step: the plan of a dry run, and the result."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table

from swa_cli.averaging import AveragePlan, AverageResult
from swa_cli.checkpoints import CheckpointSeries
from swa_cli.errors import shortened
from swa_cli.outputs import Layout
from swa_cli.text import counted, in_bytes, plural

_POLICIES = {
    "agree": "integers and bools: kept, must be equal in all files",
    "newest": "taken from the newest file",
    "oldest": "taken from the oldest file",
    "rounded": "integers and bools: mean, rounded to the nearest",
}


def plan_report(run: CheckpointSeries, plan: AveragePlan, layout: Layout | None) -> RenderableType:
    """Render the files in the order of averaging, the tensors by policy, the bytes to read and the files to write."""
    files = Table(
        title=f"{counted(len(plan.sources), 'checkpoint')}, ordered by {run.ordered_by}", title_justify="left"
    )
    files.add_column("file", overflow="fold")
    files.add_column("step", justify="right")
    files.add_column("weights", justify="right")
    combiner = plan.combiner
    counts_differ = len({*combiner.weights}) > 1
    if counts_differ:
        files.add_column(f"weight in the {combiner.name}", justify="right")
    for source, step, weight in zip(plan.sources, plan.steps, combiner.weights, strict=True):
        size = sum(stored.spec.nbytes for stored in source.tensors.values())
        of_weight = [f"{weight:.4g}"] if counts_differ else []
        files.add_row(str(source.path), "" if step is None else str(step), in_bytes(size), *of_weight)
    return Group(files, *_lines(plan), *(_outputs(layout) if layout else ()))


def average_report(result: AverageResult) -> Iterator[str]:
    """Yield lines that say what was averaged, and what to do next."""
    first, last = result.sources[0].path, result.sources[-1].path
    span = f"{first} to {last}" if result.n_averaged > 1 else str(first)
    words = result.combiner.words
    yield f"{words.deed} {counted(result.n_averaged, 'checkpoint')} ({span}) into {result.path}."
    rate = in_bytes(result.bytes_read / result.seconds)
    memory = f"; peak memory {in_bytes(result.peak_memory)}" if result.peak_memory else ""
    yield f"Read {in_bytes(result.bytes_read)} in {result.seconds:.2f} s ({rate}/s) on {result.device}{memory}."
    if result.bn_statistics == "averaged":
        yield f"Its BatchNorm statistics are still {plural(words.noun)}: recompute them with swa-bn-update."


def _lines(plan: AveragePlan) -> Iterator[str]:
    for policy, meaning in {"combined": plan.combiner.words.rule, **_POLICIES}.items():
        count = sum(tensor.policy == policy for tensor in plan.tensors)
        if count:
            yield f"{counted(count, 'tensor')} {meaning}"
    yield f"{in_bytes(plan.bytes_to_read)} to read, {in_bytes(plan.bytes_to_write)} to write"


def _outputs(layout: Layout) -> Iterator[str]:
    if layout.is_folder:
        yield f"{counted(len(layout.names), 'file')} in all, {in_bytes(layout.size)}: {shortened(layout.names)}"
    if layout.left_out:
        yield f"left out, as they belong to other weights: {shortened(layout.left_out)}"
