"""The generation eval: the sharded model answers as under transformers' generate, and is scored."""

import dataclasses
import json

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from uniner.records import Conversation
from uniner.templates import Renderer, make_template, render_conversation
from uniner.train import generation_eval, model
from uniner.train.generation_eval import GenerationScores

CPU = torch.device("cpu")
TYPE = make_template("type", 5)

pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture
def drawn(tokenizer, conversations):
    return generation_eval.draw(conversations, tokenizer, TYPE, most=20, max_tokens=256, seed=0)


def load(base):
    return model.load_sharded(
        AutoConfig.from_pretrained(base), model.read_base(str(base)), torch.float32, CPU
    )


def test_answers_are_those_of_transformers_whatever_the_padding(base, tokenizer, drawn):
    """A padded batch that shares its heads, against one prompt after the other."""
    questions = drawn.questions[:9]
    prompts = [question.prompt for question in questions]
    assert len({len(prompt) for prompt in prompts}) > 1
    assert 1 < len({question.head for question in questions}) < 9
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    end = tokenizer.eos_token_id
    settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": end, "pad_token_id": end}
    expected = [
        plain.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist() for prompt in prompts
    ]
    with torch.no_grad():
        pairs = [(question.head, question.asked) for question in questions]
        assert generation_eval.generate(load(base).eval(), pairs, 12, end, CPU) == expected


def test_answers_are_as_long_as_in_evaluate_and_weights_stay_gathered(base, tokenizer, drawn, monkeypatch):
    limits, sharded, generate = set(), [], generation_eval.generate

    def spied(model, prompts, max_ids, end, device):
        limits.add(max_ids)
        answers = generate(model, prompts, max_ids, end, device)
        sharded.append(any(isinstance(weight, DTensor) for weight in model.model.layers.parameters()))
        return answers

    monkeypatch.setattr(generation_eval, "generate", spied)
    net, done = load(base), []
    scores = dataclasses.replace(drawn, max_answer_tokens=3).run(net, CPU, done.append)
    assert limits == {3} and scores.broken > 0
    assert done == [16, 20]
    assert sharded == [False, False]
    assert all(isinstance(weight, DTensor) for weight in net.parameters())


def test_answers_are_scored_and_broken_ones_counted_apart(base, tokenizer, drawn, monkeypatch):
    """One mention is wrong, one answer broken, one cut; the rest is right."""
    renderer, limits = Renderer(tokenizer), set()
    texts = [json.dumps(list(question.expected[question.types[0]])) for question in drawn.questions]
    with_mentions = [place for place, text in enumerate(texts) if text != "[]"]
    wrong, broken, cut = with_mentions[:3]
    texts[wrong], texts[broken] = '["nobody"]', "[Berlin"
    pairs = zip(drawn.questions, texts, strict=True)
    answers = {(question.head, question.asked): renderer.answer(text).ids for question, text in pairs}
    last = drawn.questions[cut].head, drawn.questions[cut].asked
    answers[last] = answers[last][:-1]

    def generate(model, prompts, max_ids, end, device):
        limits.add(max_ids)
        return [list(answers[prompt]) for prompt in prompts]

    monkeypatch.setattr(generation_eval, "generate", generate)
    net = load(base)
    scores = drawn.run(net, CPU)
    tp = len(with_mentions) - 3  # false positive: nobody; false negatives: the three
    f1 = pytest.approx(2 * tp / (2 * tp + 1 + 3), abs=1e-6)
    assert scores == GenerationScores(f1=f1, questions=20, broken=2)
    assert limits == {2 * max(question.answer_tokens for question in drawn.questions)}
    assert net.training


def test_answers_that_repeat_the_passage_have_room_and_are_read_with_it(base, tokenizer, monkeypatch):
    words, limits = make_template("words"), set()
    rows = [
        Conversation(
            id="",
            passage_id="",
            conversations=render_conversation(text, {"city": ["Rome"]}, template=words),
            positive_types=("city",),
            negative_types=(),
            dataset="",
            split="validation",
        )
        for text in ["They went to Rome and then home.", "Rome."]
    ]
    drawn = generation_eval.draw(rows, tokenizer, words, most=9, max_tokens=256, seed=0, max_answer_tokens=3)
    right = {
        question.head: Renderer(tokenizer)
        .answer(words.render(question.passage, {"city": ["Rome"]})[0][1])
        .ids
        for question in drawn.questions
    }

    def generate(model, prompts, max_ids, end, device):
        limits.add(max_ids)
        return [list(right[head]) for head, _ in prompts]

    monkeypatch.setattr(generation_eval, "generate", generate)
    assert drawn.run(load(base), CPU) == GenerationScores(f1=1.0, questions=2, broken=0)
    assert limits == {2 * max(map(len, right.values()))}


def test_questions_have_tag_s_prompts_are_drawn_by_the_seed_and_fit(tokenizer, conversations):
    def draw(seed=0, most=20, max_tokens=256):
        return generation_eval.draw(
            conversations, tokenizer, TYPE, most=most, max_tokens=max_tokens, seed=seed
        )

    assert draw().questions == draw().questions != draw(1).questions
    everything = draw(most=1000).questions
    assert len(everything) == sum(len(row.conversations) // 2 - 1 for row in conversations)
    assert {bool(question.expected[question.types[0]]) for question in everything} == {True, False}
    limit = len(everything[10].prompt) + everything[10].answer_tokens
    assert 0 < len(draw(max_tokens=limit, most=1000).questions) < len(everything)
    assert draw(most=0).questions == [] and draw(most=0).run(None, CPU) is None

    answers = {"city": ["Rome"], "person": []}
    supervised = Conversation(
        id="c",
        passage_id="p",
        conversations=render_conversation("In Rome.", answers, "gold"),
        positive_types=("city",),
        negative_types=("person",),
        dataset="gold",
        split="",
    )
    questions = generation_eval.draw([supervised], tokenizer, TYPE, most=9, max_tokens=256, seed=0).questions
    expected = Renderer(tokenizer).prompts("In Rome.", [TYPE.question([name]) for name in answers])
    assert {question.prompt for question in questions} == set(expected)


def test_a_group_s_types_are_scored_and_settling_questions_are_not_asked(tokenizer):
    form = make_template("grouped", 2)
    conversation = render_conversation(
        "Ann of Bonn.", {"city": ["Bonn"], "person": [], "food": []}, template=form
    )
    asked = [turn["value"] for turn in conversation[2::2]]
    assert len(asked) == 3 and asked[2].startswith("Which of these")
    grouped = Conversation(
        id="c",
        passage_id="p",
        conversations=conversation,
        positive_types=(),
        negative_types=(),
        dataset="",
        split="",
    )
    questions = generation_eval.draw([grouped], tokenizer, form, most=9, max_tokens=512, seed=0).questions
    assert {question.types: dict(question.expected) for question in questions} == {
        ("city", "person"): {"city": ("Bonn",), "person": ()},
        ("food",): {"food": ()},
    }
