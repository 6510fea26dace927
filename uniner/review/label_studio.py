"""Tasks with predictions for Label Studio, its labelling interface, and reviews from its JSON export.

Label Studio counts code points, also in text with emoji, and \\r\\n as two of them. Its versions before 2021
counted UTF-16 units; a span that fits its own text only so is moved to code points.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any
from xml.sax.saxutils import quoteattr

from uniner.gold.records import same_words
from uniner.review.read_back import ReadReview, ReadSpan
from uniner.review.tasks import REVIEWED, SKIPPED, ReviewTask

_CONTROL, _OBJECT = "label", "text"
_MARK_NO_SPAN = {"choices", "textarea", "rating", "number", "datetime", "taxonomy", "relation"}
"""Controls that say something of a region, or of the task, and mark none themselves."""
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


def read_export(row: Mapping[str, Any]) -> Iterator[ReadReview]:
    """Yield the reviews of a task: one per annotation, by who made it. Relations and choices are ignored.

    Raises:
        KeyError, TypeError, ValueError: where the task has another layout.
    """
    data = row["data"]
    for annotation in row["annotations"]:
        yield ReadReview(
            passage_id=str(data["passage_id"]),
            text=data["text"],
            reviewer=_who(annotation.get("completed_by")),
            at=str(annotation.get("updated_at") or annotation.get("created_at") or ""),
            outcome=SKIPPED if annotation.get("was_cancelled") else REVIEWED,
            spans=tuple(_spans(data["text"], annotation["result"])),
        )


def _who(completed_by: Any) -> str:
    """Return the e-mail address of a user, or the number that Label Studio gave to the user."""
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id") or "")
    return "" if completed_by is None else f"label-studio-{completed_by}"


def _spans(text: str, results: Iterable[Mapping[str, Any]]) -> Iterator[ReadSpan]:
    for result in results:
        value = result.get("value", {})
        if result.get("type") != "labels":
            if (
                "start" in value and result.get("type") not in _MARK_NO_SPAN
            ):  # a marked region of another control: what was marked would be lost
                raise TypeError(
                    f"a region of type {result.get('type')!r}; label with {_CONTROL!r} of the config"
                )
            continue  # a relation or a choice
        start, end, marked, labels = value["start"], value["end"], value.get("text"), value.get("labels")
        if type(start) is not int or type(end) is not int:
            raise TypeError(f"start and end must be whole numbers, not {start!r} and {end!r}")
        if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
            raise TypeError(f"labels must be a list of types, not {labels!r}")
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
