"""What identifies a shard, to notice that it changed between two runs."""

import hashlib
from typing import Any

from uniner.storage import explained, filesystem, read_part

_ENDS_BYTES = 1 << 16


def fingerprint(url: str) -> dict[str, Any]:
    """Return a shard's size and a digest of its two ends."""
    system, path = filesystem(url)
    with explained(url):
        size = system.size(path)
        ends = read_part(url, 0, min(size, _ENDS_BYTES)) + read_part(url, max(0, size - _ENDS_BYTES), size)
    return {"bytes": size, "ends": hashlib.sha256(ends).hexdigest()[:16]}
