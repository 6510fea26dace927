"""Label Studio's exports JSON and JSON-MIN. Offsets count characters, the end is exclusive.

    {"id": 1, "data": {"text": "Ann left"}, "annotations": [{"result": [{"type": "labels", "value":
     {"start": 0, "end": 3, "text": "Ann", "labels": ["person"]}}]}]}           JSON; older: "completions"
    {"id": 1, "text": "Ann left", "label": [{"start": 0, "end": 3, "text": "Ann", "labels": ["person"]}]}

The labelling interface names the fields of text and labels. The text is the string of a task that its spans
fit, of several the one named `text`. Of a task with several annotations the first that was not cancelled
counts; a task without any is left out and counted as `not_annotated`. Relations and choices are ignored.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from uniner.errors import UserError
from uniner.gold.json_rows import JsonRow, converted, decoded_rows, id_of
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row, same_words

EXAMPLE = (
    '{"data": {"text"}, "annotations": [{"result": [{"value": {"start", "end", "labels"}}]}]} or {"text", '
    '"label": [{"start", "end", "labels"}]}'
)
_LABELS = {"labels", "hypertextlabels"}


class _StudioSpan(msgspec.Struct):
    start: int
    end: int
    labels: list[str]
    text: str | None = None


def recognise(row: object) -> bool | None:
    """Tell whether a row has this format; None: it may, but has no annotation to tell by."""
    if not isinstance(row, dict):
        return False
    if isinstance(row.get("data"), dict):
        return isinstance(row.get("annotations", row.get("completions")), list)
    lists = [value for value in row.values() if isinstance(value, list)]
    return any(any(map(_has_labels, items)) for items in lists)


def read(url: str, rows: Iterable[JsonRow]) -> Iterator[GoldRow | LeftOut]:
    """Yield a passage per task."""
    return decoded_rows(url, rows, dict[str, Any], EXAMPLE, _read_task)


def _has_labels(item: object) -> bool:
    if not isinstance(item, dict) or not {"start", "end"} <= item.keys():
        return False
    return any(isinstance(item.get(name), list) for name in _LABELS)


def _read_task(row: JsonRow, where: str, task: dict[str, Any]) -> Iterator[GoldRow | LeftOut]:
    if isinstance(task.get("data"), dict):
        texts, values = task["data"], _annotated_values(where, task)
    else:
        texts = {name: value for name, value in task.items() if isinstance(value, str)}
        lists = [value for value in task.values() if isinstance(value, list)]
        values = [item for items in lists for item in items if _has_labels(item)]
    if values is None:
        yield LeftOut({"not_annotated": 1})
        return
    spans, errors = converted(values, _span, where, EXAMPLE)
    mentions = [
        MarkedSpan(where, span.start, span.end, span.text, label) for span in spans for label in span.labels
    ]
    text = _text_of(where, texts, spans)
    yield annotated_row(row.number, row.place, text, mentions, id_of(task.get("id")), errors=errors)


def _annotated_values(where: str, task: Mapping[str, Any]) -> list[Any] | None:
    """Return the spans' values of the annotation that counts; None if the task has none."""
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        raise UserError(f"{where}: annotations must be a list of objects; a row is {EXAMPLE}")
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            continue
        results = annotation.get("result")
        if not isinstance(results, list):
            raise UserError(f"{where}: an annotation needs a list result; a row is {EXAMPLE}")
        values = [result.get("value") for result in results if isinstance(result, dict)]
        return [value for value in values if isinstance(value, dict) and _LABELS & value.keys()]
    return None


def _span(value: dict[str, Any]) -> _StudioSpan:
    labels = next((value[name] for name in sorted(_LABELS) if name in value), None)
    return msgspec.convert({**value, "labels": labels}, _StudioSpan)


def _text_of(where: str, texts: Mapping[str, Any], spans: Iterable[_StudioSpan]) -> str:
    """Return the string of a task that fits most spans; of equals the one named text, or the longest."""
    spans = list(spans)

    def fit(item: tuple[str, str]) -> tuple[int, bool, int]:
        name, text = item
        return sum(_fits(text, span) for span in spans), name == "text", len(text)

    strings = [(name, text) for name, text in texts.items() if isinstance(text, str)]
    if not strings:
        raise UserError(f"{where}: has no text; a row is {EXAMPLE}")
    return max(strings, key=fit)[1]


def _fits(text: str, span: _StudioSpan) -> bool:
    within = 0 <= span.start < span.end <= len(text)
    return within and (span.text is None or same_words(text[span.start : span.end], span.text))
