"""Read reviewed files back: check each against the round's passages, and each span against the text.

A review with a span that does not fit its text gets the outcome `bad_span`: without that span the passage
would be wrong gold data. A file's line says file, passage and span.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from uniner.errors import UserError
from uniner.gold.json_rows import json_value, read_rows
from uniner.gold.records import GoldEntity, checked_entity, most_faults
from uniner.labels import is_visible
from uniner.review.tasks import BAD_SPAN, REVIEWED, SKIPPED, Review, ReviewTask


class ReadSpan(NamedTuple):
    """A span as a file has it, in code points. text: None where the file does not repeat it."""

    start: int
    end: int
    text: str | None
    type: str


@dataclass(frozen=True, kw_only=True)
class ReadReview:
    """A review as a file has it, not yet checked."""

    passage_id: str
    text: str
    reviewer: str
    spans: tuple[ReadSpan, ...]
    at: str = ""
    outcome: str = REVIEWED
    note: str = ""


class ReviewFormat(NamedTuple):
    """A layout of reviewed files. recognise: by a row. read: the reviews of a row."""

    name: str
    recognise: Callable[[Any], bool]
    read: Callable[[Any], Iterable[ReadReview]]


@dataclass
class ReadBack:
    """The reviews of some files. errors: a line for each row or span that is wrong. rows: of all files.

    now: when a review was made that does not say it: it comes after all that were read before.
    """

    reviews: list[Review] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    rows: int = 0
    now: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def check(self) -> None:
        """Raise the first error where more than 1 % of the rows are wrong (of ten or more, more than one)."""
        if len(self.errors) > most_faults(self.rows):
            more = f" ({len(self.errors):,} of {self.rows:,} reviews are wrong)" if self.errors[1:] else ""
            raise UserError(f"{self.errors[0]}{more}")


def read_reviews(
    url: str, tasks: Mapping[str, ReviewTask], formats: Iterable[ReviewFormat], reviewer: str, into: ReadBack
) -> None:
    """Add the reviews of a file. tasks: the round's, by passage id. reviewer: where the file names none.

    Raises:
        UserError: where the file cannot be read, or no row has a known layout.
    """
    formats, before = list(formats), into.rows
    for row in read_rows(url):
        where, value = f"{url}, {row.place}", json_value(row.data)
        known = next((each for each in formats if each.recognise(value)), None)
        if known is None:
            names = ", ".join(each.name for each in formats)
            raise UserError(f"{where}: is none of {names}; name the file that the tool exported or saved")
        try:
            read = list(known.read(value))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            into.rows += 1
            into.errors.append(
                f"{where}: is not as {known.name} writes it ({error!r}); export the file again"
            )
            continue
        for review in read:
            into.rows += 1
            checked, errors = _checked(where, review, tasks.get(review.passage_id), reviewer, into.now)
            into.errors += errors
            into.reviews += [checked] if checked else []
    if into.rows == before:
        raise UserError(f"{url}: has no review; correct some passages and export or save the file again")


def _checked(
    where: str, read: ReadReview, task: ReviewTask | None, reviewer: str, now: str
) -> tuple[Review | None, list[str]]:
    """Return a review whose spans all fit the passage's text, or one with the outcome bad_span."""
    where = f"{where}, passage {read.passage_id!r}"
    if task is None:
        return None, [f"{where}: is not in this round; name another one, such as --round 1"]
    if read.text != task.text:
        return None, [
            f"{where}: its text is not the one that was given out; correct spans and types, never the text"
        ]
    if not (read.reviewer or reviewer.strip()):
        return None, [f"{where}: does not say who reviewed it; name the person, such as --reviewer Ann"]
    if read.at and _instant(read.at) is None:
        return None, [f"{where}: at = {read.at[:60]!r} is not a time, such as 2026-11-27T10:00:00Z"]
    if read.outcome not in (REVIEWED, SKIPPED):
        return None, [f"{where}: the outcome {read.outcome!r} must be {REVIEWED!r} or {SKIPPED!r}"]
    entities, errors = dict[tuple[int, int, str], GoldEntity](), list[str]()
    for span in read.spans:
        try:
            name = span.type.strip()
            if not is_visible(name) or len(name.splitlines()) > 1:
                raise UserError(f'{where}: the type {name[:60]!r} must be a line of text, such as "person"')
            entity = checked_entity(where, task.text, span.start, span.end, span.text, name)
            entities[entity.start, entity.end, entity.type] = entity
        except UserError as error:
            errors.append(str(error))
    review = Review(
        passage_id=read.passage_id,
        reviewer=read.reviewer or reviewer.strip(),
        at=read.at or now,
        note=read.note,
        outcome=BAD_SPAN if errors else read.outcome,
        entities=()
        if errors or read.outcome != REVIEWED
        else tuple(entities[key] for key in sorted(entities)),
    )
    return review, errors[:1]


def latest(reviews: Iterable[Review]) -> list[Review]:
    """Keep each reviewer's last review of a passage, by when it was made, then by the order given.

    One with a span that does not fit takes no other's place.
    """
    kept: dict[tuple[str, str], Review] = {}
    for review in reviews:
        key = (review.passage_id, review.reviewer)
        if key not in kept or _rank(kept[key]) <= _rank(review):
            kept[key] = review
    return [kept[key] for key in sorted(kept)]


def _rank(review: Review) -> tuple[bool, float]:
    return review.outcome != BAD_SPAN, _instant(review.at) or 0.0


def _instant(at: str) -> float | None:
    """Return a time as seconds; None where it is none. Without a zone it is of UTC."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def given_text(value: Any) -> str:
    """Return a text that a file may leave out or have as null, without blanks around it."""
    return "" if value is None else str(value).strip()


def gold_lines_format() -> ReviewFormat:
    """Return the layout of our own gold files: a row is a passage that has been looked at."""
    return ReviewFormat("uniner's gold JSON lines", _is_gold_row, _read_gold_row)


def _is_gold_row(value: Any) -> bool:
    return isinstance(value, dict) and {"id", "text", "entities"} <= value.keys()


def _read_gold_row(value: dict[str, Any]) -> Iterator[ReadReview]:
    yield ReadReview(
        passage_id=str(value["id"]),
        text=value["text"],
        reviewer=given_text(value.get("reviewer")),
        at=given_text(value.get("at")),
        outcome=str(value.get("outcome", REVIEWED)),
        note=given_text(value.get("note")),
        spans=read_spans(value["entities"]),
    )


def read_spans(entities: Any) -> tuple[ReadSpan, ...]:
    """Return the spans of a list.

    Raises:
        KeyError, TypeError: it is no list, or a span is wrong.
    """
    if not isinstance(entities, list):
        raise TypeError(f"entities must be a list, not {entities!r}")
    return tuple(map(read_span, entities))


def read_span(entity: Mapping[str, Any]) -> ReadSpan:
    """Return a span of {"start", "end", "text", "type"}; text may be missing.

    Raises:
        KeyError, TypeError: where something else is missing or has another type.
    """
    start, end, text, name = entity["start"], entity["end"], entity.get("text"), entity["type"]
    right = all(type(place) is int for place in (start, end)) and isinstance(name, str)
    if not (right and isinstance(text, str | None)):
        raise TypeError(f"{dict(entity)} is no span: start and end are whole numbers, text and type are text")
    return ReadSpan(start, end, text, name)
