"""The heads give the scores of GLiNER's definition, which forms every span's vector."""

import pytest
import torch

from uniner.encoder.model import SpanHead, TokenHead


def span_scores_by_definition(head, words, types):
    starts, ends = head.project_start(words), head.project_end(words)
    count = words.shape[1]
    scores = torch.full((len(words), count, head.max_width, types.shape[1]), -torch.inf)
    for first in range(count):
        for last in range(first, min(count, first + head.max_width)):
            span = head.out_project(torch.cat([starts[:, first], ends[:, last]], -1).relu())
            scores[:, first, last - first] = (span[:, None] * types).sum(-1)
    return scores


def token_scores_by_definition(head, words, types):
    word, word_factor = head.proj_token(words).chunk(2, -1)
    kind, kind_factor = head.proj_label(types).chunk(2, -1)
    count, kinds = words.shape[1], types.shape[1]
    both = [
        word[:, :, None].expand(-1, -1, kinds, -1),
        kind[:, None].expand(-1, count, -1, -1),
        word_factor[:, :, None] * kind_factor[:, None],
    ]
    return head.out_mlp(torch.cat(both, -1))


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_span_has_the_score_of_the_definition(count):
    torch.manual_seed(0)
    head = SpanHead(16, 5, 0.2).eval()
    words, types = torch.randn(2, count, 16), torch.randn(2, 3, 16)
    expected = span_scores_by_definition(head, words, types)
    torch.testing.assert_close(head(words, types), expected, atol=1e-5, rtol=1e-5)


def test_a_word_has_the_scores_of_the_definition():
    torch.manual_seed(0)
    head = TokenHead(16, 0.2).eval()
    words, types = torch.randn(2, 6, 16), torch.randn(2, 3, 16)
    expected = token_scores_by_definition(head, words, types)
    torch.testing.assert_close(head(words, types), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rnn", [0, 1])
@pytest.mark.parametrize("head", ["markerV0", "token_level"])
@pytest.mark.parametrize("kind", ["bert", "deberta", "modernbert"])
def test_what_fills_a_batch_up_changes_no_score(make_encoder, kind, head, rnn):
    from uniner.inference.encoder import EncoderSettings, EncoderTagger

    encoder = make_encoder(kind, head, num_rnn_layers=rnn)
    questions = [
        ("Ann Lee of Velmora met Bo-Jon.", ["person", "city"]),
        ("Tarn", ["river"]),
        ("The river Tarn flows by Velmora on 3 May 2021", ["river", "date", "city", "person"]),
    ]
    tagger = EncoderTagger(encoder, EncoderSettings(threshold=0.3))
    alone = [tagger.answer([question])[0] for question in questions]
    together = tagger.answer(questions)
    assert sum(len(reply.spans) for answer in alone for reply in answer.answers) > 5
    for one, other in zip(alone, together, strict=True):
        for reply, same in zip(one.answers, other.answers, strict=True):
            assert reply.spans == same.spans
            assert reply.span_scores == pytest.approx(same.span_scores, abs=1e-5)
