"""Log the crashes of actors on a chunk, so that one poisonous row cannot stop a run. Does not import Ray.

A row that crashes the engine takes its actor with it; Ray starts another and gives it the same chunk, for
ever. So an actor writes a small log beside the chunks before it works on a chunk, and removes it once the
chunk exists: a log that is found is a try that crashed. It decides the next try. After the first crash: the
chunk alone in the actor, so that of two chunks worked on together the innocent one clears itself. After as
many crashes as the stage allows: row by row, each logged before; a row that crashed twice alone is poison and
set aside, and the other rows go on together.

Tries that the driver did not survive either say nothing about the chunk and are not counted.
"""

import re
from dataclasses import asdict, dataclass, field, replace

from uniner.storage.folder import Folder

_NAME = re.compile(r"crashes-.+\.json")
_ROW_CRASHES = 2
"""Crashes on a row alone until it is poison: one may be the machine's."""
_ALL_POISON = 3
"""Rows set aside, with no row survived, until the engine itself is at fault."""
POISON = f"poison: its actor died {_ROW_CRASHES} times while it worked on nothing else"


@dataclass(frozen=True, kw_only=True)
class CrashHistory:
    """The crashes on a chunk.

    driver: whose try is under way. crashes: since a row was last set aside. row: the one tried alone.
    suspects: crashes by row, of rows tried alone. poison: rows set aside. survived: whether a row tried alone
    did not crash.
    """

    driver: str = ""
    crashes: int = 0
    row: int | None = None
    suspects: dict[str, int] = field(default_factory=dict)
    poison: tuple[int, ...] = ()
    survived: bool = False

    @property
    def blames_rows(self) -> bool:
        """Tell whether rows can be the cause: not if the first few all crash and none survives."""
        return self.survived or len(self.poison) < _ALL_POISON

    def after_crash(self, driver: str) -> "CrashHistory":
        """Count the try that this history is of, as found by an actor of the same driver or a later one."""
        if self.driver != driver:
            return replace(self, driver=driver, row=None)
        if self.row is None:
            return replace(self, crashes=self.crashes + 1)
        row = str(self.row)
        suspects = self.suspects | {row: self.suspects.get(row, 0) + 1}
        if suspects[row] < _ROW_CRASHES:
            return replace(self, row=None, suspects=suspects)
        del suspects[row]
        # The other rows may be innocent: once more all together, with no other chunk.
        return replace(self, crashes=1, row=None, suspects=suspects, poison=(*self.poison, self.row))

    def order(self, rows: int) -> list[int]:
        """Return the rows to try alone, of this many: all but the poison, suspects first."""
        left = [row for row in range(rows) if row not in self.poison]
        return sorted(left, key=lambda row: str(row) not in self.suspects)


class CrashLog:
    """A chunk's crash log in a stage's folder."""

    def __init__(self, folder: Folder, key: str):
        self._folder, self._name = folder, f"crashes-{key}.json"

    def read(self, driver: str) -> CrashHistory | None:
        """Return the chunk's crashes before a driver's actor tries it; None if there were none."""
        content = self._folder.read_sealed_json(self._name, "delete that file and run the same command again")
        if content is None:
            return None
        return CrashHistory(**{**content, "poison": tuple(content["poison"])}).after_crash(driver)

    def write(self, history: CrashHistory) -> None:
        """Log how the chunk is about to be tried."""
        self._folder.write_sealed_json(self._name, asdict(history))

    def remove(self) -> None:
        """Remove the log of a chunk that exists."""
        self._folder.remove([self._name])


def remove_crash_logs(folder: Folder) -> None:
    """Remove the logs left in a stage whose chunks all exist: an actor may die between chunk and removal."""
    folder.remove([name for name in folder.listing().names if _NAME.fullmatch(name)])
