"""The user's model file, in the working directory."""

import sys

import pytest

from support.user_code import CODE


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    (tmp_path / "usernet.py").write_text(CODE)
    (tmp_path / "helper_beside_it.py").write_text("WIDTH = 5\n")
    yield tmp_path / "usernet.py"
    for name in set(sys.modules) - known:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
