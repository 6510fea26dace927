"""JSON files that notice damage: beside its own values, an object has the digest of them all."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_DIGEST = "sha256"


class BrokenFileError(ValueError):
    """A file that has other bytes than were written. The message says how that is noticed."""


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object, indented, with the digest of its values."""
    content = json.loads(json.dumps(value))  # as it will be read: keys are strings, tuples are lists
    return json.dumps({**content, _DIGEST: _digest(content)}, indent=1, ensure_ascii=False).encode()


def open_sealed_json(data: bytes) -> dict[str, Any]:
    """Return the values of a sealed JSON object.

    Raises:
        BrokenFileError: where they are not those that were sealed.
    """
    try:
        content = json.loads(data)
    except ValueError:
        raise BrokenFileError("it is not JSON") from None
    if not isinstance(content, dict) or _DIGEST not in content:
        raise BrokenFileError("it has no digest")
    if content.pop(_DIGEST) != _digest(content):
        raise BrokenFileError("its digest is of other values")
    return content


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
