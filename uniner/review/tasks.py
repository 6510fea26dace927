"""What a round of review holds: the passages given out, and the reviews that come back, as JSON lines.

Offsets count characters (Unicode code points) of the passage, end exclusive.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from uniner.errors import UserError
from uniner.gold.records import GoldEntity

RANDOM, RULES, DISAGREE, UNSURE = "random", "rules", "disagree", "unsure"
PARTS = (RANDOM, RULES, DISAGREE, UNSURE)
"""Why a passage is in a round. A passage with several reasons counts for the first of them."""
REVIEWED, SKIPPED, BAD_SPAN = "ok", "skipped", "bad_span"

_Row = TypeVar("_Row")


@dataclass(frozen=True, kw_only=True)
class TaskEntity:
    """An entity that the student found: `passage[start:end] == text`."""

    start: int
    end: int
    text: str
    type: str
    score: float


@dataclass(frozen=True, kw_only=True)
class ReviewTask:
    """A passage given out for review.

    part: one of PARTS. type: for which of its types the passage was chosen; empty for a random one. priority:
    the larger, the more of a reason. own_start, own_end: the part of the text that no neighbouring passage
    shares; the figures count only entities whose middle is there, as tag does. known: an earlier round has a
    review of this passage, so that it is not given out again but counts in the random share.
    """

    passage_id: str
    doc_id: str
    source: str
    text: str
    entities: tuple[TaskEntity, ...]
    part: str
    type: str = ""
    priority: float = 0.0
    own_start: int = 0
    own_end: int = 0
    known: bool = False

    def owns(self, start: int, end: int) -> bool:
        """Tell whether the passage owns a span of it, as `passages.owns` does."""
        return self.own_start <= (start + end) // 2 < self.own_end


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a person says of a passage.

    outcome: ok; skipped; bad_span (a span does not fit the text, so that the passage becomes no gold data).
    at: when, as the tool wrote it (ISO 8601); empty where it does not say.
    """

    passage_id: str
    reviewer: str
    at: str = ""
    outcome: str = REVIEWED
    note: str = ""
    entities: tuple[GoldEntity, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReviewedPassage:
    """A passage with its reviewers' entities. tied: number of entities that exactly half of them have."""

    passage_id: str
    text: str
    source: str
    part: str
    entities: tuple[GoldEntity, ...]
    reviewers: tuple[str, ...]
    tied: int = 0

    def gold_row(self) -> dict[str, Any]:
        """Return the row of a gold file, in our own format; the other fields say where it is from."""
        return {
            "id": self.passage_id,
            "text": self.text,
            "entities": [vars(entity) for entity in self.entities],
            "part": self.part,
            "source": self.source,
            "reviewers": list(self.reviewers),
        }


def json_lines(rows: Iterable[Any]) -> bytes:
    """Return records or objects as JSON lines."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def read_json_lines(data: bytes, record: type[_Row], url: str) -> list[_Row]:
    """Read records from JSON lines. url: the file, for the error.

    Raises:
        UserError: where a line is not such a record.
    """
    rows = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            rows.append(msgspec.json.decode(line, type=record))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{url}, line {number}: is damaged ({error}); restore the file, or delete the round's folder "
                "and run `uniner review export CONFIG` again"
            ) from None
    return rows
