"""What averaging a folder costs, beyond what averaging a small one did already, in a process of its own."""

import subprocess
import sys
from pathlib import Path

COUNTERS = {
    "resident": "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024",
    "rchar": "int(Path('/proc/self/io').read_text().split()[1])",
}
CODE = """
import resource, sys
from pathlib import Path
from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import find_checkpoints
def run(folder):
    plan = plan_average(find_checkpoints([Path(folder)]).checkpoints, combine=sys.argv[3])
    average(plan, Path(folder, "out.safetensors"))
run(sys.argv[1])
before = {counter}
run(sys.argv[2])
print({counter} - before)
"""


def cost(counter: str, small: Path, large: Path, *, combine: str = "mean") -> int:
    """Bytes: of peak ``resident`` memory, or read (``rchar``)."""
    command = [sys.executable, "-c", CODE.format(counter=COUNTERS[counter]), str(small), str(large), combine]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
