"""The quiz: the sharded model answers as transformers would let it, and what it says is counted."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from uniner.records import Conversation
from uniner.templates import Renderer, make_template, render_conversation
from uniner.train import generation_eval, model

CPU = torch.device("cpu")
TYPE = make_template("type", 5)

pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture
def drawn(tokenizer, conversations):
    return generation_eval.draw(conversations, tokenizer, TYPE, most=20, max_tokens=256, seed=0)


def load(base):
    return model.load(AutoConfig.from_pretrained(base), model.read(str(base)), torch.float32, CPU)


def test_answers_are_those_of_transformers_whatever_the_padding(base, tokenizer, drawn):
    """Prompts of different lengths together, the shard's passes with a cache, against one after the other."""
    prompts = [question.prompt for question in drawn.questions[::4]]
    assert len({len(prompt) for prompt in prompts}) > 1
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    end = tokenizer.eos_token_id
    settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": end, "pad_token_id": end}
    expected = [
        plain.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist() for prompt in prompts
    ]
    with torch.no_grad():
        assert generation_eval.answer(load(base).eval(), prompts, 12, end, CPU) == expected


def test_what_is_said_is_counted_and_the_broken_told_apart(base, tokenizer, drawn, monkeypatch):
    """One mention wrong, one answer broken, one cut; the rest right."""
    renderer, limits = Renderer(tokenizer), set()
    said = [json.dumps(list(each.right[each.types[0]])) for each in drawn.questions]
    with_mentions = [place for place, answer in enumerate(said) if answer != "[]"]
    wrong, broken, cut = with_mentions[:3]
    said[wrong], said[broken] = '["nobody"]', "[Berlin"
    asked = zip(drawn.questions, said, strict=True)
    answers = {each.prompt: renderer.answer(text).ids for each, text in asked}
    answers[drawn.questions[cut].prompt] = answers[drawn.questions[cut].prompt][:-1]

    def saying(model, prompts, most, end, device):
        limits.add(most)
        return [list(answers[prompt]) for prompt in prompts]

    monkeypatch.setattr(generation_eval, "answer", saying)
    net = load(base)
    found = drawn.take(net, CPU)
    tp = len(with_mentions) - 3  # false positive: nobody; false negatives: the three
    assert found == {"f1": pytest.approx(2 * tp / (2 * tp + 1 + 3), abs=1e-6), "questions": 20, "broken": 2}
    assert limits == {2 * max(each.answer_tokens for each in drawn.questions)}
    assert net.training


def test_questions_are_those_of_tag_drawn_by_the_seed_and_fit(tokenizer, conversations):
    def draw(seed=0, most=20, max_tokens=256):
        return generation_eval.draw(
            conversations, tokenizer, TYPE, most=most, max_tokens=max_tokens, seed=seed
        )

    assert draw().questions == draw().questions != draw(1).questions
    everything = draw(most=1000).questions
    assert len(everything) == sum(len(one.conversations) // 2 - 1 for one in conversations)
    assert {bool(question.right[question.types[0]]) for question in everything} == {True, False}
    limit = len(everything[10].prompt) + everything[10].answer_tokens
    assert 0 < len(draw(max_tokens=limit, most=1000).questions) < len(everything)
    assert draw(most=0).questions == [] and draw(most=0).take(None, CPU) == {}

    asked = {"city": ["Rome"], "person": []}
    supervised = Conversation(
        id="c",
        passage_id="p",
        conversations=render_conversation("In Rome.", asked, "gold"),
        positive_types=("city",),
        negative_types=("person",),
        dataset="gold",
        split="",
    )
    found = generation_eval.draw([supervised], tokenizer, TYPE, most=9, max_tokens=256, seed=0).questions
    expected = Renderer(tokenizer).prompts("In Rome.", [TYPE.question([name]) for name in asked])
    assert {question.prompt for question in found} == set(expected)


def test_a_group_s_types_are_scored_and_what_settles_is_not_asked(tokenizer):
    how = make_template("grouped", 2)
    conversation = render_conversation(
        "Ann of Bonn.", {"city": ["Bonn"], "person": [], "food": []}, template=how
    )
    asked = [turn["value"] for turn in conversation[2::2]]
    assert len(asked) == 3 and asked[2].startswith("Which of these")
    one = Conversation(
        id="c",
        passage_id="p",
        conversations=conversation,
        positive_types=(),
        negative_types=(),
        dataset="",
        split="",
    )
    found = generation_eval.draw([one], tokenizer, how, most=9, max_tokens=512, seed=0).questions
    assert {question.types: dict(question.right) for question in found} == {
        ("city", "person"): {"city": ("Bonn",), "person": ()},
        ("food",): {"food": ()},
    }
