"""Validation F1 by generation: the student in training answers a sample of the validation questions.

The sharded model itself answers, greedily, so all workers run the same number of forward passes. Questions
and answers have the same form, and are counted in the same way, as in tag and evaluate. The expected answers
are the conversations', mostly the teacher's: the F1 shows how training goes, and is not evaluate's F1 on gold
data.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache

from uniner.metrics.counts import Counts
from uniner.metrics.matching import normalised, strict
from uniner.records import Conversation
from uniner.templates import Mentions, Renderer, Template
from uniner.train import varlen

_BATCH_QUESTIONS = 16  # decoded at a time; the batches do not depend on the number of workers


@dataclass(frozen=True)
class EvalQuestion:
    """A question about a passage: the types it asks for, and the expected mentions.

    head: ids of the passage, which all questions about it begin with. asked: ids of the question after it.
    answer_tokens: tokens of the expected answer with its end token. passage: its text.
    """

    head: tuple[int, ...]
    asked: tuple[int, ...]
    types: tuple[str, ...]
    expected: Mentions
    answer_tokens: int
    passage: str

    @property
    def prompt(self) -> tuple[int, ...]:
        """Return all ids of the prompt."""
        return self.head + self.asked


@dataclass(frozen=True, kw_only=True)
class GenerationScores:
    """The F1 over all questions, their number, and the number of broken answers."""

    f1: float
    questions: int
    broken: int


@dataclass(frozen=True)
class GenerationEval:
    """Questions, passage by passage, and the tokenizer and template that they were made with.

    max_answer_tokens: longest answer, as in evaluate.
    """

    questions: Sequence[EvalQuestion]
    tokenizer: Any
    template: Template
    max_answer_tokens: int = 256

    def run(
        self, model: Any, device: torch.device, progress: Callable[[int], None] = lambda _: None
    ) -> GenerationScores | None:
        """Score the model's answers; every worker must call this. Returns None if there are no questions.

        An answer longer than twice the longest expected answer is cut, which makes it broken. progress:
        called with the number of questions that all workers have answered.
        """
        if not self.questions:
            return None
        counts = Counts()
        broken = 0
        model.eval()
        with torch.no_grad(), _plain_attention(model), kept_gathered(model):
            for question, ids in self._local_answers(model, device, progress):
                mentions = self._parse(question, ids)
                broken += mentions is None
                for name in question.types:
                    predicted = normalised((mentions or {}).get(name, ()))
                    counts += strict(predicted, normalised(question.expected[name]))
        model.train()
        totals = torch.tensor([counts.tp, counts.fp, counts.fn, broken], device=device)
        dist.all_reduce(totals)
        *summed, broken = totals.tolist()
        f1 = round(Counts(*summed).f1, 6)
        return GenerationScores(f1=f1, questions=len(self.questions), broken=int(broken))

    def _local_answers(
        self, model: Any, device: torch.device, progress: Callable[[int], None]
    ) -> Iterator[tuple[EvalQuestion, Sequence[int]]]:
        """Yield this worker's questions with the ids of their answers."""
        window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or torch.inf
        longest = max(question.answer_tokens for question in self.questions)
        longest_prompt = max(len(question.prompt) for question in self.questions)
        limit = min(2 * longest, max(self.max_answer_tokens, *self._grown_limits()))
        max_ids = int(min(limit, window - longest_prompt))
        done = 0
        starts = range(0, len(self.questions), _BATCH_QUESTIONS)
        batches = [self.questions[start : start + _BATCH_QUESTIONS] for start in starts]
        for turn in zip_longest(*[iter(batches)] * dist.get_world_size()):
            batch = turn[dist.get_rank()]
            # Workers run in lockstep: one without a batch answers a question that is not counted.
            prompts = [(question.head, question.asked) for question in batch or self.questions[-1:]]
            answers = generate(model, prompts, max_ids, self.tokenizer.eos_token_id, device)
            yield from zip(batch or (), answers, strict=False)
            done += sum(len(batch or ()) for batch in turn)
            progress(done)

    def _grown_limits(self) -> Iterator[int]:
        """Yield the limits of answers that grow with their passages, as evaluate has them; 0 for others."""
        renderer = Renderer(self.tokenizer)
        for passage in {question.passage for question in self.questions}:
            size = renderer.answer_size(self.template, passage)
            yield size.longest if size else 0

    def _parse(self, question: EvalQuestion, ids: Sequence[int]) -> Mentions | None:
        """Return an answer's mentions; None if it is broken."""
        if ids[-1] != self.tokenizer.eos_token_id:
            return None
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        parsed = self.template.parse(question.types, text.strip(), question.passage)
        return parsed.mentions if parsed else None


def draw(
    conversations: Iterable[Conversation],
    tokenizer: Any,
    template: Template,
    *,
    most: int,
    max_tokens: int,
    seed: int,
    max_answer_tokens: int = 256,
) -> GenerationEval:
    """Draw conversations and take their questions, present and absent types alike, until there are `most`.

    Only questions that fit into max_tokens with their answers are taken.
    """
    renderer = Renderer(tokenizer)
    shuffled = list(conversations)
    Random(f"{seed} questions").shuffle(shuffled)
    drawn = (
        _question(conversation, place, renderer, template)
        for conversation in shuffled
        for place in range(2, len(conversation.conversations), 2)
    )
    fitting = (
        question
        for question in drawn
        if question and len(question.prompt) + question.answer_tokens <= max_tokens
    )
    # Passages of about the same length side by side, so that little is padded; the sort keeps each whole.
    questions = sorted(islice(fitting, most), key=lambda question: (-len(question.head), question.head))
    return GenerationEval(questions, tokenizer, template, max_answer_tokens)


def _question(
    conversation: Conversation, place: int, renderer: Renderer, template: Template
) -> EvalQuestion | None:
    """Return the question at a turn; None if it does not ask for types but settles the type of a mention."""
    values = [turn["value"] for turn in conversation.conversations]
    types, passage = template.types_of(values[place]), passage_of(conversation)
    expected = template.parse(types, values[place + 1], passage) if types else None
    if not types or expected is None:
        return None
    head, asked = renderer.head(f"Text: {passage}").ids, renderer.question(values[place]).ids
    tokens = len(renderer.answer(values[place + 1]))
    return EvalQuestion(head, asked, types, expected.mentions, tokens, passage)


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


@contextmanager
def kept_gathered(model: Any) -> Iterator[None]:
    """Have FSDP keep each layer's weights gathered after a forward pass: a token of an answer is a pass."""
    layers = [module for module in model.modules() if isinstance(module, FSDPModule) and module is not model]
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
        for module in (*layers, model):
            module.reshard()


def generate(
    model: Any,
    prompts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    max_ids: int,
    end: int,
    device: torch.device,
) -> list[list[int]]:
    """Continue prompts greedily up to the end token, which is included, or to max_ids ids.

    A prompt is the ids of a passage's head and of a question; heads that are equal are computed once. Every
    worker must call this, each with its own prompts. They stop together, when the last is done.
    """
    heads = {head: number for number, head in enumerate(dict.fromkeys(head for head, _ in prompts))}
    cache = DynamicCache()

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Continue the rows of the cache; return the most likely next ids. mask: of all ids so far."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].argmax(-1, keepdim=True)

    ids, mask = _padded_left(list(heads), end, device)
    forward(ids, mask)
    rows = torch.tensor([heads[head] for head, _ in prompts], device=device)
    cache.batch_select_indices(rows)
    ids, asked_mask = _padded_left([asked for _, asked in prompts], end, device)
    mask = torch.cat([mask[rows], asked_mask], 1)
    answers = torch.empty((len(prompts), 0), dtype=torch.long, device=device)
    for _ in range(max_ids):
        ids = forward(ids, mask)
        answers = torch.cat([answers, ids], 1)
        unfinished = (answers != end).all(1).any().int()
        dist.all_reduce(unfinished)
        if not unfinished:
            break
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers.tolist()]


def _padded_left(
    sequences: Sequence[Sequence[int]], filler: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sequences as a matrix whose rows end together, and its mask."""
    width = max(map(len, sequences))
    padding = [width - len(sequence) for sequence in sequences]
    ids = [[filler] * empty + list(sequence) for empty, sequence in zip(padding, sequences, strict=True)]
    mask = [[0] * empty + [1] * (width - empty) for empty in padding]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
