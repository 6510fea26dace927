"""Cutting: nothing is lost, offsets are exact, no piece is too long, ends are where readers expect them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner.ingest import passages
from uniner.ingest.passages import cut

WORDS = st.text(st.sampled_from("abcXYZ019.,!?\"'()é中🙂\u0301\u200f\x00"), min_size=1, max_size=30)
BLANKS = st.sampled_from([" ", "  ", "\n", "\n\n", "\r\n", "\t", " \n \n "])
TEXTS = st.lists(st.tuples(WORDS, BLANKS), max_size=60).map(lambda pairs: "".join(a + b for a, b in pairs))


def require_whole(text, pieces, tokenizer, max_tokens):
    position = 0
    for piece in pieces:
        assert not text[position : piece.start].strip(), "only blanks may lie between pieces"
        inside = text[piece.start : piece.end]
        assert inside == inside.strip() != ""
        assert piece.n_tokens == len(tokenizer(inside, add_special_tokens=False).input_ids) <= max_tokens
        position = piece.end
    assert not text[position:].strip()


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, max_tokens=st.sampled_from([8, 13, 40]))
def test_nothing_is_lost_and_no_piece_is_too_long(tokenizer, text, max_tokens):
    require_whole(text, list(cut(text, tokenizer, max_tokens)), tokenizer, max_tokens)


def test_a_document_of_many_windows_is_cut_like_any_other(tokenizer, monkeypatch):
    monkeypatch.setattr(passages, "_WINDOW_CHARACTERS", 300)
    text = " ".join(f"Sentence number {number} ends here." for number in range(400))
    pieces = list(cut(text, tokenizer, 16))
    require_whole(text, pieces, tokenizer, 16)
    monkeypatch.setattr(passages, "_WINDOW_CHARACTERS", 10**6)
    whole = list(cut(text, tokenizer, 16))
    assert abs(len(pieces) - len(whole)) <= len(whole) * 0.1


def test_it_cuts_at_paragraphs_then_sentences_then_words(tokenizer):
    paragraphs = "One two three four five six.\n\nSeven eight nine. Ten eleven twelve thirteen."
    first = next(cut(paragraphs, tokenizer, 24))
    assert paragraphs[: first.end] == "One two three four five six."
    sentences = "One two three four five six. Seven eight nine ten eleven twelve."
    first = next(cut(sentences, tokenizer, 20))
    assert sentences[: first.end] == "One two three four five six."
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    ends = [piece.end for piece in cut(words, tokenizer, 10)]
    assert all(end == len(words) or words[end] == " " for end in ends)


@pytest.mark.parametrize("text", ["", "   \n "])
def test_an_empty_text_has_no_passage(tokenizer, text):
    assert list(cut(text, tokenizer, 10)) == []
