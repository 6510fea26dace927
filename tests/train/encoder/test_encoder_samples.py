"""Conversations become exactly the questions that build chose; every occurrence of a mention is a span."""

import numpy as np
import pytest
import torch

from uniner.encoder.model import encoder_logits
from uniner.records import Conversation
from uniner.templates import make_template, render_conversation
from uniner.train.encoder.samples import asked_passages, make_samples
from uniner.train.encoder.task import EncoderTask

CPU = torch.device("cpu")


def conversation(text, answers, template="type"):
    return Conversation(
        id="c",
        passage_id="p",
        conversations=render_conversation(text, answers, template=make_template(template, 2)),
        positive_types=(),
        negative_types=(),
        dataset="teacher",
        split="train",
    )


def samples_of(encoder, text, answers, max_width=4, template="type"):
    passages = asked_passages([conversation(text, answers, template)], make_template(template, 2))
    return make_samples(passages, encoder.collator(), max_width)


def held(samples):
    """The mentions of the samples as (type, text)."""
    found = []
    for sample in samples.samples:
        passage, window = samples.passages[sample.passage], sample.piece.window
        types = list(passage.asked)
        for first, last, place in sample.spans:
            start, end = window.words.starts[first], window.words.ends[last]
            found.append((types[sample.piece.prompt.numbers[place]], passage.text[start:end]))
    return sorted(found)


@pytest.mark.parametrize("template", ["type", "grouped", "all_in_one"])
def test_every_question_is_asked_and_every_occurrence_is_a_span(make_encoder, template):
    text = "Ann met Bo. Ann Lee saw Bo in Tarn, and Bo left."
    answers = {"person": ["Ann", "Bo", "Ann Lee"], "city": ["Tarn"], "river": []}
    samples = samples_of(make_encoder(), text, answers, template=template)
    assert list(samples.passages[0].asked) == ["person", "city", "river"]
    # "Ann" is not meant inside "Ann Lee".
    people = ["Ann", "Ann Lee", "Bo", "Bo", "Bo"]
    assert held(samples) == [("city", "Tarn"), *(("person", name) for name in people)]
    assert samples.counts["questions"] == 3 and samples.counts["mentions"] == 4


def test_mentions_that_no_span_holds_are_counted_by_reason(make_encoder):
    answers = {"a": ["Bo", "one two three four five", "elmora", "absent"]}
    samples = samples_of(make_encoder(), "Bo of Velmora said one two three four five", answers)
    assert held(samples) == [("a", "Bo")]
    counts = samples.counts
    assert (counts["too_wide"], counts["off_boundary"], counts["not_in_text"]) == (1, 1, 1)
    wide = samples_of(
        make_encoder(), "said one two three four five", {"a": ["one two three four five"]}, None
    )
    assert held(wide) == [("a", "one two three four five")]


def test_a_long_passage_with_many_types_keeps_every_mention(make_encoder):
    encoder = make_encoder(max_types=2)
    names = [f"{'abenlort'[number % 8]}{'abenlort'[number // 8 % 8]}x" for number in range(64)]
    text = " ".join(f"the {name} of" for name in names)
    answers = {f"type {kind}": names[kind::5] for kind in range(5)}
    samples = samples_of(encoder, text, answers)
    assert set(held(samples)) == {(kind, name) for kind, own in answers.items() for name in own}
    assert samples.counts["windows"] > 0 and len(samples.samples) == samples.per_passage[0]


@pytest.mark.parametrize("head", ["markerV0", "token_level"])
def test_the_loss_is_that_of_the_asked_types_alone(make_encoder, head):
    """Against a plain loop; a row that is filled up and an empty row cost nothing."""
    encoder = make_encoder(head=head)
    token_head = head == "token_level"
    short = samples_of(encoder, "Ann saw Tarn", {"person": ["Ann"], "city": ["Tarn"], "river": []}).samples
    long = samples_of(encoder, "Bo and Ann Lee left Velmora on 3 May", {"person": ["Ann Lee", "Bo"]}).samples
    task = EncoderTask(encoder.collator(), token_head)
    model = encoder.model.eval()
    together = task.loss(model, task.batch([*short, *long]), CPU)
    alone = sum(task.loss(model, task.batch([sample]), CPU) for sample in (*short, *long))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert task.loss(model, task.empty(), CPU) == 0
    batch = task.batch(short)
    logits = encoder_logits(model, batch.inputs, CPU)[0]
    spans = {(int(first), int(last), int(kind)) for _, first, last, kind in batch.spans}
    expected = 0.0
    if token_head:
        for word, kind, column in np.ndindex(*logits.shape):
            marks = (
                [{span[0]}, {span[1]}, set(range(span[0], span[1] + 1))]
                if (
                    span := next(
                        (span for span in spans if span[2] == kind and span[0] <= word <= span[1]), None
                    )
                )
                else [set(), set(), set()]
            )
            expected += cost(logits[word, kind, column], word in marks[column])
    else:
        for first, width, kind in np.ndindex(*logits.shape):
            if first + width < 3:
                expected += cost(logits[first, width, kind], (first, first + width, kind) in spans)
    torch.testing.assert_close(task.loss(model, batch, CPU).item(), expected, rtol=1e-4, atol=1e-4)


def cost(logit, is_mention):
    if is_mention:
        return 0.75 * -torch.nn.functional.logsigmoid(logit).item()
    return 0.25 * -torch.nn.functional.logsigmoid(-logit).item()
