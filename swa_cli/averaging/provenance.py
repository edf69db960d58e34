"""The provenance of an average, and where it says that the sources are."""

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePath

from swa_cli.averaging.frozen import layer_of
from swa_cli.averaging.plan import AveragePlan
from swa_cli.averaging.stream import Streamed
from swa_cli.errors import VerifyError
from swa_cli.formats import (
    BnStatistics,
    Checkpoint,
    Options,
    Provenance,
    Source,
    escape_surrogates,
    unescape_surrogates,
)
from swa_cli.outputs import Contents, Target
from swa_cli.system.storage import Url, locate

_DIGITS = 16
_LENGTH_OF_SHA256 = 64


def contents_of(plan: AveragePlan, record: Provenance) -> Contents:
    """Return the contents of the output, in the order of the newest source, with their provenance."""
    planned = {tensor.name: tensor.spec for tensor in plan.tensors}
    specs = {name: planned[name] for name in plan.sources[-1].tensors if name in planned}
    return Contents(specs=specs, tied=plan.tied, extra=plan.extra, provenance=record)


def provenance_of(
    plan: AveragePlan,
    target: Target,
    *,
    key: str | None,
    hashed: Sequence[PurePath],
    frozen: Sequence[str],
) -> Provenance:
    """Return the provenance of an average before it is computed: at full length, with zeros for unknown values."""
    folder, names = _below_one_folder([source.path for source in plan.sources])
    unknown = dict.fromkeys(hashed, "0" * _LENGTH_OF_SHA256)
    sources = tuple(
        Source(
            name=name,
            step=step,
            weight=weight,
            size=source.file_bytes,
            sha256=_digests(source, unknown),
        )
        for source, step, name, weight in zip(plan.sources, plan.steps, names, plan.combiner.weights, strict=True)
    )
    return Provenance(
        n_averaged=len(sources),
        sources=sources,
        bn_statistics=_bn_statistics(plan, frozen),
        frozen_bn=tuple(frozen),
        options=Options(
            key=key,
            dtype=plan.dtype,
            integers=plan.integers,
            combine=plan.combiner.name,
            allow_nonfinite=plan.allow_nonfinite,
            like=target.like.checkpoint.path.name if target.like else None,
        ),
        folder=_seen_from(target.folder, folder),
        fingerprints=as_text({tensor.name: 0 for tensor in plan.tensors}),
    )


def completed(record: Provenance, plan: AveragePlan, streamed: Streamed) -> Provenance:
    """Fill in the provenance after the average was computed."""
    sources = tuple(
        said.model_copy(update={"sha256": _digests(source, streamed.sha256)})
        for said, source in zip(record.sources, plan.sources, strict=True)
    )
    return record.model_copy(update={"fingerprints": as_text(streamed.fingerprints), "sources": sources})


def recorded_weights(record: Provenance) -> list[float] | None:
    """Return how much each source counted, or None where all counted the same."""
    weights = [source.weight for source in record.sources]
    return weights if len({*weights}) > 1 else None


def folder_of(average: PurePath, record: Provenance) -> PurePath:
    """Return where the provenance says that the sources are: a URL, or a path relative to the file."""
    recorded = unescape_surrogates(record.folder or "")
    there = locate(recorded)
    if isinstance(there, Url):
        return there
    if isinstance(average, Url):
        return average.parent.joined(recorded)
    return Path(os.path.realpath(Path(os.path.realpath(average)).parent / recorded))


def as_text(fingerprints: Mapping[str, int]) -> str:
    """Format fingerprints for the provenance: hexadecimal, in the order of the names."""
    return "".join(f"{fingerprints[name]:0{_DIGITS}x}" for name in sorted(fingerprints))


def from_text(text: str, plan: AveragePlan, average: PurePath) -> dict[str, int]:
    """Parse the fingerprints of a provenance.

    Raises:
        VerifyError: their number is not that of the tensors.
    """
    names = sorted(tensor.name for tensor in plan.tensors)
    if len(text) != _DIGITS * len(names):
        msg = f"{average}: the record is damaged: it has {len(text) // _DIGITS} fingerprints of {len(names)} tensors."
        raise VerifyError(msg)
    return {
        name: int(text[at : at + _DIGITS], 16) for name, at in zip(names, range(0, len(text), _DIGITS), strict=True)
    }


def _below_one_folder(paths: Sequence[PurePath]) -> tuple[PurePath, list[str]]:
    """Return the deepest directory above all files and their relative names; absolute ones across storages."""
    whole = [path if isinstance(path, Url) else _without_up(Path(path)) for path in paths]
    folders = zip(*(path.parent.parts for path in whole), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, folders)]
    return type(whole[0])(*shared), [str(PurePath(*path.parts[len(shared) :])) for path in whole]


def _without_up(path: Path) -> Path:
    """Return the absolute path of a file; links of its directory are resolved if the path has a ``..``."""
    return Path(os.path.realpath(path.parent), path.name) if ".." in path.parts else path.absolute()


def _seen_from(output_folder: Path, folder: PurePath) -> str:
    """Return the relative path to the sources that `folder_of` reads; links are kept only below the output."""
    if not folder.is_absolute():  # a URL, or no folder
        return str(folder)
    named = os.path.relpath(folder, output_folder.absolute())
    if ".." not in Path(named).parts:
        return named
    return os.path.relpath(os.path.realpath(folder), os.path.realpath(output_folder))


def _digests(source: Checkpoint, digests: Mapping[PurePath, str]) -> dict[str, str]:
    return {escape_surrogates(path.name): digests[path] for path in source.stamps if path in digests}


def _bn_statistics(plan: AveragePlan, frozen: Sequence[str]) -> BnStatistics:
    """Return what the BatchNorm statistics of the average are; equal ones stay as trained."""
    layers = {layer for name in plan.sources[-1].tensors if (layer := layer_of(name)) is not None}
    if not layers:
        return "none"
    return "averaged" if len(plan.sources) > 1 and layers - {*frozen} else "as trained"
