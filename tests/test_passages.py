"""Passages cover the text, have exact offsets and good ends; token counts of parts are exact."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from uniner import passages
from uniner.passages import TokenizedText, cut_passages, owns

WORDS = st.text(st.sampled_from("abcXYZ019.,!?\"'()é中🙂\u0301\u200f\x00"), min_size=1, max_size=30)
BLANKS = st.sampled_from([" ", "  ", "\n", "\n\n", "\r\n", "\t", " \n \n "])
TEXTS = st.lists(st.tuples(WORDS, BLANKS), max_size=60).map(lambda pairs: "".join(a + b for a, b in pairs))


def require_complete(text, pieces, tokenizer, max_tokens):
    position = 0
    for piece in pieces:
        assert not text[position : piece.start].strip(), "only blanks may be between passages"
        inside = text[piece.start : piece.end]
        assert inside == inside.strip() != ""
        assert piece.n_tokens == len(tokenizer(inside, add_special_tokens=False).input_ids) <= max_tokens
        position = piece.end
    assert not text[position:].strip()


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, max_tokens=st.sampled_from([8, 13, 40]))
def test_no_text_is_lost_and_no_passage_is_too_long(tokenizer, text, max_tokens):
    require_complete(text, list(cut_passages(text, tokenizer, max_tokens)), tokenizer, max_tokens)


def test_a_document_of_many_sections_is_cut_like_a_single_section(tokenizer, monkeypatch):
    monkeypatch.setattr(passages, "_SECTION_CHARACTERS", 300)
    text = " ".join(f"Sentence number {number} ends here." for number in range(400))
    pieces = list(cut_passages(text, tokenizer, 16))
    require_complete(text, pieces, tokenizer, 16)
    assert all(text[piece.end - 1] == "." or text[piece.end] == " " for piece in pieces)
    assert [piece.index for piece in pieces] == sorted({piece.index for piece in pieces})
    monkeypatch.setattr(passages, "_SECTION_CHARACTERS", 10**6)
    whole = list(cut_passages(text, tokenizer, 16))
    assert [piece.index for piece in whole] == list(range(len(whole)))
    assert abs(len(pieces) - len(whole)) <= len(whole) * 0.1


def test_only_wanted_sections_are_tokenised_with_the_same_passages(tokenizer, monkeypatch):
    monkeypatch.setattr(passages, "_SECTION_CHARACTERS", 300)
    text = " ".join(f"Sentence number {number} ends here." for number in range(400))
    encoded = []
    backend = tokenizer.backend_tokenizer

    class RecordingTokenizer:
        backend_tokenizer = property(lambda self: self)

        def __getattr__(self, name):
            return getattr(backend, name)

        def encode(self, piece, **settings):
            encoded.append(piece)
            return backend.encode(piece, **settings)

    some = list(cut_passages(text, RecordingTokenizer(), 16, wanted=lambda start, end: start <= 5_000 < end))
    assert set(some) < set(cut_passages(text, tokenizer, 16))
    assert any(piece.start <= 5_000 < piece.end + 1 for piece in some)
    assert sum(map(len, encoded)) < 3 * 300


def passages_of(text, spans):
    return [span.passage(text, "") for span in spans]


@settings(max_examples=80, deadline=None)
@given(
    text=TEXTS.map(lambda text: text[:400]),
    sizes=st.sampled_from([(8, 4), (13, 3), (40, 20), (40, 1)]),
    section=st.sampled_from([1, 10**6]),
)
def test_with_overlap_no_text_is_lost_and_each_span_has_one_owner(tokenizer, text, sizes, section):
    max_tokens, overlap_tokens = sizes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "_SECTION_CHARACTERS", section)
        pieces = list(cut_passages(text, tokenizer, max_tokens, overlap_tokens))
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
    records = passages_of(text, pieces)
    for start in range(0, len(text), 3):
        near = [passage for passage in records if passage.char_start <= start < passage.char_end]
        for end in (start + 1, start + 2, start + 5, start + 18):
            containing = [passage for passage in near if end <= passage.char_end]
            assert sum(owns(passage, start, end) for passage in containing) == bool(containing)


def test_an_overlap_repeats_the_last_words_so_that_a_span_at_a_cut_is_complete(tokenizer):
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma"
    plain, overlapping = (
        list(cut_passages(words, tokenizer, 24)),
        list(cut_passages(words, tokenizer, 24, 12)),
    )
    assert not any(piece.overlap_before or piece.overlap_after for piece in plain)
    assert all(piece.overlap_before > 0 for piece in overlapping[1:])
    assert all(piece.start == 0 or words[piece.start - 1] == " " for piece in overlapping)
    at_cut = words.rindex(" ", 0, plain[0].end - 1) + 1, words.index(" ", plain[0].end + 1)
    assert not [p for p in plain if p.start <= at_cut[0] and at_cut[1] <= p.end]
    assert [p for p in overlapping if p.start <= at_cut[0] and at_cut[1] <= p.end]


def test_passages_end_at_paragraphs_then_sentences_then_words(tokenizer):
    paragraphs = "One two three four five six.\n\nSeven eight nine. Ten eleven twelve thirteen."
    first = next(cut_passages(paragraphs, tokenizer, 24))
    assert paragraphs[: first.end] == "One two three four five six."
    sentences = "One two three four five six. Seven eight nine ten eleven twelve."
    first = next(cut_passages(sentences, tokenizer, 20))
    assert sentences[: first.end] == "One two three four five six."
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    ends = [piece.end for piece in cut_passages(words, tokenizer, 10)]
    assert all(end == len(words) or words[end] == " " for end in ends)


@pytest.mark.parametrize("text", ["", "   \n "])
def test_an_empty_text_has_no_passage(tokenizer, text):
    assert list(cut_passages(text, tokenizer, 10)) == []


TOKEN_WORDS = [
    "the", "of", "people's", "U.S.", "Müller-Lüdenscheidt", "3.141,59", "e\u0301t\u00e9", "中文字符", "🙂🙂",
    "(see", "http://x.org/a_b?c=1)", "isn't", "WORD", "\u0645\u0631\u062d", "½", "x²+y²", "foo_bar",
    '"quoted,"', "end.", "[MASK]", "<b>bold</b>", "\u200b", "\x07", "naïve…",
]  # fmt: skip
TOKEN_BLANKS = [" "] * 12 + ["  ", "\n", "\n\n", "\t", " \n", "\u00a0", "   "]
# As in the tokenizers of GPT-4, Llama 3 and Qwen: a run of non-letters includes the line ends after it.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def text_of(chance, words):
    return "".join(chance.choice(TOKEN_WORDS) + chance.choice(TOKEN_BLANKS) for _ in range(words)).strip()


def byte_level():
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return built, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)


def llama_2():
    """BPE over the whole text at once: only the vocabulary separates words."""
    built = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return built, trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], show_progress=False)


def unigram():
    built = Tokenizer(models.Unigram())
    built.normalizer = normalizers.NFKC()
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    return built, trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )


def bert():
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return built, trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "[MASK]"], show_progress=False
    )


def words_together():
    """Byte-level BPE with tokens that span blanks, like SuperBPE."""
    built, trainer = byte_level()
    built.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    return built, trainer


def trained(kind):
    chance = random.Random(1)
    built, trainer = kind()
    built.train_from_iterator([text_of(chance, 400) for _ in range(20)], trainer)
    if kind is llama_2:
        built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    built.add_tokens([AddedToken("the people's U.S. naïve", normalized=False)])
    return built


class CountingTokenizer:
    """The used part of a fast tokenizer of transformers; counts the characters it encodes."""

    def __init__(self, backend):
        self.backend, self.characters = backend, 0
        self.backend_tokenizer = self

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def encode(self, text, **settings):
        self.characters += len(text)
        return self.backend.encode(text, **settings)


@pytest.mark.parametrize("kind", [byte_level, llama_2, unigram, bert, words_together])
def test_a_part_has_the_token_count_of_the_part_alone(kind):
    backend, chance = trained(kind), random.Random(2)
    tokenizer = CountingTokenizer(backend)
    counted = 0
    for words in (3, 40, 300):
        for _ in range(8):
            text = text_of(chance, words) + chance.choice(["", " the people's U.S. naïve", "\n"])
            tokens = TokenizedText(text, tokenizer)
            for _ in range(30):
                start, end = sorted(chance.sample(range(len(text) + 1), 2))
                alone = backend.encode(text[start:end], add_special_tokens=False)
                assert tokens.count(start, end) == len(alone)
                counted += end - start
    if kind is words_together:
        assert tokenizer.characters >= counted
    else:
        assert tokenizer.characters < counted / 2


@pytest.mark.parametrize("kind", [byte_level, llama_2, unigram, bert])
def test_tokens_are_found_by_their_position(kind):
    backend = trained(kind)
    text = text_of(random.Random(3), 60)
    tokens = TokenizedText(text, CountingTokenizer(backend))
    starts = [start for start, _ in backend.encode(text, add_special_tokens=False).offsets]
    assert len(tokens) == len(starts) == tokens.first_from(len(text))
    assert [tokens.start_of(token) for token in range(len(tokens))] == starts
    for position in range(len(text)):
        assert tokens.first_from(position) == sum(start < position for start in starts)


def test_a_truncation_limit_of_the_tokenizer_is_ignored():
    backend = trained(byte_level)
    text = text_of(random.Random(4), 100)
    whole = len(backend.encode(text, add_special_tokens=False))
    backend.enable_truncation(8)
    assert len(TokenizedText(text, CountingTokenizer(backend))) == whole > 8
