"""Values of options that name parts of the program, light enough to import for ``--help``."""

from typing import Literal

Combine = Literal["mean", "median"]
"""Ways to combine checkpoints: each is a module of `swa_cli.averaging.combiners`."""
