"""A pickle is read as a tree, and written again."""

import argparse
import pickle

import pytest

from support.pickled import things
from swa_cli.formats.torch import pickle_edit, pickle_tree


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_tree_is_written_as_it_was_read(protocol):
    values = things()

    again = pickle.loads(pickle_tree.write_tree(pickle_tree.read_tree(pickle.dumps(values, protocol=protocol))))

    assert again["itself"][0] is again["itself"]
    del again["itself"], values["itself"]
    assert repr(again) == repr(values)
    assert again["shared"][0] is again["shared"][1]
    assert again["objects"][0].names is again["shared"][0]


def test_a_tree_as_deep_as_can_be():
    deep: list[object] = []
    for _ in range(400):
        deep = [deep]
    data = pickle.dumps(deep)
    nested = b"\x80\x02" + b"]q\x00" * 50_000 + b"a" * 49_999 + b"."  # deeper than any function call

    assert pickle.loads(pickle_tree.write_tree(pickle_tree.read_tree(data))) == deep
    assert pickle_tree.write_tree(pickle_tree.read_tree(nested)).count(b"]") == 50_000


def test_entries_are_dropped_and_what_they_shared_is_kept():
    shared = argparse.Namespace(a=1)
    root = pickle_tree.read_tree(pickle.dumps({"optimizer": [shared, "x"], "args": shared, 3: "x"}, protocol=2))

    pickle_edit.drop_items(root, ["optimizer"])

    assert pickle.loads(pickle_tree.write_tree(root)) == {"args": shared, 3: "x"}
