"""The types a passage is asked for: named ones, a file's, the student's own, or its source's."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from uniner.errors import UserError
from uniner.inference.questions import TypeAnswer
from uniner.labels import is_visible, nearest_type, spelling_key, stripped
from uniner.storage.filesystem import explained
from uniner.storage.line_reader import read_text_lines
from uniner.tag.asked_words import answers_by_type, plain_words, split_types

_COMMENT = re.compile(r"(^|\s)#.*")
_SOURCES_SHOWN = 20


@dataclass(frozen=True)
class TypeSelection:
    """The types to ask for, in order. Passages of some sources are asked for other types, or for none.

    words: of the types that are not asked by their name alone (`asked_words`).
    """

    everywhere: tuple[str, ...]
    of_source: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, source: str) -> tuple[str, ...]:
        """Return the types that passages of a source are asked for."""
        return self.of_source.get(source, self.everywhere)

    def all(self) -> tuple[str, ...]:
        """Return the types of all sources, each once."""
        return tuple(dict.fromkeys((*self.everywhere, *chain.from_iterable(self.of_source.values()))))

    def words_for(self, types: Sequence[str]) -> tuple[str, ...]:
        """Return the words to ask for types by, each once."""
        return tuple(dict.fromkeys(word for name in types for word in self.words.get(name, (name,))))

    def words_of(self, source: str) -> tuple[str, ...]:
        """Return the words that passages of a source are asked by."""
        return self.words_for(self.of(source))

    def answers(self, source: str, answers: Sequence[TypeAnswer]) -> Sequence[TypeAnswer]:
        """Return the answers of a passage of a source by type, from those by the words that were asked."""
        return answers_by_type(self.of(source), self.words, answers) if self.words else answers


def select_types(
    named: Sequence[str],
    file: Sequence[str],
    top: int | None,
    of_source: Mapping[str, Sequence[str]],
    learnt: Sequence[str],
    *,
    descriptions: bool = True,
) -> TypeSelection:
    """Combine the named types, the file's and the `top` most frequent learnt ones, each type once.

    learnt: the types that the student was trained on, most frequent first; all of them where nothing else is
    selected. descriptions: an entry such as `person: a human being` is a type with a description, which is
    asked beside the name; otherwise the whole entry is the type.

    Raises:
        UserError: the student has learnt fewer than `top` types, no type is selected, or two differ in their
            spelling alone (`labels.spelling_key`).
    """
    if top is not None and top > len(learnt):
        raise UserError(
            f"tag.top_types = {top}, but the student lists only {len(learnt)} types of its own; "
            f"set at most tag.top_types = {len(learnt)}"
        )
    described: dict[str, str] = {}
    if descriptions:
        described = split_types((*named, *file, *chain.from_iterable(of_source.values())), "tag.types")
        named, file = [*split_types(named, "tag.types")], [*split_types(file, "tag.types_file")]
        of_source = {
            source: [*split_types(types, "tag.types_of_source")] for source, types in of_source.items()
        }
    _require_one_spelling("tag.types", [*named, *file], learnt)
    for source, types in of_source.items():
        _require_one_spelling(f"tag.types_of_source.{source}", types, learnt)
    spellings = set(map(spelling_key, [*named, *file]))
    more = [name for name in learnt[: top or 0] if spelling_key(name) not in spellings]
    selected = [*named, *file, *more] or learnt
    if not selected:
        raise UserError(
            "tag: the student lists no types of its own; set tag.types, such as "
            """tag.types='["person", "city"]', or tag.types_file"""
        )
    asked = TypeSelection(
        tuple(dict.fromkeys(selected)),
        {source: tuple(dict.fromkeys(types)) for source, types in of_source.items()},
    )
    return replace(asked, words=plain_words(asked.all(), described, learnt))


def _require_one_spelling(setting: str, names: Iterable[str], learnt: Sequence[str]) -> None:
    """Check that no type is named in two spellings, unless the student has learnt both."""
    written: dict[str, str] = {}
    for name in names:
        other = written.setdefault(spelling_key(name), name)
        if other != name and not {name, other} <= set(learnt):
            raise UserError(
                f"{setting}: {other!r} and {name!r} differ in their spelling alone, and both would be asked; "
                "keep one"
            )


def unasked_types_line(named: Iterable[str], asked: TypeSelection) -> str:
    """Return a line on types of tag.min_score_of_type that are asked of no passage; empty without any."""
    known = asked.all()
    unasked = [name for name in named if name not in known]
    if not unasked:
        return ""
    near = nearest_type(unasked[0], known)
    return (
        f"tag.min_score_of_type: {', '.join(map(repr, unasked))} "
        f"{'is' if len(unasked) == 1 else 'are'} not among the {len(known):,} types that are asked for"
        f"{f' (nearest: {near!r})' if near else ''}; name a type as it is asked, or add it to tag.types"
    )


def read_types(url: str) -> list[str]:
    """Read a text file of types, one in each line. A # at a line's start or after a blank starts a comment.

    Raises:
        UserError: the file is missing, is not UTF-8, names a type twice or names none.
    """
    lines: dict[str, int] = {}
    with explained(url):
        for number, line in read_text_lines(url):
            name = stripped(_COMMENT.sub("", line))
            if name in lines:
                raise UserError(
                    f"{url}, line {number}: '{name}' is already in line {lines[name]}; remove one"
                )
            if name and not is_visible(name):
                raise UserError(
                    f"{url}, line {number}: has no visible character; write a type there, such as person"
                )
            if name:
                lines[name] = number
    if not lines:
        raise UserError(f"{url}: the file names no type; write one type in each line, such as person")
    return list(lines)


def require_sources(named: Iterable[str], sources: Iterable[set[str]]) -> None:
    """Check that a corpus has the sources for which types are named.

    sources: those of each chunk, read only until all named ones are found.

    Raises:
        UserError: a named source does not occur.
    """
    missing, seen = set(named), set[str]()
    chunks = iter(sources)
    while missing and (chunk := next(chunks, None)) is not None:
        missing -= chunk
        seen |= chunk
    if missing:
        known = ", ".join(repr(source) for source in sorted(seen)[:_SOURCES_SHOWN])
        raise UserError(
            f"tag.types_of_source: no passage has the source {min(missing)!r}; the sources are {known}"
        )
