"""Render a passage and its types as a conversation, and parse an answer into mentions.

Training, evaluation and tagging share this one rendering, so they always agree. A conversation consists of
blocks, each ended by the end token's id:

    [bos] {system} USER: Text: {passage} ASSISTANT: I've read this text. [eos]
    USER: What describes {type} in the text? ASSISTANT: ["..."] [eos]
    USER: ...

This is the released models' string (paper Fig. 2; apostrophe ASCII). A template defines which questions ask
for the types, and how their answers are written and parsed. Each block is tokenised by itself, and special
tokens in the text are split, so a passage cannot inject one. Within a block, question and answer are
tokenised separately at the blank before the answer: at inference the student sees the exact prefix it was
trained on. Only the answer's ids and their end token carry loss (paper §3.2; the released code also trains on
"I've read this text.").
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

SYSTEM = "A virtual assistant answers questions from a user based on the provided text."
READ = "I've read this text."
_MOST_QUESTIONS = 10_000
"""Rendered questions that a renderer keeps."""

Mentions = Mapping[str, Sequence[str]]
"""Mentions by type."""


class Template(Protocol):
    """The questions that ask a passage for types, and the form of their answers."""

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Divide types, in order, into groups; one question asks for each group."""

    def question(self, types: Sequence[str]) -> str:
        """Return the question for a group of types."""

    def types_of(self, question: str) -> tuple[str, ...] | None:
        """Return the types that a question asks for; None if `question` did not make it."""

    def render(self, answers: Mentions) -> list[tuple[str, str]]:
        """Return question-answer pairs for all types of `answers`, in its order."""

    def parse(self, types: Sequence[str], answer: str) -> dict[str, tuple[str, ...]] | None:
        """Parse the answer to the question for these types: the distinct mentions of each type.

        None means a broken answer, () means no mentions: the two are never confused.
        """

    def conflicts(self, mentions: Mentions) -> dict[str, tuple[str, ...]]:
        """Return mentions that got types from several questions, with these types; a question settles each.

        mentions: all types that were asked for, in order.
        """


@dataclass(frozen=True)
class SingleTypeTemplate:
    """A question per type, answered by a JSON list of mentions: the best template in the paper.

    The templates `type` and `definition`; in the latter a type is a sentence that defines it.
    """

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Return a group per type."""
        return [(type_name,) for type_name in types]

    def question(self, types: Sequence[str]) -> str:
        """Return the published question."""
        (type_name,) = types
        return f"What describes {type_name} in the text?"

    def types_of(self, question: str) -> tuple[str, ...] | None:
        """Return the question's type."""
        type_name = question.removeprefix("What describes ").removesuffix(" in the text?")
        return (type_name,) if question == self.question([type_name]) else None

    def render(self, answers: Mentions) -> list[tuple[str, str]]:
        """Return a question-answer pair per type."""
        return [(self.question([name]), _to_json(list(mentions))) for name, mentions in answers.items()]

    def parse(self, types: Sequence[str], answer: str) -> dict[str, tuple[str, ...]] | None:
        """Parse a JSON list of strings."""
        (type_name,) = types
        mentions = _strings(_from_json(answer))
        return None if mentions is None else {type_name: mentions}

    def conflicts(self, mentions: Mentions) -> dict[str, tuple[str, ...]]:  # noqa: ARG002
        """Return none: a mention may have several types, each from its own question."""
        return {}


@dataclass(frozen=True)
class MultiTypeTemplate:
    """Several types per question, answered by a JSON object of the types that have mentions.

    `grouped` asks for group_types types per question. Its questions are independent, so one more question
    settles a mention that got types from several. `all_in_one` asks for all types at once (group_types =
    None). The paper compares with all types in one question but never released the wording
    (universal-ner#7): this wording, and that of the settling question, is ours.
    """

    group_types: int | None = None

    def groups(self, types: Sequence[str]) -> list[tuple[str, ...]]:
        """Return groups of at most group_types types."""
        size = self.group_types or max(1, len(types))
        return [tuple(types[start : start + size]) for start in range(0, len(types), size)]

    def question(self, types: Sequence[str]) -> str:
        """Return the question, with the types as a JSON list."""
        return f"What describes each of these in the text? {_to_json(list(types))}"

    def types_of(self, question: str) -> tuple[str, ...] | None:
        """Return the question's types."""
        types = _strings(_from_json(question.removeprefix("What describes each of these in the text? ")))
        return types if types and question == self.question(types) else None

    def render(self, answers: Mentions) -> list[tuple[str, str]]:
        """Return a pair per group; with several groups also a settling question about one mention."""
        groups = self.groups(list(answers))
        pairs = [
            (self.question(group), _to_json({name: list(answers[name]) for name in group if answers[name]}))
            for group in groups
        ]
        if len(groups) > 1 and (example := _settling_example(groups, answers)):
            mention, types = example
            true_types = [name for name in types if mention in answers[name]]
            pairs.append((settling_question(mention, types), _to_json(true_types)))
        return pairs

    def parse(self, types: Sequence[str], answer: str) -> dict[str, tuple[str, ...]] | None:
        """Parse a JSON object of types to lists of strings; a type that was not asked for breaks it."""
        value = _from_json(answer)
        if not isinstance(value, dict) or not value.keys() <= set(types):
            return None
        mentions = {name: _strings(texts) for name, texts in value.items()}
        broken = None in mentions.values()
        return None if broken else {name: mentions.get(name) or () for name in types}

    def conflicts(self, mentions: Mentions) -> dict[str, tuple[str, ...]]:
        """Return the mentions with types from several questions."""
        groups = self.groups(list(mentions))
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        types_of: dict[str, list[str]] = {}
        for name, texts in mentions.items():
            for mention in texts:
                types_of.setdefault(mention, []).append(name)
        return {
            mention: tuple(types)
            for mention, types in types_of.items()
            if len({group_of[name] for name in types}) > 1
        }


def settling_question(mention: str, types: Sequence[str]) -> str:
    """Return the question which of these types a mention has."""
    return f"Which of these describe {_to_json(mention)} in the text? {_to_json(list(types))}"


def parse_settling_answer(types: Sequence[str], answer: str) -> tuple[str, ...] | None:
    """Parse the answer to a settling question: a JSON list of the mention's types; None if it is broken."""
    true_types = _strings(_from_json(answer))
    return true_types if true_types is not None and set(true_types) <= set(types) else None


def _settling_example(
    groups: Sequence[Sequence[str]], answers: Mentions
) -> tuple[str, tuple[str, ...]] | None:
    """Return the first mention, with its types and the first type of another group that it does not have."""
    for group in groups:
        for name in group:
            for mention in answers[name]:
                true_types = {other for other in answers if mention in answers[other]}
                false_types = [other for other in answers if other not in group and other not in true_types]
                kept = {*true_types, *false_types[:1]}
                return mention, tuple(other for other in answers if other in kept)
    return None


TEMPLATES = ("type", "definition", "grouped", "all_in_one")
SINGLE_TYPE = SingleTypeTemplate()


def make_template(name: str, group_types: int) -> Template:
    """Return a template by its name; group_types: types per question of `grouped`."""
    if name in ("type", "definition"):
        return SINGLE_TYPE
    return MultiTypeTemplate(group_types if name == "grouped" else None)


def render_conversation(
    passage: str, answers: Mentions, dataset: str | None = None, template: Template = SINGLE_TYPE
) -> tuple[dict[str, str], ...]:
    """Return the published conversation about a passage and its types' mentions.

    dataset: names the data set before the passage (paper §3.3). Used for supervised data, and left out when
    asking about a data set that the student was not trained on.
    """
    dataset_line = f"Dataset: {dataset}\n " if dataset else ""
    turns = [{"from": "human", "value": f"{dataset_line}Text: {passage}"}, {"from": "gpt", "value": READ}]
    for question, answer in template.render(answers):
        turns.append({"from": "human", "value": question})
        turns.append({"from": "gpt", "value": answer})
    return tuple(turns)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _from_json(answer: str) -> Any:
    """Parse JSON; None if it is invalid or repeats a key."""
    try:
        return json.loads(answer, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("repeated key")
    return dict(pairs)


def _strings(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return None
    if any("\ud800" <= letter <= "\udfff" for text in value for letter in text):
        return None  # a lone surrogate: JSON can escape it, but no file can store it
    return tuple(dict.fromkeys(value))


@dataclass(frozen=True)
class TokenBlock:
    """Token ids and, for each, whether it carries loss."""

    ids: tuple[int, ...]
    loss: tuple[bool, ...]

    def __add__(self, other: "TokenBlock") -> "TokenBlock":
        return TokenBlock(self.ids + other.ids, self.loss + other.loss)

    def __len__(self) -> int:
        return len(self.ids)


class Renderer:
    """Renders conversations as token ids with one tokenizer (transformers, with an end token)."""

    def __init__(self, tokenizer: Any):
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token")
        self._tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        with_specials = tokenizer("a", add_special_tokens=True).input_ids
        starts_with_bos = tokenizer.bos_token_id is not None and with_specials[0] == tokenizer.bos_token_id
        self._bos = [tokenizer.bos_token_id] if starts_with_bos else []
        self._questions: dict[str, TokenBlock] = {}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def head(self, passage_turn: str, acknowledgement: str = READ) -> TokenBlock:
        """Render the shared prefix of all questions: system line, passage turn, acknowledgement."""
        text = f"{SYSTEM} USER: {passage_turn} ASSISTANT: {acknowledgement}"
        ids = (*self._bos, *self._encode(text), self.eos)
        return TokenBlock(ids, (False,) * len(ids))

    def question(self, question_turn: str) -> TokenBlock:
        """Render a question up to the start of its answer."""
        block = self._questions.get(question_turn)
        if block is None:
            ids = tuple(self._encode(f"USER: {question_turn} ASSISTANT:"))
            block = TokenBlock(ids, (False,) * len(ids))
            if len(self._questions) < _MOST_QUESTIONS:  # the same types are asked of each passage
                self._questions[question_turn] = block
        return block

    def answer(self, answer_turn: str) -> TokenBlock:
        """Render an answer and its end token; all ids carry loss."""
        ids = (*self._encode(f" {answer_turn}"), self.eos)
        return TokenBlock(ids, (True,) * len(ids))

    def prompts(self, passage: str, questions: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids of a prompt per question, all with the same prefix, for the engine."""
        head = self.head(f"Text: {passage}").ids
        return [head + self.question(question).ids for question in questions]

    def blocks(self, conversation: Sequence[dict[str, str]]) -> tuple[TokenBlock, list[TokenBlock]]:
        """Render a published conversation as its head and a block per question.

        Raises:
            ValueError: if the turns are not a passage and then human and gpt alternating.
        """
        speakers = [turn["from"] for turn in conversation]
        if len(speakers) < 4 or len(speakers) % 2 or speakers != ["human", "gpt"] * (len(speakers) // 2):
            raise ValueError("a conversation is a passage, its acknowledgement and question-answer pairs")
        values = [turn["value"] for turn in conversation]
        head = self.head(values[0], values[1])
        pairs = zip(values[2::2], values[3::2], strict=True)
        return head, [self.question(question) + self.answer(answer) for question, answer in pairs]
