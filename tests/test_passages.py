"""Cutting: nothing is lost, offsets are exact, no piece is too long, ends are where readers expect them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniner import passages
from uniner.passages import cut, owns
from uniner.records import Passage

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


def test_a_document_of_many_sections_is_cut_like_any_other(tokenizer, monkeypatch):
    monkeypatch.setattr(passages, "_SECTION_CHARACTERS", 300)
    text = " ".join(f"Sentence number {number} ends here." for number in range(400))
    pieces = list(cut(text, tokenizer, 16))
    require_whole(text, pieces, tokenizer, 16)
    assert all(text[piece.end - 1] == "." or text[piece.end] == " " for piece in pieces)
    assert [piece.index for piece in pieces] == sorted({piece.index for piece in pieces})
    monkeypatch.setattr(passages, "_SECTION_CHARACTERS", 10**6)
    whole = list(cut(text, tokenizer, 16))
    assert [piece.index for piece in whole] == list(range(len(whole)))
    assert abs(len(pieces) - len(whole)) <= len(whole) * 0.1


def test_only_wanted_sections_are_tokenised_and_cut_as_in_the_whole(tokenizer, monkeypatch):
    monkeypatch.setattr(passages, "_SECTION_CHARACTERS", 300)
    text = " ".join(f"Sentence number {number} ends here." for number in range(400))
    seen = []
    backend = tokenizer.backend_tokenizer

    class Recording:
        backend_tokenizer = property(lambda self: self)

        def __getattr__(self, name):
            return getattr(backend, name)

        def encode(self, piece, **settings):
            seen.append(piece)
            return backend.encode(piece, **settings)

    some = list(cut(text, Recording(), 16, wanted=lambda start, end: start <= 5_000 < end))
    assert set(some) < set(cut(text, tokenizer, 16))
    assert any(piece.start <= 5_000 < piece.end + 1 for piece in some)
    assert sum(map(len, seen)) < 3 * 300


def made_into_passages(text, pieces):
    return [
        Passage(
            passage_id="",
            doc_id="",
            passage_index=piece.index,
            char_start=piece.start,
            char_end=piece.end,
            text=text[piece.start : piece.end],
            n_tokens=piece.n_tokens,
            source="",
            overlap_before=piece.overlap_before,
            overlap_after=piece.overlap_after,
        )
        for piece in pieces
    ]


@settings(max_examples=80, deadline=None)
@given(
    text=TEXTS.map(lambda text: text[:400]),
    sizes=st.sampled_from([(8, 4), (13, 3), (40, 20), (40, 1)]),
    section=st.sampled_from([1, 10**6]),
)
def test_with_an_overlap_nothing_is_lost_and_each_span_is_owned_once(tokenizer, text, sizes, section):
    max_tokens, overlap_tokens = sizes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "_SECTION_CHARACTERS", section)
        pieces = list(cut(text, tokenizer, max_tokens, overlap_tokens))
    covered = 0
    for before, piece in pairwise([None, *pieces]):
        assert not text[covered : piece.start].strip()
        assert piece.n_tokens == len(
            tokenizer(text[piece.start : piece.end], add_special_tokens=False).input_ids
        )
        assert piece.n_tokens <= max_tokens
        assert piece.end > covered
        if before:
            assert piece.start >= before.start
            assert before.overlap_after == piece.overlap_before == max(0, before.end - piece.start)
        covered = piece.end
    assert not text[covered:].strip()
    made = made_into_passages(text, pieces)
    for start in range(0, len(text), 3):
        near = [passage for passage in made if passage.char_start <= start < passage.char_end]
        for end in (start + 1, start + 2, start + 5, start + 18):
            whole_in = [passage for passage in near if end <= passage.char_end]
            assert sum(owns(passage, start, end) for passage in whole_in) == bool(whole_in)


def test_an_overlap_repeats_the_last_words_and_makes_spans_at_a_cut_whole(tokenizer):
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma"
    plain, overlapping = list(cut(words, tokenizer, 24)), list(cut(words, tokenizer, 24, 12))
    assert not any(piece.overlap_before or piece.overlap_after for piece in plain)
    assert all(piece.overlap_before > 0 for piece in overlapping[1:])
    assert all(piece.start == 0 or words[piece.start - 1] == " " for piece in overlapping)
    at_cut = words.rindex(" ", 0, plain[0].end - 1) + 1, words.index(" ", plain[0].end + 1)
    assert not [p for p in plain if p.start <= at_cut[0] and at_cut[1] <= p.end]
    assert [p for p in overlapping if p.start <= at_cut[0] and at_cut[1] <= p.end]


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
