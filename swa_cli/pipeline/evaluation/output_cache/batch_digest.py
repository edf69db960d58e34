"""Digest of all that a batch holds: equal only for equal contents."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from typing import Any, cast, final

import numpy as np
import torch

_BYTES = 16
_PLAIN = (str, bytes, int, float, complex, type(None))


def digest_of(value: object) -> str | None:
    """BLAKE2b of all that is in ``value``, nested as it may be; None where it cannot be seen to the ground of.

    Tensors and arrays count by dtype, shape and values, wherever they are. What is neither these nor a sequence, a
    mapping, a text or a number counts as pickle has it, and so perhaps as another at the next run, but never as the
    same as something else.
    """
    hashed = hashlib.blake2b(digest_size=_BYTES)
    try:
        _update(hashed, value)
    except Exception:  # noqa: BLE001  # pickling an object of the user's may raise anything
        return None
    return hashed.hexdigest()


def _update(hashed: Any, value: object) -> None:
    """Each part says where it ends."""
    if isinstance(value, torch.Tensor):
        _update(hashed, vars(value))  # what a subclass adds
        _update_tensor(hashed, value.detach())
    elif isinstance(value, np.ndarray):
        _update_array(hashed, cast("np.ndarray[Any, Any]", value))
    elif isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value)
        hashed.update(b"mapping %d;" % len(entries))
        for name, entry in entries.items():
            _update(hashed, name)
            _update(hashed, entry)
    elif isinstance(value, (list, tuple)):
        hashed.update(b"sequence %d;" % len(cast("list[object]", value)))
        for entry in cast("list[object]", value):
            _update(hashed, entry)
    elif type(value) in _PLAIN or type(value) is bool:
        _update_bytes(hashed, repr(value).encode(errors="surrogatepass"))
    else:
        _update_bytes(hashed, _pickled(value))


def _update_bytes(hashed: Any, value: bytes) -> None:
    hashed.update(b"%d bytes;" % len(value))
    hashed.update(value)


def _update_tensor(hashed: Any, value: torch.Tensor) -> None:
    if value.layout != torch.strided:
        sparse = value.to_sparse_coo().coalesce()
        hashed.update(f"sparse {list(value.shape)};".encode())
        _update_tensor(hashed, sparse.indices())
        _update_tensor(hashed, sparse.values())
        return
    dense = value.cpu().contiguous()
    hashed.update(f"tensor {dense.dtype} {list(dense.shape)};".encode())
    hashed.update(dense.reshape(-1).view(torch.uint8).numpy().data if dense.numel() else b"")


def _update_array(hashed: Any, value: "np.ndarray[Any, Any]") -> None:
    if value.dtype.hasobject:
        hashed.update(f"objects {value.dtype} {list(value.shape)};".encode())
        _update(hashed, value.tolist())
        return
    hashed.update(f"array {value.dtype} {list(value.shape)};".encode())
    hashed.update(value.tobytes())


def _pickled(value: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


@final
class _Pickler(pickle.Pickler):
    """With a digest in the place of each tensor, whose own pickle has addresses in it."""

    def persistent_id(self, obj: object) -> bytes | None:
        if not isinstance(obj, (torch.Tensor, np.ndarray)):
            return None
        hashed = hashlib.blake2b(digest_size=_BYTES)
        _update(hashed, cast("object", obj))
        return hashed.digest()
