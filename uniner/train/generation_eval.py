"""Validation F1 by generation: the student in training answers a sample of the validation questions.

The sharded model itself answers, greedily, so all workers go through the same number of forward passes. It is
asked, and its answers are read and counted, as in tag and evaluate. What is right is what the conversations
say, the teacher's word mostly: it tells how the training goes, and is not evaluate's F1 on gold data.
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

_TOGETHER = 16  # questions decoded together: the same ones however many workers there are


@dataclass(frozen=True)
class Question:
    """A question that was put about a passage: the prompt's ids, the types asked for, what is right.

    answer_tokens: tokens of the right answer, its end token included.
    """

    prompt: tuple[int, ...]
    types: tuple[str, ...]
    right: Mentions
    answer_tokens: int


@dataclass(frozen=True)
class Quiz:
    """Questions, the longest first, and what asks them."""

    questions: Sequence[Question]
    tokenizer: Any
    template: Template

    def take(self, model: Any, device: torch.device) -> dict[str, float]:
        """Have the model answer; every worker must call this. Returns f1, questions and broken, or nothing.

        An answer that is longer than twice the longest right one is cut, and broken.
        """
        if not self.questions:
            return {}
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or torch.inf
        longest = max(question.answer_tokens for question in self.questions)
        most = int(min(2 * longest, room - len(self.questions[0].prompt)))
        counts, broken = Counts(), 0
        batches = [self.questions[at : at + _TOGETHER] for at in range(0, len(self.questions), _TOGETHER)]
        model.eval()
        with torch.no_grad(), _plainly(model):
            for turn in zip_longest(*[iter(batches)] * dist.get_world_size()):
                mine = turn[dist.get_rank()]
                asked = mine or self.questions[-1:]  # works in lockstep, though nobody counts it
                answers = answer(model, [each.prompt for each in asked], most, self._end, device)
                for question, ids in zip(mine or (), answers, strict=False):
                    found = self._read(question, ids)
                    broken += found is None
                    for name in question.types:
                        counts += strict(
                            normalised((found or {}).get(name, ())), normalised(question.right[name])
                        )
        model.train()
        model.reshard()  # without a backward pass, FSDP leaves the outer weights gathered
        told = torch.tensor([counts.tp, counts.fp, counts.fn, broken], device=device)
        dist.all_reduce(told)
        *summed, broken = told.tolist()
        f1 = Counts(*summed).f1
        return {"f1": round(f1, 6), "questions": len(self.questions), "broken": int(broken)}

    @property
    def _end(self) -> int:
        return self.tokenizer.eos_token_id

    def _read(self, question: Question, ids: Sequence[int]) -> Mentions | None:
        """Return what an answer says, None where it is broken."""
        if ids[-1] != self._end:
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
) -> Quiz:
    """Draw questions by the seed, for present and absent types as they come, that fit with their answers."""
    renderer = Renderer(tokenizer)
    places = [(one, place) for one in conversations for place in range(2, len(one.conversations), 2)]
    Random(f"{seed} quiz").shuffle(places)
    made = (_question(one, place, renderer, template) for one, place in places)
    fitting = (each for each in made if each and len(each.prompt) + each.answer_tokens <= max_tokens)
    return Quiz(sorted(islice(fitting, most), key=lambda each: -len(each.prompt)), tokenizer, template)


def _question(one: Conversation, place: int, renderer: Renderer, template: Template) -> Question | None:
    """Return a question of a conversation; None of one that asks for no types, but settles a mention's."""
    said = [turn["value"] for turn in one.conversations]
    types = template.types_of(said[place])
    right = template.parse(types, said[place + 1]) if types else None
    if not types or right is None:
        return None
    (prompt,) = renderer.prompts(passage_of(one), [said[place]])
    return Question(prompt, types, right, len(renderer.answer(said[place + 1])))


def passage_of(one: Conversation) -> str:
    """Return a conversation's passage: tag and evaluate name no data set."""
    said = one.conversations[0]["value"]
    return said.removeprefix(f"Dataset: {one.dataset}\n ").removeprefix("Text: ")


@contextmanager
def _plainly(model: Any) -> Iterator[None]:
    """Attend by SDPA and compile nothing: what training uses is made for packed rows, not for a cache."""
    before = model.config._attn_implementation
    if before.startswith(("flash", "flex")):
        model.set_attn_implementation("sdpa")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(before)


def answer(
    model: Any, prompts: Sequence[Sequence[int]], most: int, end: int, device: torch.device
) -> list[list[int]]:
    """Continue prompts greedily to the end token, which is told too, or to `most` ids.

    All workers must call this, each with prompts of its own: they stop together, when the last is done.
    """
    width = max(map(len, prompts))
    # Padded on the left, so that all go on at the same place.
    room = [width - len(prompt) for prompt in prompts]
    padded = [[end] * empty + list(prompt) for empty, prompt in zip(room, prompts, strict=True)]
    ids = torch.tensor(padded, device=device)
    seen = torch.tensor([[0] * empty + [1] * (width - empty) for empty in room], device=device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    cache, told = DynamicCache(), torch.empty((len(prompts), 0), dtype=torch.long, device=device)
    for _ in range(most):
        output = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        told = torch.cat([told, ids], 1)
        going = (told != end).all(1).any().int()
        dist.all_reduce(going)
        if not going:
            break
        seen = torch.cat([seen, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1
    return [_to_end(row, end) for row in told.tolist()]


def _to_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
