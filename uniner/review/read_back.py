"""Read reviewed files back: check each against the round's passages, and each span against the text.

A review with a span that does not fit its text gets the outcome `bad_span`: without that span the passage
would be wrong gold data. A file's line says file, passage and span.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from uniner.errors import UserError
from uniner.gold.json_rows import json_value, read_rows
from uniner.gold.records import GoldEntity, checked_entity, most_faults
from uniner.labels import is_visible, nearest_type
from uniner.review.layouts import (
    ENTITY,
    ReadReview,
    Unreadable,
    given_text,
    read_reviewer,
    read_spans,
    read_text,
    read_time,
    visible_name,
)
from uniner.review.tasks import BAD_SPAN, REVIEWED, SKIPPED, Review, ReviewTask

_TYPES_SHOWN = 5
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ]|$)")


class ReviewFormat(NamedTuple):
    """A layout of reviewed files. recognise: by a row. read: the reviews of a row."""

    name: str
    recognise: Callable[[Any], bool]
    read: Callable[[Any], Iterable[ReadReview | Unreadable]]


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
    formats, before, any_known = list(formats), into.rows, False
    for row in read_rows(url):
        where, value = f"{url}, {row.place}", json_value(row.data)
        known = next((each for each in formats if each.recognise(value)), None)
        any_known = any_known or known is not None
        for review in _reviews_of(value, known, formats):
            into.rows += 1
            if isinstance(review, Unreadable):
                into.errors.append(f"{where}{review.place and ', '}{review.place}: {review.error}")
                continue
            checked, errors = _checked(where, review, tasks.get(review.passage_id), reviewer, into.now)
            into.errors += errors
            into.reviews += [checked] if checked else []
    if into.rows == before:
        raise UserError(f"{url}: has no review; correct some passages and export or save the file again")
    if not any_known:
        raise UserError(into.errors[-(into.rows - before)])


def _reviews_of(
    value: Any, known: ReviewFormat | None, formats: Sequence[ReviewFormat]
) -> Iterator[ReadReview | Unreadable]:
    """Yield the reviews of a row, each that cannot be read with an error in words."""
    if known is None:
        names = ", ".join(each.name for each in formats)
        fault = "is not JSON, and so" if isinstance(value, str) else "is"
        yield Unreadable(
            "",
            f"{fault} none of {names}; name the file that the tool exported or saved, or write lines such as "
            f'{{"id": "doc-1-0", "text": "Ann left.", "entities": [{ENTITY}]}}',
        )
        return

    def unreadable(place: str, error: object) -> Unreadable:
        return Unreadable(place, f"is not as {known.name} writes it: {error}; export the file again")

    try:
        for review in known.read(value):
            yield unreadable(*review) if isinstance(review, Unreadable) else review
    except UserError as error:
        yield unreadable("", error)


def _checked(
    where: str, read: ReadReview, task: ReviewTask | None, reviewer: str, now: str
) -> tuple[Review | None, list[str]]:
    """Return a review whose spans all fit the passage's text, or one with the outcome bad_span."""
    where = f"{where}, passage {read.passage_id!r:.80}"
    if task is None:
        return None, [f"{where}: is not in this round; name another one, such as --round 1"]
    if read.text != task.text:
        return None, [
            f"{where}: its text is not the one that was given out; correct spans and types, never the text"
        ]
    who = read.reviewer or visible_name(reviewer)
    if not who:
        return None, [f"{where}: does not say who reviewed it; name the person, such as --reviewer Ann"]
    if read.at and _instant(read.at) is None:
        return None, [f"{where}: at = {read.at[:60]!r} is not a time, such as 2026-11-27T10:00:00Z"]
    if read.outcome not in (REVIEWED, SKIPPED):
        return None, [f"{where}: the outcome {read.outcome!r:.60} must be {REVIEWED!r} or {SKIPPED!r}"]
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
        reviewer=who,
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

    One with a span that does not fit takes no other's place. "Ann" and "ann" are one reviewer, with the name
    that comes first; so is a name with its accents written in another way.
    """
    kept: dict[tuple[str, str], Review] = {}
    names: dict[str, str] = {}
    for review in reviews:
        person = _person(review)
        review = replace(review, reviewer=names.setdefault(person, review.reviewer))
        key = (review.passage_id, person)
        if key not in kept or _rank(kept[key]) <= _rank(review):
            kept[key] = review
    return [kept[key] for key in sorted(kept)]


def passed_over(reviews: Iterable[Review], kept: Iterable[Review]) -> int:
    """Count the reviews that say something else than the same reviewer's one that is kept.

    Those with a span that does not fit are not counted: they are errors.
    """
    said = {(review.passage_id, _person(review)): _said(review) for review in kept}
    return sum(
        review.outcome != BAD_SPAN and _said(review) != said[review.passage_id, _person(review)]
        for review in reviews
    )


def unknown_type_lines(reviews: Iterable[Review], types: Sequence[str]) -> list[str]:
    """Return a line for each type that nobody was asked for, the most frequent first, five at most.

    types: those that were given out to choose from.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for review in reviews:
        for entity in review.entities:
            if entity.type not in types:
                found.setdefault(entity.type, []).append((entity.text, review.passage_id))
    lines = []
    for name, places in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        text, passage_id = places[0]
        near = nearest_type(name, types)
        lines.append(
            f"the type {name!r:.60} was not given out and is taken: {len(places):,} entities, such as "
            f"{text!r:.60} in passage {passage_id!r}; if it is a slip{f' (for {near!r})' if near else ''}, "
            "correct the file and import it again"
        )
    more = len(lines) - _TYPES_SHOWN
    return lines[:_TYPES_SHOWN] + ([f"and {more:,} more types that were not given out"] if more > 0 else [])


def _person(review: Review) -> str:
    # Letters as one code point or with their marks apart, as different keyboards write them.
    return unicodedata.normalize("NFKC", " ".join(review.reviewer.split()).casefold())


def _said(review: Review) -> tuple[str, str, tuple[GoldEntity, ...]]:
    return review.outcome, review.note, review.entities


def _rank(review: Review) -> tuple[bool, float]:
    return review.outcome != BAD_SPAN, _instant(review.at) or 0.0


def _instant(at: str) -> float | None:
    """Return a time as seconds; None where it is none. Without a zone it is of UTC."""
    if not _DATE.match(at):  # fromisoformat takes plain numbers too
        return None
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def gold_lines_format() -> ReviewFormat:
    """Return the layout of our own gold files: a row is a passage that has been looked at."""
    return ReviewFormat("uniner's gold JSON lines", _is_gold_row, _read_gold_row)


def _is_gold_row(value: Any) -> bool:
    return isinstance(value, dict) and {"id", "text", "entities"} <= value.keys()


def _read_gold_row(value: Mapping[str, Any]) -> Iterator[ReadReview]:
    yield ReadReview(
        passage_id=read_text(value, "id", '"doc-1-0"'),
        text=read_text(value, "text", '"Ann left."'),
        reviewer=read_reviewer(value),
        at=read_time(value, "at"),
        outcome=given_text(value, "outcome", f'"{REVIEWED}"') or REVIEWED,
        note=given_text(value, "note", '"not sure"'),
        spans=read_spans(value),
    )
