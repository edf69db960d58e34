"""Which checkpoints the flags pick, and what they say when they cannot."""

import itertools
import math
from pathlib import Path, PurePath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swa_cli.checkpoints import Selection, find_checkpoints, select
from swa_cli.checkpoints.ordering import Order, in_order_of_steps
from swa_cli.checkpoints.selection import is_meant
from swa_cli.checkpoints.series import SeriesMember
from swa_cli.config.load import load_config
from swa_cli.errors import SourceError, UsageError
from swa_cli.formats import Checkpoint


def file(name: str, *, counters: dict[str, int] | None = None, metrics: dict[str, float] | None = None) -> SeriesMember:
    checkpoint = Checkpoint(path=Path(name), tensors={}, counters=counters or {})
    return SeriesMember(checkpoint=checkpoint, metrics=metrics or {})


def ordered(steps, losses=None, name="f{}.pt") -> Order:
    losses = losses or [float(step) for step in steps]
    files = [
        file(name.format(number), counters={"step": step}, metrics={"loss": loss})
        for number, (step, loss) in enumerate(zip(steps, losses, strict=True))
    ]
    return in_order_of_steps(files)


def picked(order: Order, **flags) -> list[int]:
    chosen, _ = select(order, Selection(**flags), where="ckpts")
    return [member.step or 0 for member in chosen]


def oracle(pairs, *, from_step=None, to_step=None, every=None, first=None, last=None, best=None, mode=None):
    """Slow and obvious: one file at a time."""
    left = sorted(pairs)
    left = [pair for pair in left if from_step is None or pair[0] >= from_step]
    left = [pair for pair in left if to_step is None or pair[0] <= to_step]
    kept = []
    for number, pair in enumerate(reversed(left)):
        if every is None or number % every == 0:
            kept.insert(0, pair)
    count = first or last or best
    if not left or (count and count > len(kept)):
        return None
    if first:
        kept = kept[:first]
    if last:
        kept = kept[len(kept) - last :]
    chosen = []
    while best and len(chosen) < best:
        rest = [pair for pair in kept if pair not in chosen]
        value = min(loss for _, loss in rest) if mode == "min" else max(loss for _, loss in rest)
        chosen.append(max(pair for pair in rest if pair[1] == value))
    return [step for step, _ in (sorted(chosen) if best else kept)]


@given(
    losses=st.dictionaries(st.integers(0, 30), st.integers(0, 4).map(float), min_size=1, max_size=12),
    span=st.tuples(st.none() | st.integers(0, 15), st.none() | st.integers(15, 30)),
    every=st.none() | st.integers(1, 4),
    count=st.tuples(st.sampled_from(["first", "last", "best"]), st.none() | st.integers(1, 8)),
    mode=st.sampled_from(["min", "max"]),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_selection_is_what_a_slow_and_obvious_one_gives(losses, span, every, count, mode, shuffle):
    pairs = list(losses.items())
    shuffle.shuffle(pairs)
    flags = {"from_step": span[0], "to_step": span[1], "every": every, count[0]: count[1]}
    by = {"metric": "loss", "mode": mode} if flags.get("best") else {}
    order = ordered([step for step, _ in pairs], [loss for _, loss in pairs])

    expected = oracle(pairs, **flags, mode=mode)

    if expected is None:
        with pytest.raises(SourceError):
            picked(order, **flags, **by)
    else:
        assert picked(order, **flags, **by) == expected


def test_the_newest_is_always_among_every_so_many():
    assert picked(ordered(range(10)), every=4) == [1, 5, 9]
    assert picked(ordered(range(10)), every=100) == [9]


def test_ranges_include_both_ends():
    assert picked(ordered(range(0, 100, 10)), from_step=30, to_step=50) == [30, 40, 50]
    assert picked(ordered(range(0, 100, 10)), from_step=75) == [80, 90]
    assert picked(ordered(range(0, 100, 10)), to_step=5) == [0]


def test_best_goes_in_both_directions_and_stays_in_order():
    losses = [0.5, 0.1, 0.9, 0.2, 0.3]

    assert picked(ordered(range(5), losses), best=2, metric="loss", mode="min") == [1, 3]
    assert picked(ordered(range(5), losses), best=2, metric="loss", mode="max") == [0, 2]


def test_nan_is_never_best_and_that_is_said():
    order = ordered(range(4), [math.nan, 0.2, 0.1, math.nan])

    for mode in ("min", "max"):
        chosen, notices = select(order, Selection(best=2, metric="loss", mode=mode), where="ckpts")
        assert [member.step for member in chosen] == [1, 2]
        assert notices == ["loss is NaN in f0.pt, f3.pt: never among the best."]
    with pytest.raises(SourceError, match="there are only 2 checkpoints whose loss is a number in ckpts"):
        picked(order, best=3, metric="loss", mode="min")


def test_of_equal_metrics_the_newer_are_taken_and_that_is_said():
    order = ordered(range(4), [0.1, 0.2, 0.2, 0.2])

    chosen, notices = select(order, Selection(best=2, metric="loss", mode="min"), where="ckpts")

    assert [member.step for member in chosen] == [0, 3]
    assert notices == ["loss is 0.2 in f3.pt, f2.pt, f1.pt: of equal ones the newer are taken."]
    assert select(order, Selection(best=4, metric="loss", mode="min"), where="ckpts")[1] == []


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"last": 9}, SourceError, "`last=9`: there are only 4 checkpoints in ckpts."),
        ({"first": 9}, SourceError, "`first=9`: there are only 4 checkpoints in ckpts."),
        (
            {"last": 3, "from_step": 1, "every": 2},
            SourceError,
            "`last=3`: there are only 2 checkpoints in ckpts after `from_step=1` `every=2`.",
        ),
        (
            {"from_step": 10, "to_step": 20},
            SourceError,
            "`from_step=10` `to_step=20`: no checkpoint in ckpts is in that range; the steps (step) are 0 to 3.",
        ),
        (
            {"from_step": 3, "to_step": 2},
            UsageError,
            "`from_step=3` `to_step=2`: the first is greater than the second, so none is meant.",
        ),
        ({"last": 1, "best": 2}, UsageError, "`last=1` and `best=2` exclude each other. Give one of them."),
        ({"metric": "loss", "mode": "min"}, UsageError, "`metric='loss'` `mode='min'` without `best`. Say how many"),
        ({"every": 0}, UsageError, "`every=0`: expected 1 or more."),
        (
            {"best": 2, "metric": "los", "mode": "min"},
            UsageError,
            "`metric='los'`: no file has a metric of this name. Did you mean 'loss'? The files have: loss.",
        ),
        (
            {"best": 2},
            UsageError,
            "`best=2` needs `metric` and `mode`: which metric is meant, and which way is better.",
        ),
        ({"best": 2, "metric": "loss"}, UsageError, "`best=2` needs `mode`: which"),
        (
            {"best": 5, "metric": "loss", "mode": "max"},
            SourceError,
            "`best=5`: there are only 4 checkpoints in ckpts.",
        ),
    ],
)
def test_a_selection_that_cannot_be_says_why(flags, error, message):
    with pytest.raises(error) as caught:
        picked(ordered(range(4)), **flags)
    assert message in str(caught.value)
    assert caught.value.exit_code == (2 if error is UsageError else 1)


def test_a_metric_that_some_files_lack_is_refused_and_these_are_named():
    files = [file(f"{n}.pt", counters={"step": n}, metrics={"acc": 1.0} if n else {}) for n in range(3)]

    with pytest.raises(SourceError, match=r"(?s)`metric='acc'`: 2 of 3 checkpoints .*these have not:\n  0\.pt\nLeave"):
        picked(in_order_of_steps(files), best=1, metric="acc", mode="max")


def test_without_metrics_the_message_says_that_there_are_none():
    order = in_order_of_steps([file("1.pt")])

    with pytest.raises(UsageError, match=r"no file has a metric of this name\. The files have none, in the contents"):
        picked(order, best=1, metric="acc", mode="max")


@pytest.mark.parametrize("flags", [{"last": 1}, {"first": 1}, {"every": 2}, {"from_step": 0}, {"to_step": 9}])
def test_without_steps_nothing_is_taken_that_needs_an_order(flags):
    order = in_order_of_steps([file(f"{n}.pt", metrics={"a": 1}) for n in "abc"])

    with pytest.raises(SourceError) as caught:
        picked(order, **flags)
    assert str(caught.value).endswith(
        "no steps could be told apart, from the contents of the files or from their names, so there is no order. Name "
        "the files that you mean, or take them with `include`; or put the step into each name (epoch-3.pt)."
    )
    assert len(select(order, Selection(best=2, metric="a", mode="min"), where="x")[0]) == 2


def test_one_file_needs_a_step_only_for_a_range():
    order = in_order_of_steps([file("model.pt")])

    assert len(select(order, Selection(last=1, every=3), where="x")[0]) == 1
    with pytest.raises(SourceError, match=r"`from_step=0`: no step is known of model\.pt\."):
        select(order, Selection(from_step=0), where="x")


@pytest.mark.parametrize("flags", [{"last": 1}, {"first": 1}, {"every": 2}, {"from_step": 0}, {"to_step": 9}])
def test_where_some_have_no_step_nothing_is_taken_that_needs_an_order(flags):
    files = [file(name) for name in ("final.pt", "epoch-1.pt", "epoch-2.pt")]

    with pytest.raises(SourceError, match=r"no step is known of final\.pt, while the others .* `exclude`, name the"):
        picked(in_order_of_steps(files), **flags)


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        ({"include": ("epoch-*",)}, ["epoch-1.pt", "epoch-2.pt", "late/epoch-3.pt"]),
        ({"exclude": ("*-1.pt",)}, ["epoch-2.pt", "late/epoch-3.pt", "other.pt"]),
        ({"include": ("epoch-*", "other*"), "exclude": ("*2*",)}, ["epoch-1.pt", "late/epoch-3.pt", "other.pt"]),
        ({"include": ("late/*",)}, ["late/epoch-3.pt"]),
        ({"exclude": ("late",)}, ["epoch-1.pt", "epoch-2.pt", "other.pt"]),
    ],
)
def test_patterns_are_of_names_or_with_a_slash_of_paths(patterns, meant):
    names = ["epoch-1.pt", "epoch-2.pt", "late/epoch-3.pt", "other.pt"]

    assert [name for name in names if is_meant(Path(name), PurePath(name), Selection(**patterns))] == meant


def test_a_file_that_is_left_out_is_never_opened(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "epoch-1.pt")
    (tmp_path / "epoch-2.pt").write_bytes(b"")

    run = find_checkpoints([tmp_path], selection=Selection(exclude=("epoch-2.pt", "nothing*")))

    assert [checkpoint.path.name for checkpoint in run.checkpoints] == ["epoch-1.pt"]
    assert run.notices == ("`exclude='nothing*'` matches none of the 2 files.",)
    with pytest.raises(
        SourceError, match=r"none of the 2 files in .* left after `include='\*\.ckpt'`\. The first is epoch-1"
    ):
        find_checkpoints([tmp_path], selection=Selection(include=("*.ckpt",)))


@pytest.mark.parametrize("flags", [{"last": 2}, {"first": 2}, {"every": 2}, {"best": 2, "metric": "a", "mode": "max"}])
def test_the_order_of_arguments_never_matters(tmp_path, flags):
    paths = []
    for number, (epoch, step, value) in enumerate([(1, 5, 0.5), (1, 5, 0.5), (2, 5, 0.5), (2, 1, 0.1)]):
        paths.append(tmp_path / f"{'dbca'[number]}.pt")
        torch.save({"w": torch.tensor([float(number)]), "a": value, "epoch": epoch, "step": step}, paths[-1])

    runs = [find_checkpoints(order, selection=Selection(**flags)) for order in itertools.permutations(paths)]

    assert len({tuple((member.path, member.step) for member in run.members) for run in runs}) == 1
    assert len({run.notices for run in runs}) == 1


def test_flags_replace_what_excludes_them_in_the_configuration(tmp_path):
    (tmp_path / "run.yaml").write_text("average: {best: 3, metric: a, mode: min, every: 2, include: x*}\n")

    options = load_config(tmp_path / "run.yaml", {"average": {"last": 4, "best": None}}).average
    kept = load_config(tmp_path / "run.yaml", {"average": {"best": 4}}).average

    assert (options.last, options.best, options.metric, options.mode, options.every) == (4, None, None, None, 2)
    assert (kept.best, kept.metric, kept.mode, kept.include) == (4, "a", "min", ("x*",))


def test_the_flags_reach_the_average(run_swa, save_run):
    save_run([{"w": torch.full((1,), float(step))} for step in range(6)])

    result = run_swa("average", "ckpts", "--dry-run", "--from", 1, "--every", 2, "--exclude", "*-5.pt", "--first", 1)

    assert result.exit_code == 0, result.stderr
    assert "epoch-2.pt" in result.stdout
    assert result.stdout.startswith("1 checkpoint, ordered by")
    both = run_swa("average", "ckpts", "--dry-run", "--first", 1, "--last", 2)
    assert (both.exit_code, both.stderr) == (
        2,
        "error: --first 1 and --last 2 exclude each other. Give one of them.\n",
    )
