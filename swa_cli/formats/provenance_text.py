"""The record of an output as text, written and read."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NoReturn

from pydantic import ValidationError

from swa_cli.errors import CheckpointError
from swa_cli.formats.provenance import Provenance

PROVENANCE = "swa_cli"
"""Key of the metadata under which swa-cli says what a file is."""
EXTRA_STATE = "extra_state"
"""Key of the metadata under which entries of a state_dict that are not tensors are kept, as JSON."""

_MOST_VALUES = 1_000_000
"""That a record may hold: as many as would be there for 10,000 sources of 20 shards each, or 900,000 statistics."""

_DIGEST = re.compile(r',"digest":"([0-9a-f]{64})"\}\Z')


def to_metadata(
    provenance: Provenance, *, tied: Mapping[str, str] | None = None, extra: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Safetensors metadata; ``format`` is what Hugging Face's loaders look for.

    Args:
        tied: from names that the file leaves out to those of the same tensors that it holds
            (``safetensors.torch.save_model`` writes them likewise).
        extra: entries of the state_dict that are not tensors.
    """
    metadata = {**(tied or {}), "format": "pt", PROVENANCE: as_text(provenance)}
    return metadata | ({EXTRA_STATE: json.dumps(extra)} if extra else {})


def as_text(provenance: Provenance) -> str:
    """Return the record as it is stored: JSON that ends with the SHA-256 of what stands before it."""
    text = provenance.model_dump_json()
    return f'{text[:-1]},"digest":"{_digest(text)}"}}'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_provenance(metadata: Mapping[str, str]) -> Provenance | None:
    """Return the record of a file that swa-cli wrote, or None for any other file.

    Raises:
        CheckpointError: what is stored as the record is none. The message has no file name; the caller adds it.
    """
    text = metadata.get(PROVENANCE)
    return None if text is None else _parsed(text)


@lru_cache(maxsize=2)
def _parsed(text: str) -> Provenance:
    values = sum(text.count(mark) for mark in ",[{")
    if values > _MOST_VALUES:
        _refuse(f"it holds {values:,} values, expected at most {_MOST_VALUES:,}")
    digest = _DIGEST.search(text)
    text = text[: digest.start()] + "}" if digest else text
    if digest and digest[1] != _digest(text):
        _refuse("its checksum is not that of its contents")
    try:
        record = Provenance.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        _refuse(": ".join([".".join(map(str, first["loc"])), reason]) if first["loc"] else reason)
    if not digest and (record.frames or '"digest"' in text):
        _refuse("it has no checksum at its end")
    return record


def _refuse(reason: str) -> NoReturn:
    msg = (
        f"the record that swa-cli keeps in the file cannot be read ({reason}): it is damaged, or of another version. "
        "Average anew, or save the weights again without it."
    )
    raise CheckpointError(msg)
