"""Programs of Python run as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

SWA = ("-m", "swa_cli")


def python(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """What became of ``python ...`` in ``folder``: wide output, one thread."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def torchrun(folder: Path, ranks: int, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """The same on so many ranks."""
    return python(folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, *arguments)
