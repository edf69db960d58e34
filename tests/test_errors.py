"""The lines of a message, apart from the line breaks in names that it quotes."""

import pickle
from pathlib import Path

import pytest

from swa_cli.errors import CheckpointError, MismatchError, SourceError, SwaError, listed, option, spelling


@pytest.mark.parametrize("kind", [SourceError, MismatchError, CheckpointError])
def test_an_error_keeps_its_lines_apart(kind: type[SwaError]):
    error = kind("these differ:", *listed(["a\nb", "c"]), "Leave them out.")

    again = pickle.loads(pickle.dumps(error))  # as ranks send it

    assert type(again) is kind
    assert again.args == ("these differ:", "  a\nb", "  c", "Leave them out.")
    assert str(again) == "these differ:\n  a\nb\n  c\nLeave them out."


def test_a_subject_begins_the_message():
    error = MismatchError("these differ:", "  a")
    error.add_subject("rank 3")

    assert error.args == ("rank 3: these differ:", "  a")


@pytest.mark.parametrize(("count", "expected"), [(10, 10), (11, 11), (500, 11)])
def test_a_list_names_ten_and_counts_the_rest(count, expected):
    lines = listed([str(number) for number in range(count)])

    assert len(lines) == expected
    assert lines[9] == "  9"
    assert lines[10:] == ([f"  … and {count - 10} more"] if count > 10 else [])


def test_a_message_names_options_as_arguments_unless_the_program_has_another_way():
    named = [option("key"), option("every", 2), option("include", Path("a b"))]

    with spelling(lambda name, value, of: f"<{name} {value} {of}>"):
        spelled = [option("key"), option("graph", "g", of="task")]

    assert named == ["`key`", "`every=2`", "`include='a b'`"]
    assert spelled == ["<key None None>", "<graph g task>"]
    assert option("key") == "`key`"


def test_the_way_to_name_options_is_put_back_after_a_failure():
    with pytest.raises(ZeroDivisionError), spelling(lambda *_: "flag"):
        raise ZeroDivisionError

    assert option("force", True) == "`force=True`"
