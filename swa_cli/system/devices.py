"""Which device a command runs on."""

import torch

from swa_cli.errors import DeviceError, UsageError, option


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device where torch sees one, else the CPU; also ``cpu``, ``cuda``, ``cuda:1``.

    Raises:
        UsageError: a name of another form.
        DeviceError: CUDA is asked for and torch does not see that device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"}:
        msg = f"unknown device {name!r}: expected auto, cpu, cuda or cuda:0, cuda:1, …"
        raise UsageError(msg)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            msg = (
                f"device {name} is not there: torch {torch.__version__} sees {count} CUDA device(s). "
                f"Use {option('device', 'cpu')}."
            )
            raise DeviceError(msg)
    return device
