"""Long texts and many types: nothing is cut, and each mention is found once."""

import re

import pytest
import torch

from tests.encoder.conftest import HEADS
from uniner.errors import UserError
from uniner.inference.encoder import CPU_BATCH_TOKENS, EncoderSettings, EncoderTagger


class MarksCapitals(torch.nn.Module):
    """In place of the network: a word of a marked id is a mention of the types whose mark it has."""

    def __init__(self, shape, marked, mark_id):
        super().__init__()
        self.shape, self._marked, self._mark_id = shape, marked, mark_id
        self.text_encoder = None

    def forward(self, ids, mask, type_places, word_places, word_counts):
        kinds = ids.gather(1, type_places + 1)  # the token after a mark names the type
        words = ids.gather(1, word_places.clamp(min=0))
        hits = (words[:, :, None] == kinds[:, None]) & (word_places >= 0)[..., None]
        logits = torch.full((*hits.shape[:2], self.shape.max_width, hits.shape[2]), -9.0)
        logits[:, :, 0] = torch.where(hits, 9.0, -9.0)
        return logits


@pytest.fixture
def reads_names(make_encoder, monkeypatch):
    """A tagger that finds each type's own name in a text, and how its network was asked."""
    encoder = make_encoder()
    tagger = EncoderTagger(encoder, EncoderSettings(types_per_pass=2))
    tagger._model = MarksCapitals(encoder.model.shape, None, None)
    return tagger


def test_a_long_text_with_many_types_has_every_mention_once(reads_names):
    types = ["person", "city", "river", "date", "organisation"]
    text = " ".join(f"ann {types[number % 5]}" for number in range(1000))
    answer = reads_names.answer([(text, types)])[0]
    expected = {name: [match.span() for match in re.finditer(name, text)] for name in types}
    assert {reply.type: list(reply.spans) for reply in answer.answers} == expected
    assert answer.figures["windows"] > 20
    assert answer.figures["passes"] == 2
    assert "cut_tokens" not in answer.figures


def test_a_book_with_300_types_has_every_mention_once(make_encoder):
    encoder = make_encoder()
    encoder.config.update(max_len=384, max_types=25)
    encoder.model.text_encoder.config.max_position_embeddings = 2048
    encoder.tokenizer.model_max_length = 2048
    tagger = EncoderTagger(encoder, EncoderSettings())
    tagger._model = MarksCapitals(encoder.model.shape, None, None)
    names = ["person", "city", "river", "date", "organisation"]
    types = [f"{name} {first}{second}" for name in names for first in "abcdef" for second in "ghijklmnop"]
    text = " ".join(f"ann {names[number * 7 % 5]}" for number in range(10_000))
    answer = tagger.answer([(text, types)])[0]
    expected = {name: [match.span() for match in re.finditer(name, text)] for name in names}
    assert len(answer.answers) == len(types) == 300
    for reply in answer.answers:
        assert list(reply.spans) == expected[reply.type.split()[0]]
    assert answer.figures["windows"] > 50 and answer.figures["passes"] == 11
    assert "cut_tokens" not in answer.figures


def test_batches_on_cpu_are_small_and_of_like_rows(reads_names):
    sizes = []

    class Measures(MarksCapitals):
        def forward(self, ids, *rest):
            sizes.append(ids.shape)
            return super().forward(ids, *rest)

    reads_names._model = Measures(reads_names._model.shape, None, None)
    reads_names.answer([(f"ann {'city ' * count}", ["city"]) for count in range(5, 35) for _ in range(9)])
    assert all(rows * tokens <= CPU_BATCH_TOKENS for rows, tokens in sizes)
    assert len(sizes) < 20


def test_thresholds_go_by_type(make_encoder):
    encoder = make_encoder()
    question = ("Ann Lee of Velmora met Bo-Jon in Tarn", ["person", "city"])
    low = EncoderTagger(encoder, EncoderSettings(threshold=0.3)).answer([question])[0]
    settings = EncoderSettings(threshold=0.3, threshold_of_type={"city": 0.999})
    high = EncoderTagger(encoder, settings).answer([question])[0]
    assert low.answers[0].spans and low.answers[1].spans
    assert high.answers[0] == low.answers[0]
    assert high.answers[1].spans == ()


def test_the_best_score_keeps_its_digits_however_low(reads_names):
    (answer,) = reads_names.answer([("Ann", ["city"])])
    best = float(answer.answers[0].text)  # which a prefilter's threshold, such as 0.00012, is compared with
    assert best == pytest.approx(torch.sigmoid(torch.tensor(-9.0)).item(), rel=1e-3)


def test_texts_without_words_or_types_have_no_mentions(make_encoder):
    tagger = EncoderTagger(make_encoder(), EncoderSettings(threshold=0.1))
    answers = tagger.answer([("", ["city"]), (" \n", ["city"]), ("Ann", [])])
    assert [[reply.mentions for reply in answer.answers] for answer in answers] == [[()], [()], []]


@pytest.mark.parametrize("head", HEADS)
def test_scores_that_are_no_numbers_end_the_run(make_encoder, head):
    """Finite weights may overflow, above all in half precision: no mentions would be taken for none."""
    encoder = make_encoder(head=head)
    tagger = EncoderTagger(encoder, EncoderSettings())
    with torch.no_grad():
        for name, weight in encoder.model.named_parameters():
            if not name.startswith("token_rep_layer"):
                weight.mul_(1e30)
    with pytest.raises(UserError, match=r"no numbers in float32; set engine\.dtype=float32"):
        tagger.answer([("Ann Lee of Velmora met Bo-Jon in Tarn", ["person", "city"])])
