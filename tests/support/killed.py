"""A run that is to be killed: says that it is ready, waits for a line, then averages. Used by test_kills.py.

Arguments: folder of checkpoints, output, what it is to be like or "-", size of shards or "-".
"""

import sys
from pathlib import Path

from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.outputs import Like, Target


def main(folder: str, output: str, like: str, shard: str) -> None:
    """Average once."""
    plan = plan_average(find_checkpoints([Path(folder)]).checkpoints)
    structure = None if like == "-" else Like(checkpoint=open_single(Path(like)), key=None)
    target = Target(path=Path(output), like=structure, max_shard_size=None if shard == "-" else int(shard))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    average(plan, target, overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
