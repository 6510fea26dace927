"""How a passage and its types become a conversation, and an answer becomes mentions.

One rendering serves training, evaluation and tagging, so that they cannot drift apart. A conversation is
made of blocks, each ended by the end token's id:

    [bos] {system} USER: Text: {passage} ASSISTANT: I've read this text. [eos]
    USER: What describes {type} in the text? ASSISTANT: ["..."] [eos]
    USER: ...

which is the released models' string (paper Fig. 2; apostrophe ASCII). Each block is tokenised by itself and
special tokens in the text are split, so a passage cannot smuggle one in. Within a block, question and answer
are tokenised apart at the blank before the answer: what the student sees when it is asked is the exact
prefix of what it was trained on. Loss falls on the answer's ids and their end token only (paper §3.2; the
released code also trains on "I've read this text.").
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

SYSTEM = "A virtual assistant answers questions from a user based on the provided text."
READ = "I've read this text."
NAMES = ("type", "definition")
"""Both ask with the same words; with `definition` the type is a sentence that defines it."""


def question(type_name: str) -> str:
    """Return the question for a type, as in the published conversations."""
    return f"What describes {type_name} in the text?"


def turns(
    passage: str, answers: Sequence[tuple[str, Sequence[str]]], dataset: str | None = None
) -> tuple[dict[str, str], ...]:
    """Lay a passage and its (type, mentions) answers out as the published conversation.

    dataset: where given, the passage is announced as one of this data set's (paper §3.3; for supervised
    data, and left out when a data set that was never seen is asked about).
    """
    announced = f"Dataset: {dataset}\n " if dataset else ""
    conversation = [
        {"from": "human", "value": f"{announced}Text: {passage}"},
        {"from": "gpt", "value": READ},
    ]
    for type_name, mentions in answers:
        conversation.append({"from": "human", "value": question(type_name)})
        conversation.append({"from": "gpt", "value": json.dumps(list(mentions), ensure_ascii=False)})
    return tuple(conversation)


@dataclass(frozen=True)
class Rendered:
    """Token ids and, for each, whether it carries loss."""

    ids: tuple[int, ...]
    loss: tuple[bool, ...]

    def __add__(self, other: "Rendered") -> "Rendered":
        return Rendered(self.ids + other.ids, self.loss + other.loss)

    def __len__(self) -> int:
        return len(self.ids)


class Renderer:
    """Turns conversations into token ids with one tokenizer (transformers, with an end token)."""

    def __init__(self, tokenizer: Any):
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token")
        self._tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        with_specials = tokenizer("a", add_special_tokens=True).input_ids
        starts_with_bos = tokenizer.bos_token_id is not None and with_specials[0] == tokenizer.bos_token_id
        self._bos = [tokenizer.bos_token_id] if starts_with_bos else []

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def head(self, passage_turn: str, read: str = READ) -> Rendered:
        """Render the shared prefix of all questions: system line, passage turn, "I've read this text."."""
        text = f"{SYSTEM} USER: {passage_turn} ASSISTANT: {read}"
        ids = (*self._bos, *self._encode(text), self.eos)
        return Rendered(ids, (False,) * len(ids))

    def ask(self, question_turn: str) -> Rendered:
        """Render a question up to the point where the answer begins."""
        ids = tuple(self._encode(f"USER: {question_turn} ASSISTANT:"))
        return Rendered(ids, (False,) * len(ids))

    def answer(self, answer_turn: str) -> Rendered:
        """Render an answer and its end token; all of it carries loss."""
        ids = (*self._encode(f" {answer_turn}"), self.eos)
        return Rendered(ids, (True,) * len(ids))

    def prompts(self, passage: str, types: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids to send to the engine, one prompt a type, all with the same prefix."""
        head = self.head(f"Text: {passage}").ids
        return [head + self.ask(question(type_name)).ids for type_name in types]

    def blocks(self, conversation: Sequence[dict[str, str]]) -> tuple[Rendered, list[Rendered]]:
        """Render a published conversation as its head and one block a question.

        Raises:
            ValueError: where the turns do not alternate human, gpt from a passage on.
        """
        speakers = [turn["from"] for turn in conversation]
        if len(speakers) < 4 or len(speakers) % 2 or speakers != ["human", "gpt"] * (len(speakers) // 2):
            raise ValueError("a conversation is a passage, its acknowledgement and question-answer pairs")
        values = [turn["value"] for turn in conversation]
        head = self.head(values[0], values[1])
        pairs = zip(values[2::2], values[3::2], strict=True)
        return head, [self.ask(asked) + self.answer(answered) for asked, answered in pairs]


def parse_answer(answer: str) -> tuple[str, ...] | None:
    """Read a student's answer, a JSON list of strings; None where it is anything else.

    None is "broken", () is "no such mention": the two never look alike. A repeated mention counts once.
    """
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(value, list) or not all(isinstance(mention, str) for mention in value):
        return None
    return tuple(dict.fromkeys(value))


Grounding = Literal["exact", "folded", "ungrounded"]


# Models write the plain ones where a text has the typographic ones, and the other way round.
_QUOTATION_MARKS = ("'\u2018\u2019\u201a\u02bc`\u00b4", '"\u201c\u201d\u201e\u00ab\u00bb')


def locate(text: str, mention: str) -> tuple[list[tuple[int, int]], Grounding]:
    """Find all occurrences of a mention in a text, without overlap, in order.

    Whole words first, then anywhere, first as written (exact), then with case, white space and the kinds of
    quotation marks folded (folded). An empty list comes with `ungrounded`.
    """
    words = mention.split()
    if not words:
        return [], "ungrounded"
    exact = re.escape(mention)
    folded = r"\s+".join("".join(map(_folded, word)) for word in words)
    tries: list[tuple[str, re.RegexFlag, Grounding]] = [
        (exact, re.NOFLAG, "exact"),
        (folded, re.IGNORECASE, "folded"),
    ]
    for pattern, flags, grounding in tries:
        for bounded in (rf"(?<!\w){pattern}(?!\w)", pattern):
            spans = [match.span() for match in re.finditer(bounded, text, flags)]
            if spans:
                return spans, grounding
    return [], "ungrounded"


def _folded(letter: str) -> str:
    """Return the pattern of a letter: any mark of its kind for a quotation mark."""
    kind = next((marks for marks in _QUOTATION_MARKS if letter in marks), None)
    return f"[{kind}]" if kind else re.escape(letter)
