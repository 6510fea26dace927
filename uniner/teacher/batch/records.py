"""The run's records of its batches, each written before the batch costs anything."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from uniner.errors import UserError
from uniner.storage.folder import Folder
from uniner.teacher.completion import Rejection

# A request that the server failed to answer this often has the outcome failed.
_MAX_ATTEMPTS = 3
_NAME = re.compile(r"\d{5,}(-[0-9a-f]{12})?\.json")
# A record's `ended` where the server does not know the batch: it was never created.
NEVER_CREATED = "never created"
_CURE = "put the file back, or delete it to ask and pay for the batch's requests again"


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """A batch on storage.

    suffix: makes the record's name unique, so that no driver overwrites another's record; empty in records of
    earlier versions. batch: the server's id, None until its creation is confirmed. ended: its last status,
    once all its replies are saved. usd: what it cost then, with requests that may have been billed though
    they brought no reply. refused: outcome and the server's words by request key. broken: the server's errors
    by key. forgotten: such errors that count no more. form: the form in which its requests were sent, as the
    fields of `RequestForm`; None in records of earlier versions.
    """

    number: int
    chunks: list[str]
    requests: int
    usd_at_most: float
    file: str
    suffix: str = ""
    batch: str | None = None
    ended: str | None = None
    usd: float = 0.0
    refused: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    forgotten: dict[str, str] = field(default_factory=dict)
    form: dict[str, Any] | None = None

    @property
    def spent_usd(self) -> float:
        """Return what the batch cost, at most where it is in progress."""
        return self.usd if self.ended else self.usd_at_most

    @property
    def name(self) -> str:
        """Return the record's file name."""
        return f"{self.number:05d}{'-' if self.suffix else ''}{self.suffix}.json"


class BatchRecords:
    """The records of a stage's batches. Its methods block on storage."""

    def __init__(self, stage: Folder):
        self._folder = stage / "batches"

    def read(self) -> list[BatchRecord]:
        """Return the records by number."""
        names = filter(_NAME.fullmatch, self._folder.sizes())
        return sorted(map(self._read, names), key=lambda record: (record.number, record.suffix))

    def _read(self, name: str) -> BatchRecord:
        content = self._folder.read_json(name)
        if isinstance(content, dict) and "sha256" in content:  # an earlier version's has no digest
            content = self._folder.read_sealed_json(name, _CURE)
        try:
            return BatchRecord(**content)
        except TypeError as error:
            raise UserError(
                f"{self._folder.path(name)}: is damaged, or of another version: {error}; {_CURE}"
            ) from None

    def write(self, record: BatchRecord) -> None:
        """Write a record, whole or not at all."""
        self._folder.write_sealed_json(record.name, asdict(record))

    def forget_errors(self) -> None:
        """Forget the server's errors, so that their requests are asked again."""
        for record in self.read():
            if record.broken:
                self.write(replace(record, broken={}, forgotten=record.forgotten | record.broken))

    def in_progress(self) -> list[BatchRecord]:
        """Return the records of batches whose replies are not saved yet."""
        return [record for record in self.read() if record.ended is None]

    def address(self, record: BatchRecord) -> str:
        """Return a record's address, for messages to the user."""
        return self._folder.path(record.name)

    def require_none_in_progress(self) -> None:
        """Refuse to ask online while batches are in progress: their requests would be paid for twice.

        Raises:
            UserError: naming a batch.
        """
        for record in self.in_progress():
            batch = f"batch {record.batch} is" if record.batch else "a batch may be"
            raise UserError(
                f"{self.address(record)}: {batch} in progress and paid for; set teacher.kind=batch to "
                "fetch its replies"
            )


def rejections_in(records: Iterable[BatchRecord]) -> dict[str, Rejection]:
    """Return the requests, by key, that batches left without a reply: refused, or `_MAX_ATTEMPTS` errors."""
    rejections: dict[str, Rejection] = {}
    attempts: Counter[str] = Counter()
    for record in records:
        for key, (outcome, reason) in record.refused.items():
            rejections[key] = Rejection(outcome=outcome, reason=reason, attempts=1)
        attempts.update(record.broken.keys())
        for key, reason in record.broken.items():
            if attempts[key] >= _MAX_ATTEMPTS:
                rejections[key] = Rejection(outcome="failed", reason=reason, attempts=attempts[key])
    return rejections
