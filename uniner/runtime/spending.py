"""What a stage has spent, in a file beside its chunks, so that a later driver knows it. Does not import Ray.

Before the meter grants requests it writes how much the stage may have spent once they are answered. A driver
that dies leaves that amount behind, and it counts as spent: the requests in flight may have been billed. A
driver that ends or is stopped leaves the exact sum.
"""

import math
from typing import Any

from uniner.errors import UserError
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder

SPENDING = "spending.json"


class SpendingFile:
    """`spending.json` in a stage's folder."""

    def __init__(self, folder: Folder):
        self._folder = folder

    def read(self) -> float:
        """Return the USD that count as spent; 0 where nothing was.

        Raises:
            UserError: where the file is broken.
        """
        address = self._folder.path(SPENDING)
        with explained(self._folder.url):
            try:
                usd = _usd(self._folder.read_json(SPENDING))
            except ValueError:
                usd = None
        if usd is None:
            raise UserError(
                f"{address}: is broken; it holds what the stage has spent: write it again, such as "
                '{"spent_usd": 1.5, "exact": true}'
            )
        return usd

    def write(self, usd: float, *, exact: bool) -> None:
        """Write the USD spent, or at most spent where they are not exact."""
        with explained(self._folder.url):
            self._folder.write_json(SPENDING, {"spent_usd": usd, "exact": exact})


def _usd(content: Any) -> float | None:
    if content is None:
        return 0.0
    usd = content.get("spent_usd") if isinstance(content, dict) else None
    if not isinstance(usd, int | float) or isinstance(usd, bool):
        return None
    return float(usd) if 0 <= usd < math.inf else None
