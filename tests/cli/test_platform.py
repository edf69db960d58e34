"""swa-cli says where it runs."""

import subprocess
import sys

import pytest

ELSEWHERE = "import sys; sys.platform = {platform!r}; from swa_cli.cli.main import swa; sys.argv = ['swa']; swa()"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_system_than_linux_is_one_message(platform):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.format(platform=platform)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: swa-cli runs on Linux; this is {platform}.")
    assert done.stderr.count("\n") == 1
