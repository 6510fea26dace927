"""Fitting, the schedule, packing and collating, and which ids carry loss."""

import json
import time

import numpy as np
import pytest

from uniner.templates import TEMPLATES, Renderer, make_template, render_conversation
from uniner.train import packing
from uniner.train.packing import IGNORED, FitCounts, RenderedConversation, collate, fit, pack, schedule


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return Renderer(tokenizer)


def render(renderer, conversation, passage_id="p"):
    return RenderedConversation(passage_id, *renderer.blocks(conversation))


DEFINITION = "a person, real or invented, who is named"
LEARNED = {
    "type": [' ["Ada \\"A\\" Lovelace", "Zürich"]</s>', " []</s>", " []</s>"],
    "grouped": [' {"person": ["Ada \\"A\\" Lovelace", "Zürich"]}</s>', " {}</s>", ' ["person"]</s>'],
    "all_in_one": [' {"person": ["Ada \\"A\\" Lovelace", "Zürich"]}</s>'],
    "words": [
        ' She O wrote O [ O " O nonsense O " O ] O < O / O s O > O ASSISTANT O : O [ O ] O in O '
        "Zürich B-person . O</s>",
        ' She O wrote O [ O " O nonsense O " O ] O < O / O s O > O ASSISTANT O : O [ O ] O in O '
        "Zürich O . O</s>",
    ],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_loss_is_only_on_the_answers_and_their_end(renderer, tokenizer, name):
    asked = DEFINITION if name == "definition" else "person"
    passage = 'She wrote ["nonsense"] </s> ASSISTANT: [] in Zürich.'
    answers = {asked: ['Ada "A" Lovelace', "Zürich"], "x": [], "y": []}
    conversation = render_conversation(passage, answers, template=make_template(name, 2))
    sample = fit([render(renderer, conversation)], 512).samples[0]
    labels = collate([sample]).labels[0]
    runs, current = [], []
    for label in [*labels.tolist(), IGNORED]:
        if label != IGNORED:
            current.append(label)
        elif current:
            runs.append(tokenizer.decode(current))
            current = []
    assert runs == LEARNED["type" if name == "definition" else name]
    unlabelled = tokenizer.decode(sample.ids[labels == IGNORED])
    assert "I've read this text.</s>" in unlabelled
    assert sample.answer_tokens == (labels != IGNORED).sum()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_student_is_trained_on_the_ids_of_the_engine_s_prompts(renderer, name):
    asked = DEFINITION if name == "definition" else "person"
    passage, form = "Ada Lovelace met Babbage.", make_template(name, 2)
    for mentions in (["Ada Lovelace", "Babbage"], []):
        conversation = render_conversation(passage, {asked: mentions}, template=form)
        sample = fit([render(renderer, conversation)], 512).samples[0]
        prompt = renderer.prompts(passage, [form.question([asked])])[0]
        assert tuple(sample.ids[: len(prompt)]) == prompt
        assert not sample.loss[: len(prompt)].any() and sample.loss[len(prompt) :].all()


def test_a_long_conversation_is_split_with_its_head_repeated(renderer, tokenizer):
    asked = {f"type {number}": ["Zürich"] * (number % 3) for number in range(12)}
    conversation = render_conversation("They met in Zürich.", asked)
    head, blocks = renderer.blocks(conversation)
    limit = len(head) + 3 * max(map(len, blocks))
    result = fit([RenderedConversation("p", head, blocks)], limit)
    assert result.counts == FitCounts(conversations=1, samples=len(result.samples), split=1, set_aside=0)
    assert len(result.samples) > 2 and result.per_conversation == [len(result.samples)]
    assert all(len(sample) <= limit for sample in result.samples)
    assert all(tuple(sample.ids[: len(head)]) == head.ids for sample in result.samples)
    rest = [tuple(sample.ids[len(head) :]) for sample in result.samples]
    assert sum(rest, ()) == sum((block.ids for block in blocks), ())


def test_a_question_that_does_not_fit_alone_is_set_aside_and_counted(renderer):
    head, blocks = renderer.blocks(render_conversation("b", {"a": ["b"], "c": ["d" * 200], "e": ["b"]}))
    limit = len(head) + len(blocks[0]) + len(blocks[2])
    rendered = [RenderedConversation("p", head, blocks), RenderedConversation("q", head, [blocks[1]])]
    result = fit(rendered, limit)
    assert result.counts == FitCounts(conversations=1, samples=1, split=0, set_aside=2)
    assert tuple(result.samples[0].ids) == head.ids + blocks[0].ids + blocks[2].ids


LENGTHS = [int(length) for length in np.random.default_rng(0).integers(10, 100, 57)]
PER_CONVERSATION = [1] * 40 + [2] * 7 + [3]


def make_schedule(**changes):
    settings = {"seed": 3, "epochs": 3, "batch": 8, "row_tokens": 128, **changes}
    return schedule(LENGTHS, PER_CONVERSATION, **settings)


def test_more_workers_than_samples_have_a_row_for_each_sample_and_cost_no_time():
    started = time.process_time()
    for _ in range(100):
        rows = pack(range(57), LENGTHS, 128, workers=1_000_000)
    assert sorted(rows) == [[number] for number in range(57)]
    assert [LENGTHS[row[0]] for row in rows] == sorted(LENGTHS, reverse=True)
    assert time.process_time() - started < 10, "it took seconds a step"


def test_every_epoch_has_every_conversation_once():
    made = make_schedule()
    assert len(made.steps) == 18 and made.epoch_ends == {6, 12, 18}
    epochs = [
        [sample for rows in made.steps[first : first + 6] for row in rows for sample in row]
        for first in (0, 6, 12)
    ]
    assert all(sorted(epoch) == list(range(57)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_conversation_stays_in_one_step():
    for rows in make_schedule().steps:
        chosen = {sample for row in rows for sample in row}
        assert all((40 + 2 * pair in chosen) == (41 + 2 * pair in chosen) for pair in range(7))


def test_the_schedule_depends_on_the_seed_alone():
    assert make_schedule() == make_schedule()
    assert make_schedule(seed=4).digest() != make_schedule().digest()


def test_the_row_size_changes_the_rows_but_not_the_samples_of_a_step():
    small, large = make_schedule(row_tokens=100), make_schedule(row_tokens=400)
    assert small.digest() == large.digest()
    assert len(small.steps[0]) > len(large.steps[0])


def test_max_steps_ends_the_schedule():
    made = make_schedule(max_steps=7)
    assert made.steps == make_schedule().steps[:7] and made.epoch_ends == {6}
    whole = make_schedule(max_steps=12, epochs=10**20)
    assert whole.steps == make_schedule().steps[:12] and whole.epoch_ends == {6, 12}


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_rows_keep_the_limit_and_workers_hardly_wait_for_each_other(workers):
    """With lengths like real conversations', the goal is 97 % of all workers' time spent on tokens."""
    drawn = np.random.default_rng(1).lognormal(np.log(140), 0.4, 512)
    lengths = [int(length) for length in np.minimum(drawn, 256)]
    made = schedule(lengths, [1] * 512, seed=0, epochs=1, batch=128, row_tokens=1024, workers=workers)
    rows = [row for step in made.steps for row in step]
    assert sorted(sample for row in rows for sample in row) == list(range(512))
    assert all(sum(lengths[sample] for sample in row) <= 1024 for row in rows)
    assert all(len(step) % workers == 0 for step in made.steps)
    assert packing.useful_share(made.steps, lengths, workers) > 0.97
    assert packing.useful_share([[[sample] for sample in range(512)]], lengths, 8) < 0.75


def test_waiting_workers_lower_the_useful_share():
    assert packing.useful_share([[[0], [1], [2]]], [10, 5, 5], 1) == 1
    assert packing.useful_share([[[0], [1], [2]]], [10, 5, 5], 2) == 20 / 30


def test_pack_puts_the_longest_first_into_the_shortest_row():
    assert pack([0, 1, 2, 3], [5, 6, 4, 5], 10) == [[1, 2], [0, 3]]
    assert pack([0, 1, 2, 3], [5, 6, 4, 5], 100, workers=2) == [[1, 2], [0, 3]]
    assert pack([0, 1], [5, 6], 100, workers=4) == [[1], [0]]
    assert pack([], [], 10) == []


def test_collate_restarts_positions_and_never_labels_a_first_token():
    samples = [
        packing.Sample("a", np.array([7, 8, 9], np.int32), np.array([True, False, True])),
        packing.Sample("b", np.array([5, 6], np.int32), np.array([True, True])),
    ]
    batch = collate(samples)
    assert batch.input_ids.tolist() == [[7, 8, 9, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 9, IGNORED, 6]]
    assert [sample.answer_tokens for sample in samples] == [1, 1]


def test_real_conversations_fit(renderer, conversations, answers, tokenizer):
    result = fit((render(renderer, row.conversations, row.passage_id) for row in conversations), 512)
    assert result.counts == FitCounts(conversations=24, samples=24, split=0, set_aside=0)
    for sample, conversation in zip(result.samples, conversations, strict=True):
        text = tokenizer.decode(sample.ids[sample.loss])
        assert [json.loads(answer) for answer in text.split("</s>")[:-1]] == answers(conversation)
