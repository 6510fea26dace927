"""GLiNER's own library with tiny random weights; skipped where it is not installed."""

import asyncio

import pytest

from uniner.evaluate.systems.gliner import GlinerTagger

TEXT = "Ann Lee of Velmora met Bo in Tarn. "


@pytest.fixture
def model(word_pieces, tmp_path):
    gliner = pytest.importorskip("gliner")
    import torch
    from transformers import BertConfig, BertModel

    encoder = tmp_path / "encoder"
    encoder.mkdir()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vocabulary = word_pieces([TEXT + "person city"] * 5, 200, encoder)
    config = BertConfig(vocab_size=vocabulary, max_position_embeddings=128, **sizes)
    BertModel(config).save_pretrained(encoder)
    settings = gliner.GLiNERConfig(
        model_name=str(encoder), hidden_size=32, max_width=4, max_len=12, span_mode="markerV0", has_rnn=False
    )
    gliner.GLiNER.from_config(settings).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_it_tags_a_whole_passage_in_pieces_with_spans_and_scores(model):
    passage = TEXT * 3  # 27 words, and it reads 12
    system = GlinerTagger(model, threshold=0.4, batch_passages=2, on_gpu=False)
    questions = [(passage, ["person", "city"]), ("Bo.", ["city"]), ("", ["city"])]
    answers = asyncio.run(system.ask_all(questions))
    assert [[reply.type for reply in answer.answers] for answer in answers] == [
        ["person", "city"],
        ["city"],
        ["city"],
    ]
    replies = [reply for answer in answers for reply in answer.answers]
    for (text, _), answer in zip(questions, answers, strict=True):
        for reply in answer.answers:
            assert {text[start:end] for start, end in reply.spans} == set(reply.scores)
    assert max(end for reply in replies[:2] for _, end in reply.spans) > len(passage) - len(TEXT)
    assert all(0.4 <= score <= 1 for reply in replies for score in reply.scores.values())
    assert replies[3].mentions == ()
