"""swa under torchrun, for test_distributed.py: rank HANG_RANK stops in the middle, after saying which process it is."""

import os
import sys
import time
from pathlib import Path

import swa_cli.averaging
from swa_cli.cli.main import swa

if __name__ == "__main__":
    if os.environ.get("HANG_RANK") == os.environ["RANK"]:

        def hang(*_: object, **__: object) -> None:
            """Stand in for the averaging."""
            Path("pid").write_text(str(os.getpid()), encoding="utf-8")
            time.sleep(600)

        sys.modules[f"{swa_cli.averaging.__name__}.average"].stream_average = hang  # pyright: ignore[reportAttributeAccessIssue]
    swa()
