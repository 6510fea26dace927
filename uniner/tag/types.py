"""Which types a passage is asked for: those that are named, of a file, the student's own, or its source's."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from uniner.errors import UserError
from uniner.storage.filesystem import explained
from uniner.storage.line_reader import read_text_lines

_COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True)
class Types:
    """The types to ask for, in order; passages of some sources are asked for others, or for none."""

    everywhere: tuple[str, ...]
    of_source: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, source: str) -> tuple[str, ...]:
        """Return the types that passages of a source are asked for."""
        return self.of_source.get(source, self.everywhere)


def choose(
    named: Sequence[str],
    file: Sequence[str],
    top: int | None,
    of_source: Mapping[str, Sequence[str]],
    learnt: Sequence[str],
) -> Types:
    """Put the types together, each once: those named, of the file, and the `top` most frequent learnt.

    learnt: the types that the student was trained on, the most frequent first; all of them are asked for
    where nothing else is.

    Raises:
        UserError: where the student has not learnt so many types, or there is none to ask for.
    """
    if top is not None and top > len(learnt):
        raise UserError(
            f"tag.top_types = {top}: the student names {len(learnt)} types of its own; take fewer"
        )
    asked = [*named, *file, *(learnt[:top] if top else [])] or learnt
    if not asked:
        raise UserError("tag: the student names no types of its own; set tag.types or tag.types_file")
    return Types(
        tuple(dict.fromkeys(asked)),
        {source: tuple(dict.fromkeys(types)) for source, types in of_source.items()},
    )


def read_types(url: str) -> list[str]:
    """Read a text file of types, one a line; a # at a line's start or behind a blank begins a comment.

    Raises:
        UserError: where the file is missing, no UTF-8, names a type twice or none at all.
    """
    types: dict[str, int] = {}
    with explained(url):
        for number, line in read_text_lines(url):
            name = _COMMENT.sub("", line).strip()
            if name in types:
                raise UserError(f"{url}, line {number}: '{name}' stands in line {types[name]} already")
            if name:
                types[name] = number
    if not types:
        raise UserError(f"{url}: names no type; write one a line")
    return list(types)


def require_sources(named: Iterable[str], sources: Iterable[set[str]]) -> None:
    """Make sure that a corpus has the sources for which types are named.

    sources: those of its chunks, read no further than until all are found.

    Raises:
        UserError: naming one that it has not.
    """
    missing, seen = set(named), set[str]()
    come = iter(sources)
    while missing and (some := next(come, None)) is not None:
        missing -= some
        seen |= some
    if missing:
        known = ", ".join(repr(source) for source in sorted(seen)[:20])
        raise UserError(
            f"tag.types_of_source: no passage is of the source {min(missing)!r}; the sources are {known}"
        )
