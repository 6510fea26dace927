"""The template whose answers repeat the passage: each word and its BIO tag, for all types at once.

The model sees in the text itself what is no mention, and each occurrence has its own place (GNER, Ding et al.
2024, on the same base and data: F1 66.1 in place of 53.4). The answer is about twice as long as the passage,
whatever the number of types.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from uniner.templates import word_tags
from uniner.templates.alignment import align
from uniner.templates.interface import AnsweredSpan, Mentions, Offsets, ParsedAnswer, Spans
from uniner.templates.json_answers import from_json, strings_of, to_json
from uniner.templates.word_tags import OUTSIDE, WrittenWord

_QUESTION = "Which words in the text begin (B) or continue (I) one of these? "
_MOST_UNREAD = 10
"""An answer is broken if more than one word in so many has no tag that can be read; one word always may."""
_UNREAD = WrittenWord("", "", "", (0, 0))


@dataclass(frozen=True)
class WordsTemplate:
    """Up to group_types types per question, answered by each word of the passage with its tag.

    Where types need several questions, their answers may give words several types: the surest mention then
    stays (`inference.questions`).
    """

    group_types: int = 50

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Return groups of at most group_types types."""
        return [
            tuple(types[start : start + self.group_types]) for start in range(0, len(types), self.group_types)
        ]

    def question(self, types: Sequence[str]) -> str:
        """Return the question, with the types as a JSON list."""
        return f"{_QUESTION}{to_json(list(types))}"

    def types_of(self, question: str) -> tuple[str, ...] | None:
        """Return the question's types."""
        types = strings_of(from_json(question.removeprefix(_QUESTION)))
        return types if types and question == self.question(types) else None

    def render(self, passage: str, answers: Mentions, spans: Spans | None = None) -> list[tuple[str, str]]:
        """Return a pair per group; of mentions that share words each answer has one (`word_tags.hold`)."""
        words = word_tags.find_words(passage)
        pairs = []
        for group in self.groups(list(answers)):
            held = word_tags.hold(passage, words, group, answers, spans)
            pairs.append((self.question(group), word_tags.write_tags(passage, words, group, held.places)))
        return pairs

    def unheld(self, passage: str, answers: Mentions, spans: Spans | None = None) -> dict[str, int]:
        """Count places of mentions that one tag a word cannot hold, by the reasons of `word_tags.hold`."""
        words = word_tags.find_words(passage)
        counts: dict[str, int] = {}
        for group in self.groups(list(answers)):
            for reason, count in word_tags.hold(passage, words, group, answers, spans).unheld.items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    def parse(self, types: Sequence[str], answer: str, passage: str) -> ParsedAnswer | None:
        """Parse words with tags, aligned with the passage where the model skipped, repeated or changed words.

        A tag of a type that was not asked for says nothing about its word, and I without a mention to
        continue begins one. The answer is broken if too many words have no tag that can be read, or if less
        than half of the words are the passage's.
        """
        places = word_tags.find_words(passage)
        words = [passage[start:end].casefold() for start, end in places]
        written = word_tags.read_tags(answer, types)
        aligned = align(words, [each.word.casefold() for each in written])
        tagged = [written[number] if number >= 0 else _UNREAD for number in aligned]
        unread = sum(not each.kind for each in tagged)
        copied = sum(each.word.casefold() == word for each, word in zip(tagged, words, strict=True))
        if unread > max(1, len(words) // _MOST_UNREAD) or unread == len(words) > 0 or 2 * copied < len(words):
            return None
        spans = _spans(types, places, tagged)
        mentions = {
            name: tuple(dict.fromkeys(passage[span.start : span.end] for span in found))
            for name, found in spans.items()
        }
        return ParsedAnswer(mentions, spans, unread)

    def empty_answer(self, passage: str) -> str | None:
        """Return the passage's words, none of them in a mention."""
        return word_tags.write_tags(passage, word_tags.find_words(passage), (), ())

    def conflicts(self, mentions: Mentions) -> dict[str, tuple[str, ...]]:  # noqa: ARG002
        """Return none: the places of mentions conflict, and no question settles them."""
        return {}


@dataclass
class _OpenMention:
    """A mention that may go on with the next word."""

    type: str
    start: int
    end: int
    evidence: list[Offsets]


def _spans(
    types: Sequence[str], words: Sequence[Offsets], tagged: Sequence[WrittenWord]
) -> dict[str, tuple[AnsweredSpan, ...]]:
    """Return the mentions of tagged words by type.

    A mention goes on over one word without a tag. Its evidence is the tags of its words and, of the next tag,
    what says that the mention does not go on.
    """
    found: dict[str, list[AnsweredSpan]] = {name: [] for name in types}
    mention: _OpenMention | None = None
    unread = 0
    for (start, end), tag in zip(words, tagged, strict=True):
        if not tag.kind:
            unread += 1
            continue
        if mention and tag.kind == "I" and tag.type == mention.type and unread <= 1:
            mention.end = end
            if tag.place != mention.evidence[-1]:  # else a tag of several words that were written as one
                mention.evidence.append(tag.place)
        else:
            if mention:
                mention.evidence.append((tag.place[0], tag.place[0] + 1))
                found[mention.type].append(_closed(mention))
            opens = tag.kind != OUTSIDE
            mention = _OpenMention(tag.type, start, end, [tag.place]) if opens else None
        unread = 0
    if mention:
        found[mention.type].append(_closed(mention))
    return {name: tuple(spans) for name, spans in found.items()}


def _closed(mention: _OpenMention) -> AnsweredSpan:
    return AnsweredSpan(mention.start, mention.end, tuple(mention.evidence))
