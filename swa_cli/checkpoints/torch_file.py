"""The zip container of ``torch.save``: the pickle is read by torch's weights-only unpickler, tensors stay on disk.

Tensors come back on the meta device; torch tags each storage with the offset of its bytes in the file
(``_checkpoint_offset``, https://docs.pytorch.org/docs/stable/notes/serialization.html), so that they can be read
piece by piece and whatever else the file holds (optimizer state) is never read.
"""

import argparse
import codecs
import pathlib
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from swa_cli.checkpoints.steps import counters_of
from swa_cli.checkpoints.stored import Checkpoint, StoredTensor, TensorSpec
from swa_cli.checkpoints.unwrap import find_state_dict, other_state_dicts, strip_wrappers
from swa_cli.errors import CheckpointError, listing

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"


def open_torch(path: Path, *, key: str | None = None) -> Checkpoint:
    """Read the pickle of a torch zip file without running it, and find its state_dict.

    Args:
        key: dotted key of the state_dict inside the file; by default the usual ones are looked for.

    Raises:
        CheckpointError: the file is truncated or damaged, its pickle needs code that is not known to be harmless
            (all such globals are listed), or it holds no state_dict or several.
    """
    contents = _load(path)
    try:
        where, state = find_state_dict(contents, key)
        named = {name: value for name, value in state.items() if isinstance(name, str)}
        tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
        return Checkpoint(
            path=path,
            tensors={name: _stored(name, tensor) for name, tensor in strip_wrappers(tensors).items()},
            counters=counters_of(cast("Mapping[Any, Any]", contents)),
            left_out=tuple(str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)),
            alternatives=other_state_dicts(contents, where.split(".", maxsplit=1)[0]) if where else (),
        )
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error


def _load(path: Path) -> object:
    try:
        with safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of torch's own storage classes while it rebuilds them
            contents = torch.load(path, map_location="meta", weights_only=True)
            if _offsets_are_known(contents):
                return contents
            with FakeTensorMode():  # older torch (2.8) records offsets in this mode only
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything at all
        raise CheckpointError(_explain(path, error)) from error


def _offsets_are_known(contents: object) -> bool:
    if isinstance(contents, torch.Tensor):
        return getattr(contents.untyped_storage(), "_checkpoint_offset", None) is not None
    if isinstance(contents, Mapping):
        return all(_offsets_are_known(value) for value in cast("Mapping[Any, Any]", contents).values())
    return True


def _stored(name: str, tensor: torch.Tensor) -> StoredTensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        msg = f"tensor {name} is sparse, quantized or a lazy conjugate; only dense tensors can be averaged."
        raise CheckpointError(msg)
    start = cast("int", getattr(tensor.untyped_storage(), "_checkpoint_offset"))  # noqa: B009
    return StoredTensor(
        spec=TensorSpec(shape=tuple(tensor.shape), dtype=tensor.dtype),
        offset=start + int(tensor.storage_offset()) * tensor.dtype.itemsize,
        stride=tuple(tensor.stride()),
    )


@cache
def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What real checkpoints carry beside tensors and cannot run anything: Namespaces, paths, numpy numbers.

    A path of another system's flavour becomes a pure path, which every system can build.
    """
    scalar = cast("Callable[..., Any]", np._core.multiarray.scalar)  # noqa: SLF001  # type: ignore[attr-defined]
    rebuild = cast("Callable[..., Any]", np._core.multiarray._reconstruct)  # noqa: SLF001  # type: ignore[attr-defined]
    names = "PosixPath", "WindowsPath", "Path", "PurePath", "PurePosixPath", "PureWindowsPath"
    paths = [
        (pathlib.PureWindowsPath if "Windows" in name else pathlib.PurePosixPath, f"{module}.{name}")
        for name in names
        for module in ("pathlib", "pathlib._local")  # where Python 3.13 keeps them
    ]
    dtypes = {type(np.dtype(kind)) for kind in (*np.typecodes["All"],)}
    arrays = [(function, f"{module}.{function.__name__}") for function in (scalar, rebuild) for module in _MULTIARRAY]
    return [argparse.Namespace, *paths, *dtypes, np.dtype, np.ndarray, *arrays, codecs.encode]


_MULTIARRAY = ("numpy._core.multiarray", "numpy.core.multiarray")


def _explain(path: Path, error: Exception) -> str:
    blocked = _blocked_globals(path)
    if blocked:
        return (
            f"{path}: refused, because its pickle asks for code that could do anything:\n{listing(blocked)}\n"
            "Nothing was run. Save the state_dict alone, torch.save(model.state_dict(), path), or as safetensors."
        )
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return (
        f"{path}: not a whole torch checkpoint ({reason}). It is truncated, damaged or of a kind that "
        "torch.load(weights_only=True) does not read; copy it or save it again."
    )


def _blocked_globals(path: Path) -> list[str]:
    try:
        with safe_globals(_harmless()):
            return sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001  # the file is too damaged to list anything
        return []
