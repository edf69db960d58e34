"""Detecting files that are parts of one checkpoint, or different networks, whose mean would be meaningless.

They are recognised by their names: a rank or shard number, or a role such as ``net_G``. Two files are parts of one
checkpoint if their paths differ only in that, and no counter that both have differs.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from swa_cli.errors import option, shortened
from swa_cli.formats import Checkpoint, step_in_name


class _Kind(NamedTuple):
    """One way of naming parts; the first group of ``pattern`` distinguishes them."""

    pattern: re.Pattern[str]
    are: str
    advice: str
    by_itself: str | None = None
    """When averaging one of the parts alone makes sense."""
    needs_step: bool = False
    """Whether successive checkpoints may have such names too."""
    is_model: bool = False
    """Whether each is a whole model, whose mean may be meaningful."""
    total: re.Pattern[str] | None = None
    """Matches the number of parts in a name, if names contain it."""


_MERGE = "Save it whole (full_state_dict), or merge the parts with the tool of the training library."
_ONE_RANK = "If each file is a whole model (data parallelism), take one of every step"


def _kind(
    pattern: str,
    are: str,
    advice: str = _MERGE,
    by_itself: str | None = None,
    *,
    step: bool = False,
    total: str | None = None,
) -> _Kind:
    of_how_many = re.compile(total, re.IGNORECASE) if total else None
    return _Kind(re.compile(pattern, re.IGNORECASE), are, advice, by_itself, step, total=of_how_many)


def _networks(pattern: str) -> _Kind:
    return _kind(rf"(?<![A-Za-z\d]){pattern}(?![A-Za-z\d])", "different networks", "", "Average each network by itself")


_KINDS = (
    _kind(
        r"(?<![A-Za-z\d])shard-(\d{5})-model-",
        "parts of one checkpoint, written by each rank (torch.distributed.checkpoint)",
        "Merge them with torch's consolidate_safetensors_files, or save with "
        "HuggingFaceStorageWriter(enable_consolidation=True).",
    ),
    _kind(
        r"(\d{5})-of-\d{5}",
        "shards of one checkpoint",
        "Name its index (*.index.json) or the folder that holds it. If there is no index, copy it there, or load the "
        "model with from_pretrained and save it again.",
        total=r"\d{5}-of-(\d{5})",
    ),
    _kind(
        r"(?<![A-Za-z\d])consolidated[._](\d{2})\.",
        "model-parallel parts of one checkpoint",
        "Convert it first (Llama: convert_llama_weights_to_hf.py of transformers).",
    ),
    _kind(r"(?<![A-Za-z\d])hf_model_(\d{4})_", "shards of one checkpoint"),
    _kind(
        r"world_size_\d+_rank_(\d+)",
        "parts of one checkpoint, written by each rank (FSDP)",
        "Merge them with the tool of the training library (verl: python -m verl.model_merger), or save a full "
        "state_dict.",
        total=r"world_size_(\d+)_rank_\d",
    ),
    _kind(r"(?<![A-Za-z\d])layer_(\d+)-model", "layers of one pipeline-parallel checkpoint (DeepSpeed)"),
    _kind(
        r"(?:mp|tp|pp)_rank[-_]?(\d+(?:_\d{3}(?!\d))?)",
        "model-parallel parts of one checkpoint",
        "Merge them first (Megatron-LM: tools/checkpoint/convert.py; DeepSpeed: the zero_to_fp32.py beside them).",
    ),
    _kind(
        # Not the rank of a LoRA, nor a place among the best.
        r"(?<![A-Za-z])(?<!lora[-_])(?<!(?<![A-Za-z])top[-_])(?<!(?<![A-Za-z])best[-_])rank[-_.=]?(\d+)",
        "parts of one checkpoint, written by each rank",
        by_itself=_ONE_RANK,
    ),
    _kind(
        r"(?<![A-Za-z])(?:shard|part|piece)[-_.=]?(\d+)[-_.]?of[-_.]?\d+",
        "parts of one checkpoint",
        total=r"(?<![A-Za-z])(?:shard|part|piece)[-_.=]?\d+[-_.]?of[-_.]?(\d+)",
    ),
    _kind(r"(?<![A-Za-z])(?:shard|part|piece)[-_.=]?(\d+)", "parts of one checkpoint", by_itself=_ONE_RANK, step=True),
    _networks("(?:net_?)?[GD]_?([AB])"),
    *map(_networks, ("(net_?[GD])", "([GD])", "(gen|disc?)", "(generator|discriminator)")),
    *map(_networks, ("(encoder|decoder)", "(actor|critic)")),
)
_MODELS = _Kind(
    re.compile(r"(?<![A-Za-z])(?:fold|seed)[-_.=]?(\d+)", re.IGNORECASE),
    "models of different folds or seeds",
    "Unless all were fine-tuned from the same weights, average the checkpoints of one",
    is_model=True,
)
_ALL = (*_KINDS, _MODELS)
_ANY = re.compile("|".join(kind.pattern.pattern for kind in _ALL), re.IGNORECASE)
_MARKED = 0xE000
_STEP = re.compile(r"(?<![A-Za-z\d])(?:\d+|best|last|latest|final)(?![A-Za-z])", re.IGNORECASE)


class _Part(NamedTuple):
    file: Checkpoint
    values: tuple[tuple[_Kind, str], ...]
    """The numbers and roles in its path."""
    rest: str
    """The path without them."""


class Parts(NamedTuple):
    """Findings about files that are not checkpoints of one run."""

    refusal: str | None = None
    """Why their mean would be meaningless: they are parts of one checkpoint, or different networks."""
    notice: str | None = None
    """A note that they are models of different folds or seeds."""


def about_parts(files: Sequence[Checkpoint]) -> Parts:
    """Look for files that are parts of one checkpoint, different networks, or models of different folds or seeds."""
    groups: dict[object, list[_Part]] = {}
    lone: list[tuple[_Part, _Kind]] = []
    for file in files:
        path = os.path.abspath(file.path)  # noqa: PTH100  # however it was spelt; Path.absolute keeps ".."
        if _ANY.search(path):
            part = _part(file, path)
            groups.setdefault((part.rest, tuple(kind.are for kind, _ in part.values)), []).append(part)
            lone += [(part, kind) for kind, _ in part.values if _is_one_of_several(path, kind)][:1]
    found = [pair for group in groups.values() for pair in _of_one_checkpoint(group)]
    parts = [pair for pair in found if not pair[2].is_model]
    models = [pair for pair in found if pair[2].is_model]
    refusal = _refusal(parts) if parts else _refusal_of_lone(lone) if lone else None
    return Parts(refusal, _notice(models) if models else None)


def _is_one_of_several(path: str, kind: _Kind) -> bool:
    return kind.total is not None and any(int(match[1]) > 1 for match in kind.total.finditer(path))


def _part(file: Checkpoint, path: str) -> _Part:
    values: list[tuple[_Kind, str]] = []
    for number, kind in enumerate(_ALL):
        values += [(kind, match[1].lower()) for match in kind.pattern.finditer(path)]
        path = kind.pattern.sub(lambda match, number=number: _without(match, chr(_MARKED + number)), path)
    return _Part(file, tuple(values), path)


def _without(match: re.Match[str], mark: str) -> str:
    before, after = match.start(1) - match.start(), match.end(1) - match.start()
    return match[0][:before] + mark + match[0][after:]


def _of_one_checkpoint(group: Sequence[_Part]) -> Iterator[tuple[_Part, _Part, _Kind]]:
    """Yield each part with the first part that it belongs to, and what distinguishes the two."""
    first, *others = group
    for other in others:
        apart = [one[0] for one, two in zip(first.values, other.values, strict=True) if one != two]
        common = first.file.counters.keys() & other.file.counters.keys()
        one_step = all(first.file.counters[name] == other.file.counters[name] for name in common)
        kind = next((kind for kind in apart if kind.is_model), apart[0] if apart else None)
        if kind and one_step and (not kind.needs_step or common or _names_a_step(Path(first.rest))):
            yield first, other, kind


def _names_a_step(rest: Path) -> bool:
    return bool(_STEP.search(rest.name)) or step_in_name(rest.parent / "x") is not None


def _refusal(found: Sequence[tuple[_Part, _Part, _Kind]]) -> str:
    first, _, kind = found[0]
    paths = _paths([pair for pair in found if pair[2] is kind])
    alone = f"{kind.by_itself}: {option('include', _pattern(first.file.path, kind))}." if kind.by_itself else ""
    advice = " ".join(filter(None, (kind.advice, alone)))
    return f"by their names, these files are {kind.are}; their mean would mean nothing: {shortened(paths)}. {advice}"


def _refusal_of_lone(lone: Sequence[tuple[_Part, _Kind]]) -> str:
    """Return the refusal of parts whose siblings are missing, so that the average would lack tensors."""
    _, kind = lone[0]
    paths = [str(part.file.path) for part, other in lone if other is kind]
    return (
        f"by their names, these are some of the {kind.are}, and the others are not here; the average would lack their "
        f"tensors: {shortened(paths)}. {kind.advice}"
    )


def _notice(found: Sequence[tuple[_Part, _Part, _Kind]]) -> str:
    first, _, kind = found[0]
    pattern = _pattern(first.file.path, kind)
    return (
        f"by their names, these are {kind.are}: {shortened(_paths(found))}. {kind.advice}: "
        f"{option('include', pattern)}."
    )


def _paths(found: Sequence[tuple[_Part, _Part, _Kind]]) -> list[str]:
    return [*dict.fromkeys(str(part.file.path) for pair in found for part in pair[:2])]


def without_parts(name: str) -> str:
    """Remove what distinguishes parts from a name: their numbers, their count, and roles."""
    for kind in _KINDS:
        name = kind.pattern.sub("", name)
    return name


def _pattern(path: PurePath, kind: _Kind) -> str:
    """Return a pattern that matches this part at every step, by its file name or the directory that names the part."""
    for name in reversed(path.parts):
        found = kind.pattern.search(name)
        if found:
            return re.sub(r"\d+", "*", name[: found.start(1)]) + found[1] + re.sub(r"\d+", "*", name[found.end(1) :])
    return path.name
