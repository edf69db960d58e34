"""Several commands of swa in the processes of one torchrun, for test_eval_ranks.py.

Argument: a JSON file with a list of pairs: a free port and a command line. What rank r saw of the i-th command is
written to ``<i>.<r>.json``.
"""

import json
import os
import sys
from pathlib import Path

from typer.testing import CliRunner

from swa_cli.cli.commands import swa


def main(commands: str) -> None:
    """Run them one after the other."""
    for number, (port, command) in enumerate(json.loads(Path(commands).read_text(encoding="utf-8"))):
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}  # where they meet but once
        result = CliRunner().invoke(swa, command)
        seen = {"code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}
        Path(f"{number}.{os.environ['RANK']}.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
