"""Choose among spans that overlap: entities of a document, or what an encoder finds in a text."""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

Overlaps = Literal["keep", "flat", "longest", "nested"]
"""keep: all. flat: no two overlap; the surest stays. longest: no two overlap; the longest stays, then the
surest. nested: one may lie inside another, but none crosses another or has two types; the surest stays."""


class Spanning(Protocol):
    """A span of a text with a score; `end` is exclusive."""

    @property
    def start(self) -> int:
        """The first character."""
        ...

    @property
    def end(self) -> int:
        """The character after the last."""
        ...

    @property
    def score(self) -> float:
        """How sure the span is."""
        ...


AnySpan = TypeVar("AnySpan", bound=Spanning)


def settle(
    spans: Sequence[AnySpan],
    rule: Overlaps,
    certain: Callable[[AnySpan], bool] = lambda span: False,  # noqa: ARG005
) -> list[AnySpan]:
    """Return the spans that a rule keeps, best first; of equal ones the first given is the better.

    certain: tells which spans come before all others.
    """
    if rule == "keep":
        return list(spans)
    length = -1 if rule == "longest" else 0
    ordered = sorted(
        spans, key=lambda span: (not certain(span), length * (span.end - span.start), -span.score)
    )
    chosen: list[AnySpan] = []
    bounds: list[tuple[int, int]] = []  # of the chosen, in the order of the text
    widest = 0
    for span in ordered:
        # Only those that begin less than the widest before it can reach into it.
        first = bisect_left(bounds, (span.start - widest, -1))
        last = bisect_left(bounds, (span.end, -1))
        if not any(_exclude(span, *bounds[place], rule) for place in range(first, last)):
            insort(bounds, (span.start, span.end))
            widest = max(widest, span.end - span.start)
            chosen.append(span)
    return chosen


def _exclude(span: Spanning, start: int, end: int, rule: Overlaps) -> bool:
    """Tell whether a chosen span at these places excludes another."""
    if end <= span.start or span.end <= start:
        return False
    if rule != "nested":
        return True
    inside = start <= span.start and span.end <= end
    around = span.start <= start and end <= span.end
    return (start, end) == (span.start, span.end) or not (inside or around)
