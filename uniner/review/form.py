"""The review form: one HTML file that works from disk without network, and the JSON file that it saves."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from uniner.review.layouts import (
    ReadReview,
    Unreadable,
    given_text,
    read_each,
    read_reviewer,
    read_spans,
    read_text,
    read_time,
)
from uniner.review.tasks import ReviewTask

FORM = "uniner-review"
"""Marks the form's saved files."""
_PLACE = "__REVIEW_DATA__"
_REVIEWS = '[{"id": "doc-1-0", "text": "Ann left.", "outcome": "ok", "entities": []}]'


def review_form(title: str, types: Sequence[str], tasks: Sequence[ReviewTask]) -> str:
    """Return the page. title: names the round; the browser keeps unsaved work under it."""
    page = resources.files("uniner.review").joinpath("form.html").read_text(encoding="utf-8")
    data = {
        "format": FORM,
        "title": title,
        "types": list(types),
        "tasks": [
            {
                "id": task.passage_id,
                "text": task.text,
                "source": task.source,
                "entities": [
                    {"start": entity.start, "end": entity.end, "type": entity.type, "score": entity.score}
                    for entity in task.entities
                ],
            }
            for task in tasks
        ],
    }
    # In a script element only "<" can end it; ASCII leaves no line separators and no lone surrogates.
    return page.replace(_PLACE, json.dumps(data).replace("<", "\\u003c"))


def is_saved_form(value: Any) -> bool:
    """Tell whether a file is what the form saves."""
    return isinstance(value, dict) and value.get("format") == FORM


def read_saved_form(value: Mapping[str, Any]) -> Iterator[ReadReview | Unreadable]:
    """Yield the reviews of a saved form.

    Raises:
        UserError: where it has no list of reviews.
    """

    def read(review: Mapping[str, Any]) -> ReadReview:
        return ReadReview(
            passage_id=read_text(review, "id", '"doc-1-0"'),
            text=read_text(review, "text", '"Ann left."'),
            reviewer=read_reviewer(value),
            at=read_time(review, "at"),
            outcome=read_text(review, "outcome", '"ok"'),
            note=given_text(review, "note", '"not sure"'),
            spans=read_spans(review),
        )

    return read_each(value, "reviews", _REVIEWS, read)
