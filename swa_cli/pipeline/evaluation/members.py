"""Making the members of an evaluation: checkpoints, the average, and averages for comparison."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from swa_cli.averaging import COMBINERS, Combiner, average, combine_arrays, combiner_of, plan_average
from swa_cli.batchnorm import bn_buffers, bn_layers
from swa_cli.checkpoints import short_names
from swa_cli.evaluation import Member
from swa_cli.formats import Checkpoint, Options, open_checkpoint, unescape_surrogates
from swa_cli.pipeline.evaluation.bn_recompute import Recomputing
from swa_cli.pipeline.evaluation.output_cache.batch_digest import digest_of
from swa_cli.pipeline.evaluation.prepare import EvalInputs
from swa_cli.user.model import own_names, state_dict_for

Digest = Callable[[Checkpoint], str | None]
"""Of a checkpoint's contents, where outputs are kept; else None."""


def checkpoint_members(job: EvalInputs, digest: Digest) -> list[Member]:
    """In the order of training."""
    names = short_names([member.path for member in job.run.members])
    return [
        Member(
            name=name,
            kind="checkpoint",
            step=member.step,
            state_dict=_reading(job, member.checkpoint),
            digest=digest(member.checkpoint),
        )
        for name, member in zip(names, job.run.members, strict=True)
    ]


def average_member(job: EvalInputs, digest: Digest) -> Member:
    """The average, as its file is."""
    return Member(
        name=job.swa.path.name,
        kind="swa",
        state_dict=_reading(job, job.swa),
        digest=digest(job.swa),
    )


def with_averaged_statistics(job: EvalInputs, swa: Member, checkpoints: Sequence[Member]) -> Member | None:
    """The average with BatchNorm statistics combined from the checkpoints', where its own were recomputed.

    None where they were not, or where its record is of other checkpoints, or of a combiner that this version lacks.
    """
    record = job.swa.provenance
    if record is None or record.bn_statistics != "recomputed":
        return None
    combine = (record.options or Options()).combine
    if combine not in COMBINERS:
        return None
    of_file = {(Path(unescape_surrogates(source.name)).name, source.step): source.weight for source in record.sources}
    keys = [(member.path.name, member.step) for member in job.run.members]
    if len(of_file) != len(record.sources) or {*keys} != {*of_file}:
        return None
    weights = [of_file[key] for key in keys]
    paths = [checkpoint.path for checkpoint in job.checkpoints]
    combiner = combiner_of(combine, paths, weights=weights if len({*weights}) > 1 else None)

    def read() -> Mapping[str, Any]:
        state = state_dict_for(job.model, job.swa)
        names = {own: name for name, own in own_names(job.model, job.swa).items()}
        for own, (_, buffer) in bn_buffers(job.model, bn_layers(job.model)).items():
            if buffer != "num_batches_tracked":
                state[own] = _combined(job.checkpoints, names[own], combiner).to(state[own].dtype)
        return state

    digests = [member.digest for member in (swa, *checkpoints)]
    return Member(
        name=f"SWA, {combiner.words.adjective} BatchNorm",
        kind="swa-averaged-bn",
        state_dict=read,
        digest=None if None in digests else digest_of([digests, combiner.name, weights]),
        members=len(weights),
    )


def control(job: EvalInputs, recomputing: Recomputing) -> Member:
    """The last checkpoint with recomputed statistics: what of the average's gain is BatchNorm alone."""
    last = job.run.members[-1]
    state = recomputing.of(state_dict_for(job.model, last.checkpoint))
    return Member(name="last, BatchNorm recomputed", kind="control", state_dict=state, step=last.step, members=1)


def average_of(
    job: EvalInputs, checkpoints: Sequence[Checkpoint], recomputing: Recomputing, folder: Path
) -> Mapping[str, Any]:
    """The average of some of the checkpoints, all counting the same, with statistics of its own.

    It is made as ``swa-average`` made the one that is evaluated, with the same dtype and policies.

    Args:
        folder: for a file that is gone when this is done.
    """
    record = job.swa.provenance
    options = (record and record.options) or Options()
    path = folder / "some.safetensors"
    try:
        plan = plan_average(
            checkpoints,
            dtype=options.dtype,
            integers=options.integers,
            combine=options.combine,
            allow_nonfinite=options.allow_nonfinite,
        )
        average(plan, path, overwrite=True)
        return recomputing.of(state_dict_for(job.model, open_checkpoint(path)))
    finally:
        path.unlink(missing_ok=True)


def _reading(job: EvalInputs, checkpoint: Checkpoint) -> Callable[[], Mapping[str, Any]]:
    return lambda: state_dict_for(job.model, checkpoint)


def _combined(checkpoints: Sequence[Checkpoint], name: str, combiner: Combiner) -> torch.Tensor:
    values = (checkpoint.get_tensor(name).to(torch.float64).numpy() for checkpoint in checkpoints)
    return torch.from_numpy(combine_arrays(combiner, values))
