"""The review form: one HTML file that works from disk without network, and the JSON file that it saves."""

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from uniner.review.read_back import ReadReview, given_text, read_spans
from uniner.review.tasks import ReviewTask

FORM = "uniner-review"
"""Marks the form's saved files."""
_PLACE = "__REVIEW_DATA__"


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


def read_saved_form(value: dict[str, Any]) -> Iterator[ReadReview]:
    """Yield the reviews of a saved form.

    Raises:
        KeyError, TypeError: where the file has another layout.
    """
    for review in value["reviews"]:
        yield ReadReview(
            passage_id=str(review["id"]),
            text=review["text"],
            reviewer=given_text(value.get("reviewer")),
            at=given_text(review.get("at")),
            outcome=str(review["outcome"]),
            note=given_text(review.get("note")),
            spans=read_spans(review["entities"]),
        )
