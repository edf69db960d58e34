"""Which of the processes that torchrun starts talks to the user."""

import socket

import pytest

from swa_cli.system.torchrun import is_reporting_rank


@pytest.mark.parametrize(
    ("host", "number", "reports"),
    [(None, None, False), ("here", 2**22 + 1, True), ("here", 1, False), ("elsewhere", 2**22 + 1, False)],
)
def test_the_first_that_is_left_speaks(monkeypatch, host, number, reports):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    here = socket.gethostname()
    first = [] if host is None else [(here if host == "here" else host, number)]

    assert is_reporting_rank([*first, (here, 2)]) is reports
