"""What may not be read or written is said in one message, by a process to which permissions apply."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

AS_ANY_USER = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: without them root is held to permissions
        if ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")
os.execv(sys.executable, [sys.executable, "-m", "swa_cli", *sys.argv[1:]])
"""


@pytest.fixture
def place(tmp_path):
    """Two checkpoints, and beside them what is closed to everybody."""
    for name in ("run", "mixed", "closed", "like"):
        (tmp_path / name).mkdir()
    for step in range(2):
        for name in ("run", "mixed", "closed"):
            torch.save({"w": torch.ones(2) * step}, tmp_path / name / f"epoch-{step}.pt")
    save_file({"w": torch.ones(2)}, tmp_path / "like" / "model.safetensors")
    for name in ("secret.pt", "like/config.json"):
        (tmp_path / name).write_bytes(b"{}")
        (tmp_path / name).chmod(0)
    (tmp_path / "mixed" / "epoch-1.pt").chmod(0)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "old.safetensors").write_bytes(b"old")
    (tmp_path / "closed").chmod(0)
    (tmp_path / "locked").chmod(0o555)
    yield tmp_path
    for name in ("closed", "locked"):
        (tmp_path / name).chmod(0o700)


def run_as_any_user(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_ANY_USER, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("average", "secret.pt", "run/epoch-0.pt", "-o", "o.pt"), "secret.pt: .*Permission denied"),
        (("inspect", "secret.pt"), "files that cannot be read:\n  secret.pt\n"),
        (("verify", "secret.pt"), "secret.pt: .*Permission denied"),
        (("average", "mixed", "-o", "o.pt"), "epoch-1.pt.*Permission denied"),
        (("average", "closed", "-o", "o.pt"), "cannot read the directory closed: Permission denied"),
        (("inspect", "closed"), "cannot read the directory closed: Permission denied"),
        (("inspect", "closed/epoch-0.pt"), "closed/epoch-0.pt.*Permission denied"),
        (("verify", "closed/epoch-0.pt"), "closed.*Permission denied"),
        (("average", "run", "-o", "locked/o.safetensors"), "cannot write locked/o.safetensors: no permission"),
        (("average", "run", "-o", "locked/old.safetensors", "--force"), "cannot write locked/old.safetensors: no"),
        (("average", "run", "-o", "closed/o.safetensors"), "cannot write closed/o.safetensors: Permission denied"),
        (
            ("eval", "run", "--swa", "x.pt", "--json", "locked/x.json"),
            "cannot write locked/x.json: no permission to write in locked",
        ),
        (("average", "run", "--like", "like", "-o", "o"), "like/config.json.*Permission denied"),
    ],
)
def test_what_may_not_be_read_or_written_is_named(place, arguments, message):
    result = run_as_any_user(place, *arguments)

    assert result.returncode == 1
    assert re.search(f"^error: .*{message}", result.stderr), result.stderr
    assert result.stderr.count("error: ") == 1
    assert not [*place.glob("o*")]
    assert [path.read_bytes() for path in (place / "locked").iterdir()] == [b"old"]
