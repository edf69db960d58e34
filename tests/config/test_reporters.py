"""The registry of what an evaluation can be written to."""

import pytest

from support.results import FULL
from swa_cli.config.reporters import REPORTERS
from swa_cli.config.settings import settings


@pytest.mark.parametrize("name", REPORTERS)
def test_a_reporter_renders_a_result(name):
    reporter = REPORTERS[name]

    text = reporter.render(FULL)

    assert text.startswith(reporter.start.decode())
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("name", REPORTERS)
def test_a_reporter_has_a_key_and_a_flag(name):
    (setting,) = [setting for setting in settings("eval") if setting.name == name]

    assert setting.flags == (f"--{name}",)
    assert setting.option.help == REPORTERS[name].help
    assert setting.field == "reports"
