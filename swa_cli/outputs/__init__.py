"""Writing outputs: their files, the layout of their bytes, and the structure that a trainer loads."""

from swa_cli.formats import Contents, Layout, OutputFile
from swa_cli.outputs.destination import Target, check_not_read, check_target, fits, plan_layout
from swa_cli.outputs.template import Like, stored_apart
from swa_cli.outputs.writer import Writer, fill_folder, write_output

__all__ = [
    "Contents",
    "Layout",
    "Like",
    "OutputFile",
    "Target",
    "Writer",
    "check_not_read",
    "check_target",
    "fill_folder",
    "fits",
    "plan_layout",
    "stored_apart",
    "write_output",
]
