"""Planning an average: checking the sources and choosing a policy for every tensor, before anything is written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Literal, NamedTuple

from swa_cli.averaging.combiners import Combiner, check_whole, combiner_of
from swa_cli.averaging.complete import check_complete
from swa_cli.config.choices import Integers
from swa_cli.errors import MismatchError, listed, option, shortened
from swa_cli.formats import BY_NAME, Checkpoint, Dtype, TensorSpec, file_order, find_ties, is_averaged, is_floating
from swa_cli.system.gc_pause import gc_paused

Policy = Literal["combined", "agree", "newest", "oldest", "rounded"]

_FROM_ALL = ("combined", "agree", "rounded")
_EXTRA_STATE = "_extra_state"
_POLICIES: dict[Integers, Policy] = {
    "agree": "agree",
    "last": "newest",
    "first": "oldest",
    "mean-round": "rounded",
}


class TensorPlan(NamedTuple):
    """One tensor of the output, with its policy.

    ``combined``: the combiner's result in float64, rounded once. ``agree``: an integer or bool that must be equal in
    all sources. ``newest``, ``oldest``: copied from the last or the first source. ``rounded``: the exact mean of
    integers, rounded to the nearest, ties to even.
    """

    name: str
    policy: Policy
    spec: TensorSpec


@dataclass(frozen=True, kw_only=True)
class AveragePlan:
    """Sources in the order of summation, and the tensors in the order of the output file."""

    sources: tuple[Checkpoint, ...]
    steps: tuple[int | None, ...]
    """The step of each source; None if unknown."""
    combiner: Combiner
    """How the sources are combined."""
    tensors: tuple[TensorPlan, ...]
    tied: Mapping[str, str]
    """Maps the further names of tied tensors to the name under which they are averaged and written."""
    extra: Mapping[str, object]
    """Entries of the newest state_dict that are not tensors."""
    dtype: str | None
    """The output dtype that was asked for."""
    integers: Integers
    allow_nonfinite: bool
    """Whether NaN and infinity are averaged like any number."""
    notices: tuple[str, ...]

    @property
    def files(self) -> tuple[PurePath, ...]:
        """All files of the sources that hold tensors, each once."""
        return tuple(dict.fromkeys(path for source in self.sources for path in source.stamps))

    def read_by(self, tensor: TensorPlan) -> tuple[Checkpoint, ...]:
        """Return the sources that a tensor is read from, in the order of summation."""
        if tensor.policy in _FROM_ALL:
            return self.sources
        return self.sources[-1:] if tensor.policy == "newest" else self.sources[:1]

    @cached_property
    def bytes_to_read(self) -> int:
        """Bytes of tensors read from all sources."""
        return self.bytes_of(self.tensors)

    def bytes_of(self, tensors: Sequence[TensorPlan]) -> int:
        """Return the bytes read from all sources for some of the tensors."""
        layouts = Counter(id(source.tensors) for source in self.sources)
        by_id = {id(source.tensors): source.tensors for source in self.sources}
        counted = [(by_id[layout], count) for layout, count in layouts.items()]
        return sum(
            sum(count * layout[tensor.name].spec.nbytes for layout, count in counted)
            if tensor.policy in _FROM_ALL
            else tensor.spec.nbytes
            for tensor in tensors
        )

    @property
    def bytes_to_write(self) -> int:
        """Bytes of tensors in the output, without its header."""
        return sum(tensor.spec.nbytes for tensor in self.tensors)


def split_tied(plan: AveragePlan, names: Sequence[str]) -> AveragePlan:
    """Return the plan with some names of tied tensors written as separate tensors."""
    if not names:
        return plan
    planned = {tensor.name: tensor for tensor in plan.tensors}
    planned |= {name: planned[plan.tied[name]]._replace(name=name) for name in names}
    order = file_order({name: tensor.spec for name, tensor in planned.items()})
    tied = {name: kept for name, kept in plan.tied.items() if name not in names}
    return replace(plan, tensors=tuple(planned[name] for name in order), tied=tied)


def plan_average(
    sources: Sequence[Checkpoint],
    *,
    steps: Sequence[int | None] | None = None,
    dtype: str | None = None,
    integers: Integers = "agree",
    combine: str = "mean",
    weights: Sequence[float] | None = None,
    ema: float | None = None,
    allow_nonfinite: bool = False,
) -> AveragePlan:
    """Check that the sources fit together and choose a policy for every tensor.

    Args:
        sources: at least one, in the order of training.
        steps: the step of each source, for the provenance and for messages.
        dtype: output dtype of floating-point tensors, such as ``"bfloat16"``; default: same as input. Complex tensors
            keep theirs.
        integers: policy for integers and bools; with ``agree``, ``num_batches_tracked`` is the newest.
        combine: name of the combiner of floating-point and complex tensors: one of
            `swa_cli.averaging.combiners.COMBINERS`.
        weights: weight of each source, in their order; default: equal weights. Only their ratios matter.
        ema: decay of an exponential moving average, in place of weights.
        allow_nonfinite: average NaN and infinity like any number.

    Raises:
        UsageError: the combiner is unknown or does not take weights; the weights are not one positive number per
            source, or too fine for means of integers.
        MismatchError: keys, shapes or dtypes differ from those of the first source.
        CheckpointError: a source lacks weights of its model, see `check_complete`.
    """
    with gc_paused():
        combiner = combiner_of(combine, [source.path for source in sources], weights=weights, ema=ema)
        known = steps or [None] * len(sources)
        return _plan(sources, known, dtype, integers, combiner, allow_nonfinite=allow_nonfinite)


def _plan(
    sources: Sequence[Checkpoint],
    steps: Sequence[int | None],
    dtype: str | None,
    integers: Integers,
    combiner: Combiner,
    *,
    allow_nonfinite: bool,
) -> AveragePlan:
    first, newest = sources[0], sources[-1]
    check_complete(sources)
    problems = [problem for other in sources[1:] for problem in _differences(first, other, any_float=dtype is not None)]
    if problems:
        raise MismatchError(*_explain(problems, sources, steps))
    policies: dict[str, Policy] = {
        name: _policy(name, stored.spec.dtype, integers) for name, stored in newest.tensors.items()
    }
    tied = {name: kept for name, kept in find_ties(sources).items() if policies[name] == policies[kept]}
    specs = {
        name: _output_spec(newest.spec(name), BY_NAME[dtype] if dtype and not _is_extra_state(name) else None)
        for name in newest.tensors
        if name not in tied and (name in first.tensors or _is_extra_state(name))
    }
    tensors = tuple(TensorPlan(name=name, policy=policies[name], spec=specs[name]) for name in file_order(specs))
    if any(tensor.policy == "rounded" for tensor in tensors):
        check_whole(combiner.weights)
    return AveragePlan(
        sources=tuple(sources),
        steps=tuple(steps),
        combiner=combiner,
        tensors=tensors,
        tied=tied,
        extra=newest.extra,
        dtype=dtype,
        integers=integers,
        allow_nonfinite=allow_nonfinite,
        notices=_notices(sources, tied),
    )


def _output_spec(spec: TensorSpec, dtype: Dtype | None) -> TensorSpec:
    if dtype is None or not is_floating(spec.dtype):
        return spec
    return TensorSpec(shape=spec.shape, dtype=dtype)


def _policy(name: str, dtype: Dtype, integers: Integers) -> Policy:
    if _is_extra_state(name):
        return "newest"
    if is_averaged(dtype):
        return "combined"
    if integers == "agree" and name.rpartition(".")[2] == "num_batches_tracked":
        return "newest"
    return _POLICIES[integers]


def _is_extra_state(name: str) -> bool:
    """Return whether an entry is a module's ``_extra_state``, which only the module can interpret."""
    return name.rpartition(".")[2] == _EXTRA_STATE


def _differences(first: Checkpoint, other: Checkpoint, *, any_float: bool) -> list[str]:
    if other.tensors is first.tensors:  # the files have one header
        return []
    expected = {name: stored.spec for name, stored in first.tensors.items() if not _is_extra_state(name)}
    found = {name: stored.spec for name, stored in other.tensors.items() if not _is_extra_state(name)}
    if expected == found:
        return []
    as_in = f"as in {first.path.name}"
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    differing = [
        name for name, spec in expected.items() if name in found and not _fits(spec, found[name], any_float=any_float)
    ]
    return [
        *(f"{other.path}: {name}: expected {expected[name]} {as_in}, found no such tensor" for name in missing),
        *(f"{other.path}: {name}: found {found[name]}, {first.path.name} has no such tensor" for name in extra),
        *(f"{other.path}: {name}: expected {expected[name]} {as_in}, found {found[name]}" for name in differing),
    ]


def _explain(problems: Sequence[str], sources: Sequence[Checkpoint], steps: Sequence[int | None]) -> tuple[str, ...]:
    first = sources[0]
    if not any(problem for other in sources for problem in _differences(first, other, any_float=True)):
        specs = [{source.spec(name) for source in sources} for name in first.tensors if not _is_extra_state(name)]
        dtypes = {spec.dtype for differing in specs if len(differing) > 1 for spec in differing}
        widest = [dtype.name for dtype in dtypes if dtype.itemsize == max(dtype.itemsize for dtype in dtypes)]
        dtype = widest[0] if len(widest) == 1 else "float32"
        return (
            "the checkpoints hold the same tensors in different dtypes:",
            *listed(problems),
            (
                f"Choose the dtype of the average ({option('dtype', dtype)}), or leave out the files that differ "
                f"({option('exclude')})."
            ),
        )
    return (
        "the checkpoints do not hold the same tensors:",
        *listed(problems),
        (
            f"{_of_one_step(sources, steps)}Average checkpoints of one run and one model; leave out the files that "
            f"differ ({option('include')}, {option('exclude')})."
        ),
    )


def _of_one_step(sources: Sequence[Checkpoint], steps: Sequence[int | None]) -> str:
    """Return a sentence if two files of the same step differ."""
    firsts: dict[int, Checkpoint] = {}
    for source, step in zip(sources, steps, strict=True):
        first = source if step is None else firsts.setdefault(step, source)
        if _differences(first, source, any_float=True):
            return (
                f"{first.path} and {source.path} differ although both are of step {step}: they seem to be parts "
                "of one model, or different networks. "
            )
    return ""


def _fits(first: TensorSpec, other: TensorSpec, *, any_float: bool) -> bool:
    if any_float and is_floating(first.dtype) and is_floating(other.dtype):
        return first.shape == other.shape
    return first == other


def _notices(sources: Sequence[Checkpoint], tied: Mapping[str, str]) -> tuple[str, ...]:
    notices: list[str] = []
    if len(sources) == 1:
        notices.append(f"only one checkpoint ({sources[0].path}): its average is itself.")
    if tied:
        pairs = [f"{name} = {kept}" for name, kept in tied.items()]
        notices.append(f"tied tensors are averaged and written once: {shortened(pairs)}.")
    if sources[-1].extra:
        names = shortened(list(sources[-1].extra))
        notices.append(f"entries of the state_dict that are not tensors are taken from the newest file: {names}.")
    left_out = sorted({name for source in sources for name in source.left_out})
    if left_out:
        notices.append(
            f"entries of the state_dict that are neither tensors nor plain values are left out: {shortened(left_out)}."
        )
    return tuple(notices)
