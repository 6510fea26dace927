"""What a stage has spent, in a file beside its chunks, so that a later driver knows it. Does not import Ray.

Before the meter grants requests it writes how much the stage may have spent once they are answered. A driver
that dies leaves that amount behind, and it counts as spent: the requests in flight may have been billed. A
driver that ends or is stopped leaves the exact sum.
"""

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
        cure = "delete it; then only the cost of the replies in the reply cache counts as spent"
        with explained(self._folder.url):
            content = self._folder.read_sealed_json(SPENDING, cure)
        return 0.0 if content is None else float(content["spent_usd"])

    def write(self, usd: float, *, exact: bool) -> None:
        """Write the USD spent, or at most spent where they are not exact."""
        with explained(self._folder.url):
            self._folder.write_sealed_json(SPENDING, {"spent_usd": usd, "exact": exact})
