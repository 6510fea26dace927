"""Validation F1 by generation: the student in training answers a sample of the validation questions.

The sharded model itself answers, greedily, so all workers run the same number of forward passes. Questions
and answers have the same form, and are counted in the same way, as in tag and evaluate. The expected answers
are the conversations', mostly the teacher's: the F1 shows how training goes, and is not evaluate's F1 on gold
data.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from transformers import DynamicCache

from uniner.metrics.counts import Counts
from uniner.metrics.matching import normalised, strict
from uniner.records import Conversation
from uniner.templates import Mentions, Renderer, Template
from uniner.train import varlen

_BATCH_QUESTIONS = 16  # decoded at a time; the batches do not depend on the number of workers


@dataclass(frozen=True)
class EvalQuestion:
    """A question about a passage: the prompt's ids, the types it asks for, and the expected mentions.

    answer_tokens: tokens of the expected answer with its end token.
    """

    prompt: tuple[int, ...]
    types: tuple[str, ...]
    expected: Mentions
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class GenerationScores:
    """The F1 over all questions, their number, and the number of broken answers."""

    f1: float
    questions: int
    broken: int


@dataclass(frozen=True)
class GenerationEval:
    """Questions, the longest first, and the tokenizer and template that they were made with."""

    questions: Sequence[EvalQuestion]
    tokenizer: Any
    template: Template

    def run(self, model: Any, device: torch.device) -> GenerationScores | None:
        """Score the model's answers; every worker must call this. Returns None if there are no questions.

        An answer longer than twice the longest expected answer is cut, which makes it broken.
        """
        if not self.questions:
            return None
        counts = Counts()
        broken = 0
        model.eval()
        with torch.no_grad(), _plain_attention(model):
            for question, ids in self._local_answers(model, device):
                mentions = self._parse(question, ids)
                broken += mentions is None
                for name in question.types:
                    predicted = normalised((mentions or {}).get(name, ()))
                    counts += strict(predicted, normalised(question.expected[name]))
        model.train()
        model.reshard()  # without a backward pass, FSDP leaves the outer weights gathered
        totals = torch.tensor([counts.tp, counts.fp, counts.fn, broken], device=device)
        dist.all_reduce(totals)
        *summed, broken = totals.tolist()
        f1 = round(Counts(*summed).f1, 6)
        return GenerationScores(f1=f1, questions=len(self.questions), broken=int(broken))

    def _local_answers(
        self, model: Any, device: torch.device
    ) -> Iterator[tuple[EvalQuestion, Sequence[int]]]:
        """Yield this worker's questions with the ids of their answers."""
        window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or torch.inf
        longest = max(question.answer_tokens for question in self.questions)
        max_ids = int(min(2 * longest, window - len(self.questions[0].prompt)))
        starts = range(0, len(self.questions), _BATCH_QUESTIONS)
        batches = [self.questions[start : start + _BATCH_QUESTIONS] for start in starts]
        for turn in zip_longest(*[iter(batches)] * dist.get_world_size()):
            batch = turn[dist.get_rank()]
            # Workers run in lockstep: one without a batch answers a question that is not counted.
            prompts = [question.prompt for question in batch or self.questions[-1:]]
            answers = generate(model, prompts, max_ids, self.tokenizer.eos_token_id, device)
            yield from zip(batch or (), answers, strict=False)

    def _parse(self, question: EvalQuestion, ids: Sequence[int]) -> Mentions | None:
        """Return an answer's mentions; None if it is broken."""
        if ids[-1] != self.tokenizer.eos_token_id:
            return None
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self.template.parse(question.types, text.strip())


def draw(
    conversations: Iterable[Conversation],
    tokenizer: Any,
    template: Template,
    *,
    most: int,
    max_tokens: int,
    seed: int,
) -> GenerationEval:
    """Draw at most `most` questions that fit into max_tokens with their answers, present and absent types
    alike."""
    renderer = Renderer(tokenizer)
    places = [
        (conversation, place)
        for conversation in conversations
        for place in range(2, len(conversation.conversations), 2)
    ]
    Random(f"{seed} quiz").shuffle(places)  # another word would draw other questions
    drawn = (_question(conversation, place, renderer, template) for conversation, place in places)
    fitting = (
        question
        for question in drawn
        if question and len(question.prompt) + question.answer_tokens <= max_tokens
    )
    longest_first = sorted(islice(fitting, most), key=lambda question: -len(question.prompt))
    return GenerationEval(longest_first, tokenizer, template)


def _question(
    conversation: Conversation, place: int, renderer: Renderer, template: Template
) -> EvalQuestion | None:
    """Return the question at a turn; None if it does not ask for types but settles the type of a mention."""
    values = [turn["value"] for turn in conversation.conversations]
    types = template.types_of(values[place])
    expected = template.parse(types, values[place + 1]) if types else None
    if not types or expected is None:
        return None
    (prompt,) = renderer.prompts(passage_of(conversation), [values[place]])
    return EvalQuestion(prompt, types, expected, len(renderer.answer(values[place + 1])))


def passage_of(conversation: Conversation) -> str:
    """Return the passage without the name of its data set, which tag and evaluate do not give."""
    first_turn = conversation.conversations[0]["value"]
    return first_turn.removeprefix(f"Dataset: {conversation.dataset}\n ").removeprefix("Text: ")


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Use SDPA without compiling: training's attention is made for packed rows, not for a cache."""
    before = model.config._attn_implementation
    if before.startswith(("flash", "flex", varlen.NAME)):
        model.set_attn_implementation("sdpa")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(before)


def generate(
    model: Any, prompts: Sequence[Sequence[int]], max_ids: int, end: int, device: torch.device
) -> list[list[int]]:
    """Continue prompts greedily up to the end token, which is included, or to max_ids ids.

    Every worker must call this, each with its own prompts. They stop together, when the last is done.
    """
    width = max(map(len, prompts))
    # Padded on the left, so that all prompts continue at the same position.
    padding = [width - len(prompt) for prompt in prompts]
    padded = [[end] * empty + list(prompt) for empty, prompt in zip(padding, prompts, strict=True)]
    ids = torch.tensor(padded, device=device)
    mask = torch.tensor([[0] * empty + [1] * (width - empty) for empty in padding], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, answers = DynamicCache(), torch.empty((len(prompts), 0), dtype=torch.long, device=device)
    for _ in range(max_ids):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        answers = torch.cat([answers, ids], 1)
        unfinished = (answers != end).all(1).any().int()
        dist.all_reduce(unfinished)
        if not unfinished:
            break
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1
    return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers.tolist()]
