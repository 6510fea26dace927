"""Tasks with predictions for Label Studio, its labelling interface, and reviews from its JSON export.

Label Studio counts code points, also in text with emoji, and \\r\\n as two of them. Its versions before 2021
counted UTF-16 units; a span that fits its own text only so is moved to code points.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any
from xml.sax.saxutils import quoteattr

from uniner.errors import UserError
from uniner.gold.records import same_words
from uniner.review.layouts import (
    ReadReview,
    ReadSpan,
    Unreadable,
    read_each,
    read_list,
    read_text,
    read_time,
    shown,
    visible_name,
)
from uniner.review.tasks import REVIEWED, SKIPPED, ReviewTask

_CONTROL, _OBJECT = "label", "text"
_MARK_NO_SPAN = {
    *("choices", "textarea", "rating", "number", "datetime", "taxonomy", "relation", "pairwise", "ranker")
}
"""Controls that say something of a region, or of the task, and mark none themselves."""
_REGION = '{"type": "labels", "value": {"start": 0, "end": 3, "text": "Ann", "labels": ["person"]}}'
_NUMBER = re.compile(r"\d{1,20}")  # Python turns no text of thousands of digits into a number
# Without pre-wrap, Label Studio trims blanks.
_STYLE = ".htx-text { white-space: pre-wrap; }"


def labelling_config(types: Iterable[str]) -> str:
    """Return the labelling interface in Label Studio's XML, with a label for each type."""
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in types)
    return (
        f"<View>\n  <Style>{_STYLE}</Style>\n"
        f'  <Labels name="{_CONTROL}" toName="{_OBJECT}" showInline="true">\n{labels}\n  </Labels>\n'
        f'  <Text name="{_OBJECT}" value="$text" granularity="symbol"/>\n</View>\n'
    )


def studio_tasks(tasks: Sequence[ReviewTask], model: str) -> bytes:
    """Return the tasks with the student's entities as predictions, as a JSON list. model: its name there."""
    rows = [
        {
            "data": {"text": task.text, "passage_id": task.passage_id, "source": task.source},
            "predictions": [
                {
                    "model_version": model,
                    "score": min((entity.score for entity in task.entities), default=1.0),
                    "result": [
                        {
                            "id": f"e{number}",
                            "from_name": _CONTROL,
                            "to_name": _OBJECT,
                            "type": "labels",
                            "score": entity.score,
                            "value": {
                                "start": entity.start,
                                "end": entity.end,
                                "text": entity.text,
                                "labels": [entity.type],
                            },
                        }
                        for number, entity in enumerate(task.entities)
                    ],
                }
            ],
        }
        for task in tasks
    ]
    return json.dumps(rows, indent=1).encode()


def is_export(row: object) -> bool:
    """Tell whether a row is a task of Label Studio's JSON export."""
    return isinstance(row, dict) and isinstance(row.get("data"), dict) and "annotations" in row


def read_export(row: Mapping[str, Any]) -> Iterator[ReadReview | Unreadable]:
    """Yield the reviews of a task: one per annotation, by who made it. Relations and choices are ignored.

    Raises:
        UserError: where the task has no passage, or no list of annotations.
    """
    passage_id = read_text(row["data"], "passage_id", '"doc-1-0"')
    text = read_text(row["data"], "text", '"Ann left."')

    def read(annotation: Mapping[str, Any]) -> ReadReview:
        cancelled = bool(annotation.get("was_cancelled"))
        return ReadReview(
            passage_id=passage_id,
            text=text,
            reviewer=_who(annotation.get("completed_by")),
            at=read_time(annotation, "updated_at", "created_at"),
            outcome=SKIPPED if cancelled else REVIEWED,
            spans=() if cancelled else tuple(_spans(text, read_list(annotation, "result", f"[{_REGION}]"))),
        )

    return read_each(row, "annotations", f'[{{"result": [{_REGION}]}}]', read, passage_id)


def _who(completed_by: Any) -> str:
    """Return the e-mail address of a user, or the number that Label Studio gave to the user.

    Empty where neither is there, or nobody could see it.
    """
    if isinstance(completed_by, dict):
        email = completed_by.get("email")
        if isinstance(email, str) and visible_name(email):
            return visible_name(email)
        completed_by = completed_by.get("id")
    if isinstance(completed_by, str) and not _NUMBER.fullmatch(completed_by.strip()):
        return visible_name(completed_by)
    if completed_by is None or (type(completed_by) is int or isinstance(completed_by, str)):
        return "" if completed_by is None else f"label-studio-{int(completed_by)}"
    raise UserError(f'completed_by must be a user, such as {{"id": 3}} or 3, not {shown(completed_by)}')


def _spans(text: str, results: Iterable[Any]) -> Iterator[ReadSpan]:
    for result in results:
        kind = result.get("type") if isinstance(result, dict) else None
        if not isinstance(kind, str):
            raise UserError(f"a region must be an object with a type, such as {_REGION}, not {shown(result)}")
        if kind in _MARK_NO_SPAN:
            continue
        if kind != "labels":  # what was marked with another control would be lost
            raise UserError(f"a region of type {kind!r:.60}; label with {_CONTROL!r} of the config")
        value = result.get("value")
        if not isinstance(value, dict):
            raise UserError(f"a region must have a value, such as {_REGION}, not {shown(result)}")
        start, end, marked, labels = (value.get(name) for name in ("start", "end", "text", "labels"))
        if type(start) is not int or type(end) is not int:
            raise UserError(
                f"start and end must be whole numbers, not {shown(start)} and {shown(end)}, such as {_REGION}"
            )
        if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
            raise UserError(f"labels must be a list of types, not {labels!r:.60}, such as {_REGION}")
        if isinstance(marked, str) and not same_words(text[start:end], marked):
            start, end = _from_utf16(text, start, end, marked)
        for name in labels:
            yield ReadSpan(start, end, marked if isinstance(marked, str) else None, name)


def _from_utf16(text: str, start: int, end: int, marked: str) -> tuple[int, int]:
    """Return a span of UTF-16 units in code points where that fits the marked text; otherwise as it is."""
    units = [0, *accumulate(1 + (ord(letter) > 0xFFFF) for letter in text)]
    place = {unit: number for number, unit in enumerate(units)}
    if start in place and end in place and same_words(text[place[start] : place[end]], marked):
        return place[start], place[end]
    return start, end
