"""What a passage costs by each template, in tokens, and from how many types on `words` is the cheapest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from uniner.records import Passage, TaggedPassage
from uniner.templates import Renderer, Spans, Template, make_template

PASSAGES = 50
"""Passages that the comparison reads."""
COMPARED = ("type", "grouped", "words")
_MOST_TYPES = 2_000


@dataclass(frozen=True)
class FoundMentions:
    """A passage and the places of its mentions by type."""

    text: str
    spans: Spans


@dataclass(frozen=True, kw_only=True)
class TemplateCost:
    """The mean tokens of a passage by a template; each counts once, as an engine computes it.

    head: of the passage's own prompt, which its questions share. question: of a question and its answer
    without mentions, the names of types left out. name: of a type's name in a question. mentions: that the
    mentions add to the answers. group_types: types per question.
    """

    head: float
    question: float
    name: float
    mentions: float
    group_types: int

    def tokens(self, types: int) -> float:
        """Return the tokens of a passage with this many types."""
        questions = -(-types // self.group_types)
        return self.head + questions * self.question + types * self.name + self.mentions


def found_mentions(passages: Iterable[Passage], rows: Iterable[TaggedPassage]) -> list[FoundMentions]:
    """Return passages with the mentions that were tagged in them."""
    found = []
    for passage, row in zip(passages, rows, strict=True):
        spans: dict[str, list[tuple[int, int]]] = {}
        for entity in row.entities:
            start, end = entity.start - passage.char_start, entity.end - passage.char_start
            if entity.start >= 0 and end <= len(passage.text):
                spans.setdefault(entity.type, []).append((start, end))
        found.append(FoundMentions(passage.text, spans))
    return found


def measure_cost(
    renderer: Renderer, name: str, passages: Sequence[FoundMentions], types: Sequence[str]
) -> TemplateCost:
    """Measure a template on passages with the types that are asked for."""
    template = make_template(name)
    groups = template.groups(types)
    size = max(map(len, template.groups([str(number) for number in range(_MOST_TYPES)])))
    names = sum(len(renderer.question(template.question(group))) for group in groups)
    # A question without names: what one more name adds is taken off.
    one, two = (len(renderer.question(template.question(group))) for group in (["a"], _two(template)))
    per_name = max(0, two - one)
    fixed = one - per_name if per_name else names / len(groups)
    answers = [_answer_tokens(renderer, template, passage, types) for passage in passages]
    empty = [
        _answer_tokens(renderer, template, FoundMentions(passage.text, {}), types) for passage in passages
    ]
    return TemplateCost(
        head=fmean(len(renderer.head(f"Text: {passage.text}")) for passage in passages),
        question=fixed + fmean(empty) / len(groups),
        name=(names - fixed * len(groups)) / len(types),
        mentions=fmean(answers) - fmean(empty),
        group_types=size,
    )


def _two(template: Template) -> Sequence[str]:
    """Return two types, or as many as a question of the template takes."""
    return template.groups(["a", "b"])[0]


def _answer_tokens(
    renderer: Renderer, template: Template, passage: FoundMentions, types: Sequence[str]
) -> int:
    answers = {
        name: tuple(dict.fromkeys(passage.text[start:end] for start, end in passage.spans.get(name, ())))
        for name in types
    }
    groups = len(template.groups(types))
    pairs = template.render(passage.text, answers, passage.spans)[:groups]
    return sum(len(renderer.answer(answer)) for _, answer in pairs)


def describe_templates(costs: Mapping[str, TemplateCost], types: int) -> str:
    """Say what a passage costs by each template, and from how many types on words costs least."""
    told = ", ".join(f"{cost.tokens(types):,.0f} by {name}" for name, cost in costs.items())
    words = costs["words"]
    turns = []
    for name, cost in costs.items():
        if name != "words":
            first = _cheaper_from(words, cost)
            turns.append(f"cheaper than {name} from {first:,} types on" if first else f"dearer than {name}")
    return (
        f"a passage takes about {told}, prompt and answer, with {types:,} types; words is "
        f"{' and '.join(turns)}. An answer's tokens take longer than a prompt's"
    )


def _cheaper_from(cost: TemplateCost, other: TemplateCost) -> int | None:
    """Return the number of types from which on a template costs less than another; None: it never does."""
    first = None
    for count in range(_MOST_TYPES, 0, -1):
        if cost.tokens(count) >= other.tokens(count):
            break
        first = count
    return first
