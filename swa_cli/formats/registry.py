"""The layouts of checkpoints that are read, one line each."""

from swa_cli.formats.dcp_safetensors import DcpSafetensorsReader
from swa_cli.formats.hf_sharded import HfShardedReader
from swa_cli.formats.protocol import CheckpointReader
from swa_cli.formats.safetensors.reader import SafetensorsReader
from swa_cli.formats.torch.reader import TorchReader

READERS: tuple[CheckpointReader, ...] = (
    HfShardedReader(),
    DcpSafetensorsReader(),
    SafetensorsReader(),
    TorchReader(),
)
"""The first that claims a file or directory opens it."""

SUFFIXES = tuple(dict.fromkeys(suffix for reader in READERS for suffix in reader.suffixes))
"""The endings of files that may be checkpoints."""
