"""In which order checkpoints are put, and what is said where that is not plain."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swa_cli.checkpoints.ordering import in_order_of_steps
from swa_cli.checkpoints.series import SeriesMember
from swa_cli.formats import Checkpoint


def file(name: str, **counters: int) -> SeriesMember:
    return SeriesMember(checkpoint=Checkpoint(path=Path(name), tensors={}, counters=counters))


def names(order) -> list[str]:
    return [str(member.path) for member in order.members]


def steps(order) -> list[int | None]:
    return [member.step for member in order.members]


def test_an_iteration_that_starts_anew_goes_after_the_epoch():
    order = in_order_of_steps(
        [file("a", epoch=1, iteration=50), file("b", epoch=0, iteration=100), file("c", epoch=1, iteration=10)]
    )

    assert (names(order), steps(order)) == (["b", "c", "a"], [0, 1, 1])
    assert order.by == "epoch, then iteration"
    assert order.notices == ("iteration and epoch disagree on the order: ordered by epoch, then iteration.",)
    assert order.trouble is None


@pytest.mark.parametrize(
    "name", ["step_{}/rank0.pt", "model_{}_rank_0.pt", "checkpoint-{}/model_world_size_8_rank_0.pt", "{}.rank=0.pt"]
)
def test_a_rank_is_no_step(name):
    order = in_order_of_steps([file(name.format(step)) for step in (100, 9, 20)])

    assert steps(order) == [9, 20, 100]


def test_an_epoch_that_starts_anew_goes_after_the_global_step():
    order = in_order_of_steps([file(f"{n}", epoch=n % 2, global_step=100 * n) for n in range(4)])

    assert (names(order), steps(order)) == (["0", "1", "2", "3"], [0, 100, 200, 300])
    assert order.notices == ("global_step and epoch disagree on the order: ordered by global_step.",)


def test_equal_steps_go_by_the_next_counter_then_the_name_and_are_said():
    order = in_order_of_steps(
        [
            file("epoch=3-v1.ckpt", epoch=3),
            file("epoch=3.ckpt", epoch=3),
            file("epoch=3-v10.ckpt", epoch=3),
            file("epoch=3-v2.ckpt", epoch=3),
            file("epoch=2.ckpt", epoch=2),
        ]
    )

    assert names(order) == ["epoch=2.ckpt", "epoch=3.ckpt", "epoch=3-v1.ckpt", "epoch=3-v2.ckpt", "epoch=3-v10.ckpt"]
    (notice,) = order.notices
    assert notice == (
        "the same step (epoch), ordered by name: 3: epoch=3.ckpt, epoch=3-v1.ckpt, epoch=3-v2.ckpt, epoch=3-v10.ckpt."
    )
    finer = in_order_of_steps([file("a", epoch=1, step=9), file("b", epoch=1, step=8), file("c", epoch=2, step=9)])
    assert names(finer) == ["b", "a", "c"]


def test_a_recovery_of_timm_was_saved_before_the_checkpoint_of_its_epoch():
    order = in_order_of_steps(
        [file("checkpoint-3.pth.tar", epoch=3), file("recovery-3-100.pth.tar", epoch=3), file("checkpoint-2", epoch=2)]
    )

    assert names(order) == ["checkpoint-2", "recovery-3-100.pth.tar", "checkpoint-3.pth.tar"]


def test_names_help_out_where_they_mean_what_the_contents_say():
    files = [file("epoch-1.pt", epoch=1), file("epoch-2.pt"), file("last.pt", epoch=3)]

    order = in_order_of_steps(files)

    assert (names(order), steps(order)) == (["epoch-1.pt", "epoch-2.pt", "last.pt"], [1, 2, 3])
    assert (order.by, order.trouble) == ("epoch, or the number in the name", None)


def test_names_that_mean_something_else_leave_a_mixture():
    order = in_order_of_steps([file("epoch-1.pt", step=100), file("epoch-2.pt"), file("last.pt", step=900)])

    assert (names(order), steps(order)) == (["epoch-2.pt", "epoch-1.pt", "last.pt"], [None, 100, 900])
    assert order.notices == ("no step is known of epoch-2.pt, while the others have one (step): put before them.",)
    assert order.trouble


def test_numbered_names_that_the_contents_contradict_leave_a_mixture():
    contradicted = in_order_of_steps([file("1.pt", step=900), file("2.pt"), file("3.pt", step=100)])
    confirmed = in_order_of_steps([file("1.pt", step=100), file("2.pt"), file("3.pt", step=900)])

    assert steps(contradicted) == [None, 100, 900]
    assert (steps(confirmed), confirmed.by, confirmed.notices) == ([1, 2, 3], "number in the name", ())


def test_a_name_without_a_number_among_numbered_ones_never_counts_as_the_newest():
    order = in_order_of_steps([file("zz-final.pt"), file("epoch-1.pt"), file("epoch-2.pt")])

    assert names(order) == ["zz-final.pt", "epoch-1.pt", "epoch-2.pt"]


@pytest.mark.parametrize("counters", [{}, {"epoch": 4, "global_step": 900}])
def test_one_file_has_the_first_step_that_is_known(counters):
    order = in_order_of_steps([file("epoch-4.pt", **counters)])

    assert (steps(order), order.notices, order.trouble) == ([counters.get("global_step", 4)], (), None)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "epoch-1", "epoch-2", "x-3-v1", "x-3", "recovery-1-2", "last"]),
            st.dictionaries(st.sampled_from(["epoch", "step", "global_step"]), st.integers(0, 3)),
        ),
        max_size=5,
        unique_by=lambda entry: entry[0],
    )
)
def test_the_order_of_arguments_never_matters(entries):
    files = [file(f"{name}.pt", **counters) for name, counters in entries]

    orders = {
        (tuple(names(order)), tuple(steps(order)), order.by, order.notices, order.trouble)
        for order in map(in_order_of_steps, itertools.permutations(files))
    }

    assert len(orders) == 1
    ((_, found, *_),) = orders
    known = [step for step in found if step is not None]
    assert found[: len(found) - len(known)] == (None,) * (len(found) - len(known))
    assert known == sorted(known)
