"""``python -m swa_cli`` is ``swa``."""

from swa_cli.cli.main import swa

if __name__ == "__main__":
    swa()
