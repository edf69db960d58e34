"""Deriving an average once more from the sources that its record names, and comparing bit for bit."""

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock

import numpy as np

from swa_cli.averaging.explain import index_of
from swa_cli.averaging.plan import AveragePlan, TensorPlan, plan_average
from swa_cli.averaging.record import from_text
from swa_cli.averaging.stream import Engine, stream_average
from swa_cli.checkpoints import Checkpoint, Provenance, Source, open_checkpoint, read_provenance
from swa_cli.errors import SourceError, VerifyError, listing
from swa_cli.progress import Track, silent

_DEFAULT = Engine()


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found to be as it should: counts, and tensors that could not be compared.

    ``recomputed`` are BatchNorm statistics, which are no longer those of the average.
    """

    path: Path
    n_sources: int
    n_tensors: int
    n_bytes: int
    recomputed: tuple[str, ...]
    has_checksums: bool


def verify(
    average: Checkpoint, *, sources: Path | None = None, engine: Engine = _DEFAULT, track: Track = silent
) -> Verification:
    """Compare ``average`` with what its sources give now, with the options that were used then.

    Args:
        sources: the folder that holds the sources, where they were moved.

    Raises:
        VerifyError: something differs; tensors are named, with the first element that does.
        SourceError: no record of what went in, or a source that is not where the record says, or not as large.
        SwaError: as `plan_average` and `stream_average`, where a source was changed so that it cannot be averaged.
    """
    record = read_provenance(average.metadata)
    if record is None or record.options is None or record.folder is None:
        msg = f"{average.path} has no record of its sources by this version of swa-cli: there is nothing to verify."
        raise SourceError(msg)
    folder = sources or Path(os.path.normpath(average.path.absolute().parent / record.folder))
    opened = [_open(folder, source, record, average.path) for source in record.sources]
    plan = plan_average(
        opened,
        dtype=record.options.dtype,
        integers=record.options.integers,
        weights=[source.weight for source in record.sources],
    )
    recomputed = set(record.bn_update.tensors) if record.bn_update else set[str]()
    problems = _differences(average, plan)
    if not problems:
        comparison = _Comparison(average, plan.tensors)
        with track("verifying", total=plan.bytes_to_read, unit="bytes") as advance:
            streamed = stream_average(
                plan,
                comparison.offsets,
                comparison.compare,
                engine=engine,
                allow_nonfinite=record.options.allow_nonfinite,
                advance=advance,
                hashed=plan.files if any(source.sha256 for source in record.sources) else (),
            )
        problems = [
            *_other_files(plan, record, streamed.sha256),
            *(text for name, text in sorted(comparison.differing.items()) if name not in recomputed),
            *_changed(from_text(record.fingerprints, plan), streamed.fingerprints, comparison.differing),
        ]
    if problems:
        msg = (
            f"{average.path} is not what its {len(opened)} sources in {folder} give now:\n{listing(problems)}\n"
            "Either it or a source was changed or damaged since it was written."
        )
        raise VerifyError(msg)
    return Verification(
        path=average.path,
        n_sources=len(opened),
        n_tensors=len(plan.tensors),
        n_bytes=plan.bytes_to_write,
        recomputed=tuple(sorted(recomputed)),
        has_checksums=any(source.sha256 for source in record.sources),
    )


def _open(folder: Path, source: Source, record: Provenance, average: Path) -> Checkpoint:
    path = folder / source.name
    if not path.exists():
        msg = f"{average}: its source {path} is not there. If the sources were moved, say where with --sources FOLDER."
        raise SourceError(msg)
    key = record.options.key if record.options else None
    checkpoint = open_checkpoint(path, key=key)
    size = sum(stamp[2] for stamp in checkpoint.stamps.values())
    if source.size is not None and size != source.size:
        msg = f"{average}: its source {path} was another then: expected {source.size:,} bytes, found {size:,}."
        raise SourceError(msg)
    return checkpoint


def _differences(average: Checkpoint, plan: AveragePlan) -> list[str]:
    """Names, shapes, dtypes and other entries that are not those that the plan gives."""
    expected = {tensor.name: tensor.spec for tensor in plan.tensors}
    expected |= {name: expected[kept] for name, kept in plan.tied.items()}
    found = {name: stored.spec for name, stored in average.tensors.items()}
    return [
        *(f"tensor {name}: expected {spec}, found none" for name, spec in expected.items() if name not in found),
        *(f"tensor {name}: expected none, found {spec}" for name, spec in found.items() if name not in expected),
        *(
            f"tensor {name}: expected {spec}, found {found[name]}"
            for name, spec in expected.items()
            if name in found and found[name] != spec
        ),
        *(
            f"entry {name} of the state_dict is not that of the newest source"
            for name, value in plan.extra.items()
            if average.extra.get(name) != value
        ),
    ]


def _other_files(plan: AveragePlan, record: Provenance, now: Mapping[Path, str]) -> list[str]:
    """Files of the sources whose SHA-256 is another."""
    return [
        f"{path}: its SHA-256 was {said.sha256[path.name]}, and is {now[path]}"
        for source, said in zip(plan.sources, record.sources, strict=True)
        for path in source.stamps
        if said.sha256.get(path.name, now.get(path)) != now.get(path)
    ]


def _changed(then: Mapping[str, int], now: Mapping[str, int], differing: Mapping[str, str]) -> list[str]:
    """Tensors of which a source was changed, though the mean rounds to the same."""
    return [
        f"tensor {name}: a source holds other values than when it was averaged"
        for name in sorted(then)
        if now[name] != then[name] and name not in differing
    ]


@dataclass
class _Comparison:
    """Takes what would be written of an average, and compares it with a file.

    ``offsets`` are those of the tensors as if they lay one after the other; ``differing`` says of each tensor where it
    differs first, as far as it was compared.
    """

    average: Checkpoint
    tensors: Sequence[TensorPlan]
    differing: dict[str, str] = field(default_factory=dict[str, str])
    _first: dict[str, int] = field(default_factory=dict[str, int])
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        # Those without elements are nowhere; they would hide the one that starts where they do.
        self._there = [tensor for tensor in self.tensors if tensor.spec.nbytes]
        self._starts = [0, *accumulate(tensor.spec.nbytes for tensor in self._there)]
        starts = {tensor.name: start for tensor, start in zip(self._there, self._starts, strict=False)}
        self.offsets = {tensor.name: starts.get(tensor.name, 0) for tensor in self.tensors}

    def compare(self, offset: int, view: memoryview) -> None:
        """Compare bytes that would be written; from any thread."""
        done = 0
        while done < len(view):
            number = bisect_right(self._starts, offset + done) - 1
            length = min(len(view) - done, self._starts[number + 1] - offset - done)
            self._compare(self._there[number], offset + done - self._starts[number], view[done : done + length])
            done += length

    def _compare(self, tensor: TensorPlan, at: int, view: memoryview) -> None:
        size = tensor.spec.dtype.itemsize
        start = at // size
        found = self.average.get_elements(tensor.name, start, start + len(view) // size)
        if found.tobytes() == view.tobytes():
            return
        expected = np.frombuffer(view, tensor.spec.dtype)
        differ = np.flatnonzero((expected.view(np.uint8) != found.view(np.uint8)).reshape(-1, size).any(axis=1))
        first = int(differ[0])
        with self._lock:
            if start + first < self._first.get(tensor.name, start + first + 1):
                self._first[tensor.name] = start + first
                self.differing[tensor.name] = (
                    f"tensor {tensor.name} differs at index {index_of(start + first, tensor.spec.shape)}: expected "
                    f"{expected[first].item()}, found {found[first].item()}"
                )
