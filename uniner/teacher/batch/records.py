"""What a run knows of its batches: a record each, on storage before there is anything to pay."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from uniner.errors import UserError
from uniner.storage.folder import Folder
from uniner.teacher.completion import Rejection

# How often the server may fail to answer a request before its outcome is failed.
_TRIES = 3
_NAME = re.compile(r"\d{5}\.json")
# A record's `ended` where the server does not know the batch: it was never created.
NEVER_CREATED = "never created"


@dataclass(frozen=True)
class Record:
    """A batch as it stands on storage. `batch` is None until it is known to be created, `ended` its last
    status once all that it brought is kept; refused: outcome and the server's words by key; broken: words."""

    number: int
    chunks: list[str]
    requests: int
    usd_at_most: float
    file: str
    batch: str | None = None
    ended: str | None = None
    refused: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


class Records:
    """The records of a stage's batches. Its calls block on storage."""

    def __init__(self, stage: Folder):
        self._folder = stage / "batches"

    def read(self) -> list[Record]:
        """Return the records by number."""
        names = sorted(filter(_NAME.fullmatch, self._folder.sizes()))
        return [Record(**self._folder.read_json(name)) for name in names]

    def write(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        self._folder.write_json(self._name(record), asdict(record))

    def address(self, record: Record) -> str:
        """Return a record's address, to name it to the user."""
        return self._folder.path(self._name(record))

    def require_none_under_way(self) -> None:
        """Refuse to ask online what is under way in batches.

        Raises:
            UserError: naming a batch.
        """
        for record in self.read():
            if record.ended is None:
                told = f"batch {record.batch} is under way" if record.batch else "a batch may be under way"
                raise UserError(
                    f"{self.address(record)}: {told} and paid for; go on with annotate.batch=true"
                )

    @staticmethod
    def _name(record: Record) -> str:
        return f"{record.number:05d}.json"


def rejections(records: Iterable[Record]) -> dict[str, Rejection]:
    """Return what batches found to have no reply, by key: refused, or broken `_TRIES` times."""
    found: dict[str, Rejection] = {}
    tries: Counter[str] = Counter()
    for record in records:
        for key, (outcome, said) in record.refused.items():
            found[key] = Rejection(outcome, said, 1)
        tries.update(record.broken.keys())
        for key, said in record.broken.items():
            if tries[key] >= _TRIES:
                found[key] = Rejection("failed", said, tries[key])
    return found
