"""Answers by torch alone: batches and rounds change nothing, and an answer ends as the engine's does."""

import asyncio

import pytest
import torch

from benchmarks import torch_engine
from uniner.quickstart.prepare import BASE
from uniner.templates import Renderer, make_template

TEXTS = [
    "Ann Berg joined Nordwind in Oslo on 3 May 2021.",
    "The drug lowered the fever within two days, said the clinic in Lima, and the team went on.",
    "Nothing.",
]
TYPES = ("person", "city", "company", "drug", "date")


def answers(batch, most=24):
    engine = torch_engine.TorchEngine(
        BASE, max_prompt_tokens=200, max_answer_tokens=most, device=torch.device("cpu"), dtype=torch.float32,
        batch=batch,
    )  # fmt: skip
    renderer, template = Renderer(engine.tokenizer), make_template("type", 1)

    async def ask_all():
        prompts = [renderer.prompts(text, [template.question([name]) for name in TYPES]) for text in TEXTS]
        found = await asyncio.gather(*(engine.ask(of_text) for of_text in prompts))
        return [answer for of_text in found for answer in of_text]

    return asyncio.run(ask_all())


@pytest.fixture
def small_rounds(monkeypatch):
    monkeypatch.setattr(torch_engine, "ROUND", 5)
    monkeypatch.setattr(torch_engine, "DROP_EVERY", 2)


def test_an_answer_does_not_depend_on_the_batch_or_the_rounds(small_rounds):
    together = answers(7)
    torch_engine.ROUND = torch_engine.DROP_EVERY = 10_000
    alone = answers(1)
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.finish for each in together] == [each.finish for each in alone]
    assert len({each.tokens for each in alone}) > 1  # some end earlier than others
    for one, other in zip(together, alone, strict=True):
        assert [piece.logprob for piece in one.pieces] == pytest.approx(
            [piece.logprob for piece in other.pieces], abs=1e-4
        )


def test_an_answer_is_cut_at_its_limit(small_rounds):
    cut = answers(4, most=2)
    assert {each.tokens for each in cut} == {2}
    assert "length" in {each.finish for each in cut}
