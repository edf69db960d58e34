"""Verifying an average: computing it again from its recorded sources, and comparing bit for bit."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from swa_cli.averaging.combiners import COMBINERS
from swa_cli.averaging.comparison import BytewiseDiff
from swa_cli.averaging.plan import AveragePlan, plan_average, split_tied
from swa_cli.averaging.provenance import from_text, recorded_weights
from swa_cli.averaging.recorded_sources import open_sources
from swa_cli.averaging.stream import Engine, stream_average
from swa_cli.averaging.unchanged import changed_files
from swa_cli.errors import SourceError, VerifyError, listed
from swa_cli.formats import Checkpoint, Options, Provenance, Source, unescape_surrogates
from swa_cli.system.progress import Track, silent

_DEFAULT = Engine()


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was verified, and what could not be compared.

    ``recomputed`` are BatchNorm statistics that swa-cli recomputed after averaging.
    """

    path: PurePath
    noun: str
    """What the file is of its sources: their average, or median."""
    n_sources: int
    n_tensors: int
    n_bytes: int
    recomputed: tuple[str, ...]
    has_checksums: bool
    has_frames: bool
    """Whether everything around the tensors was compared too; older provenance has no checksums of it."""
    absent: tuple[str, ...]
    """Files that were written beside the weights and no longer exist."""


def verify(
    average: Checkpoint, *, sources: PurePath | None = None, engine: Engine = _DEFAULT, track: Track = silent
) -> Verification:
    """Compute ``average`` again from its sources, with the recorded options, and compare.

    Args:
        sources: the directory of the sources, if they were moved.

    Raises:
        VerifyError: something differs; the message names the tensors and the first element that differs.
        SourceError: there is no provenance, it names an unknown combiner, or as `open_sources`.
        SwaError: as `plan_average` and `stream_average`, if a source was changed so that it cannot be averaged.
    """
    record = _record_of(average)
    folder, opened = open_sources(average, record, folder=sources)
    options = record.options or Options()
    plan = plan_average(
        opened,
        dtype=options.dtype,
        integers=options.integers,
        combine=options.combine,
        weights=recorded_weights(record),
        allow_nonfinite=options.allow_nonfinite,
    )
    noun = plan.combiner.words.noun
    plan = split_tied(
        plan, [name for name in plan.tied if name in average.tensors and not _is_one(average, plan, name)]
    )
    then = from_text(record.fingerprints, plan, average.path) if record.fingerprints else {}
    recomputed = record.bn_update.tensors if record.bn_update else {}
    has_checksums = any(source.sha256 for source in record.sources)
    surrounding, absent = changed_files(average, record) if record.frames else ([], [])
    problems = [*surrounding, *_differences(average, plan)]
    if len(problems) == len(surrounding):
        comparison = BytewiseDiff(average, plan.tensors)
        with track("verifying", total=plan.bytes_to_read, unit="bytes") as advance:
            streamed = stream_average(
                plan,
                comparison.offsets,
                comparison.compare,
                engine=engine,
                advance=advance,
                hashed=plan.files if has_checksums else (),
                exact=has_checksums,
            )
        changed = {name for name, sum_then in then.items() if streamed.fingerprints[name] != sum_then}
        problems = [
            *surrounding,
            *_other_files(plan, record, streamed.sha256),
            *(f"tensor {name}: a source holds other values than when it was averaged" for name in sorted(changed)),
            *(
                f"{text}; the {noun} was changed, its sources were not" if then else text
                for name, text in sorted(comparison.differing.items())
                if name not in recomputed and name not in changed
            ),
            *_other_statistics(average, recomputed),
        ]
    if problems:
        raise VerifyError(
            f"{average.path} and its {len(opened)} sources in {folder} are not what they were when it was written:",
            *listed(problems),
            "Copy what was changed or damaged again, or average anew.",
        )
    derived = [tensor for tensor in plan.tensors if tensor.name not in recomputed]
    return Verification(
        path=average.path,
        noun=noun,
        n_sources=len(opened),
        n_tensors=len(derived),
        n_bytes=sum(tensor.spec.nbytes for tensor in derived),
        recomputed=tuple(sorted(tensor.name for tensor in plan.tensors if tensor.name in recomputed)),
        has_checksums=has_checksums,
        has_frames=bool(record.frames),
        absent=tuple(absent),
    )


def _record_of(average: Checkpoint) -> Provenance:
    record = average.provenance
    if record is None or record.options is None or record.folder is None:
        msg = f"{average.path} has no record of its sources by this version of swa-cli: there is nothing to verify."
        raise SourceError(msg)
    if record.options.combine not in COMBINERS:
        msg = (
            f"{average.path}: its record says that its sources were combined by {record.options.combine!r}, which this "
            f"version of swa-cli lacks: it has {' and '.join(COMBINERS)}. Verify the file with the version that wrote "
            f"it, {record.tool_version}."
        )
        raise SourceError(msg)
    return record


def _is_one(average: Checkpoint, plan: AveragePlan, name: str) -> bool:
    """Return whether a tied name belongs to the same tensor in the file too."""
    return average.tensors[name] == average.tensors.get(plan.tied[name])


def _other_statistics(average: Checkpoint, recomputed: Mapping[str, int]) -> list[str]:
    """Describe BatchNorm statistics that differ from those computed for the average."""
    return [
        f"tensor {name}: it is not what was recomputed for the average"
        for name, crc in recomputed.items()
        if name not in average.tensors
        or zlib.crc32(average.get_elements(name, 0, average.spec(name).numel).tobytes()) != crc
    ]


def _differences(average: Checkpoint, plan: AveragePlan) -> list[str]:
    """Describe names, shapes, dtypes and other entries that differ from the plan."""
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


def _other_files(plan: AveragePlan, record: Provenance, now: Mapping[PurePath, str]) -> list[str]:
    """Describe source files whose SHA-256 has changed."""
    return [
        f"{path}: its SHA-256 was {_recorded(said, path)}, and is {now[path]}"
        for source, said in zip(plan.sources, record.sources, strict=True)
        for path in source.stamps
        if said.sha256 and _recorded(said, path) != now[path]
    ]


def _recorded(said: Source, path: PurePath) -> str:
    return {unescape_surrogates(name): digest for name, digest in said.sha256.items()}.get(path.name, "not recorded")
