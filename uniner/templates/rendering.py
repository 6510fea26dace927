"""Render a passage, its questions and their answers as a conversation of token ids.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from uniner.templates.interface import Mentions, Spans, Template
from uniner.templates.json_answers import SINGLE_TYPE

SYSTEM = "A virtual assistant answers questions from a user based on the provided text."
READ = "I've read this text."
_MOST_QUESTIONS = 10_000
"""Rendered questions that a renderer keeps."""
_USUAL_ANSWER, _LONGEST_ANSWER = 1.2, 3
"""Answers that grow with the passage, as multiples of the answer without mentions: the tags of a passage with
many mentions take a fifth more, and a model that repeats itself is stopped at thrice."""


def render_conversation(
    passage: str,
    answers: Mentions,
    dataset: str | None = None,
    template: Template = SINGLE_TYPE,
    spans: Spans | None = None,
) -> tuple[dict[str, str], ...]:
    """Return the published conversation about a passage and its types' mentions.

    dataset: names the data set before the passage (paper §3.3). Used for supervised data, and left out when
    asking about a data set that the student was not trained on. spans: the places of the mentions, if known.
    """
    dataset_line = f"Dataset: {dataset}\n " if dataset else ""
    turns = [{"from": "human", "value": f"{dataset_line}Text: {passage}"}, {"from": "gpt", "value": READ}]
    for question, answer in template.render(passage, answers, spans):
        turns.append({"from": "human", "value": question})
        turns.append({"from": "gpt", "value": answer})
    return tuple(turns)


@dataclass(frozen=True)
class TokenBlock:
    """Token ids and, for each, whether it carries loss."""

    ids: tuple[int, ...]
    loss: tuple[bool, ...]

    def __add__(self, other: "TokenBlock") -> "TokenBlock":
        return TokenBlock(self.ids + other.ids, self.loss + other.loss)

    def __len__(self) -> int:
        return len(self.ids)


class AnswerSize(NamedTuple):
    """Tokens of an answer: what it needs room for, and the limit at which it is cut."""

    usual: int
    longest: int


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

    def answer_size(self, template: Template, passage: str) -> "AnswerSize | None":
        """Return how long an answer about a passage is, where that grows with the passage; else None."""
        empty = template.empty_answer(passage)
        if empty is None:
            return None
        tokens = len(self.answer(empty))
        return AnswerSize(int(_USUAL_ANSWER * tokens), _LONGEST_ANSWER * tokens)

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
