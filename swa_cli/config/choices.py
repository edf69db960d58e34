"""Values of options that name parts of the program, light enough to import for ``--help``."""

from typing import Literal

Integers = Literal["agree", "last", "first", "mean-round"]
"""What becomes of integers and bools, which a mean of floating-point numbers does not cover."""

Combine = Literal["mean", "median"]
"""Ways to combine checkpoints: each is a module of `swa_cli.averaging.combiners`."""
