"""What is remembered of chunks in whose hands an actor died, so that one poisonous row cannot stop a run.

A row that makes the engine die takes its actor with it; Ray starts another, gives it the same chunk, and so
on for ever. So before a chunk is worked on, a small record of that is written beside the chunks, and removed
when it stands: a record that is found is a try that nobody lived to finish. It decides how the chunk is tried
next. After the first death: by itself, with no other chunk in hand, so that of two that were in hand together
the innocent one clears itself. After so many deaths as the stage allows: row by row, each recorded before; a
row with which alone an actor died twice is poison and set aside, and the others go on together.

Tries that the driver did not survive either say nothing of the chunk and are not counted.
"""

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from uniner.storage.stage_folder import Folder

_NAME = re.compile(r"try-.+\.json")
_ROW_DEATHS = 2
"""Deaths with one row alone in hand until it is poison: one may be the machine's."""
_ALL_POISON = 3
"""Rows set aside, and none alone lived through, until it is the engine that is at fault."""
POISON = f"poison: its actor died {_ROW_DEATHS} times while nothing else was in hand"


@dataclass(frozen=True)
class Tries:
    """What befell a chunk so far.

    driver: whose try is under way. deaths: tries that ended with the actor, since a row was last set aside.
    row: the one that is tried alone. suspects: deaths a row, of those tried alone. poison: rows set aside.
    survived: whether a row that was tried alone was lived through.
    """

    driver: str = ""
    deaths: int = 0
    row: int | None = None
    suspects: dict[str, int] = field(default_factory=dict)
    poison: tuple[int, ...] = ()
    survived: bool = False

    @property
    def blames_the_rows(self) -> bool:
        """Tell whether it can be the rows: not where the first few of a chunk all kill, and none does not."""
        return self.survived or len(self.poison) < _ALL_POISON

    def died(self, driver: str) -> "Tries":
        """Count the try that this record is of; it is found by one of the same driver or a later one."""
        if self.driver != driver:
            return replace(self, driver=driver, row=None)
        if self.row is None:
            return replace(self, deaths=self.deaths + 1)
        name = str(self.row)
        suspects = self.suspects | {name: self.suspects.get(name, 0) + 1}
        if suspects[name] < _ROW_DEATHS:
            return replace(self, row=None, suspects=suspects)
        del suspects[name]
        # The rest may be innocent: once more by itself, all together.
        return replace(self, deaths=1, row=None, suspects=suspects, poison=(*self.poison, self.row))

    def order(self, rows: int) -> list[int]:
        """Return the rows to try alone, of so many: all but the poison, those under suspicion first."""
        left = [row for row in range(rows) if row not in self.poison]
        return sorted(left, key=lambda row: str(row) not in self.suspects)


class Record:
    """A chunk's record in a stage's folder."""

    def __init__(self, folder: Folder, key: str):
        self._folder, self._name = folder, f"try-{key}.json"

    def read(self, driver: str) -> Tries | None:
        """Return what befell the chunk before a driver's actor tries it; None: nothing."""
        standing = self._folder.read_json(self._name)
        return None if standing is None else _of(standing).died(driver)

    def write(self, tries: Tries) -> None:
        """Record how a chunk is tried, before it is: who finds this knows that nobody lived to the end."""
        self._folder.write_json(self._name, asdict(tries))

    def end(self) -> None:
        """Forget a chunk that stands."""
        self._folder.remove([self._name])


def forget_tries(folder: Folder) -> None:
    """Remove the records of a stage whose chunks all stand: an actor may have died between the two."""
    folder.remove([name for name in folder.sizes() if _NAME.fullmatch(name)])


def _of(standing: dict[str, Any]) -> Tries:
    return Tries(**{**standing, "poison": tuple(standing["poison"])})
