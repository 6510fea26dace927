"""Counts of parts are those of the parts alone, with tokenizers of every kind, at the price of the ends."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from uniner.ingest.tokens import Tokens

WORDS = [
    "the", "of", "people's", "U.S.", "Müller-Lüdenscheidt", "3.141,59", "e\u0301t\u00e9", "中文字符", "🙂🙂",
    "(see", "http://x.org/a_b?c=1)", "isn't", "WORD", "\u0645\u0631\u062d", "½", "x²+y²", "foo_bar",
    '"quoted,"', "end.", "[MASK]", "<b>bold</b>", "\u200b", "\x07", "naïve…",
]  # fmt: skip
BLANKS = [" "] * 12 + ["  ", "\n", "\n\n", "\t", " \n", "\u00a0", "   "]
# As in the tokenizers of GPT-4, Llama 3 and Qwen: what is no letter takes the line ends behind it along.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def text_of(chance, words):
    return "".join(chance.choice(WORDS) + chance.choice(BLANKS) for _ in range(words)).strip()


def byte_level():
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)


def llama_2():
    """BPE over the whole text at once: nothing but the vocabulary keeps words apart."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return made, trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], show_progress=False)


def unigram():
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made, trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )


def bert():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made, trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "[MASK]"], show_progress=False
    )


def words_together():
    """Byte-level BPE whose tokens go on over blanks, as SuperBPE's."""
    made, trainer = byte_level()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    return made, trainer


def trained(kind):
    chance = random.Random(1)
    made, trainer = kind()
    made.train_from_iterator([text_of(chance, 400) for _ in range(20)], trainer)
    if kind is llama_2:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.add_tokens([AddedToken("the people's U.S. naïve", normalized=False)])
    return made


class Counting:
    """A fast tokenizer of transformers, as far as it is used, that counts the characters it is given."""

    def __init__(self, backend):
        self.backend, self.characters = backend, 0
        self.backend_tokenizer = self

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def encode(self, text, **settings):
        self.characters += len(text)
        return self.backend.encode(text, **settings)


@pytest.mark.parametrize("kind", [byte_level, llama_2, unigram, bert, words_together])
def test_a_part_has_as_many_tokens_as_alone(kind):
    backend, chance = trained(kind), random.Random(2)
    tokenizer = Counting(backend)
    asked = 0
    for words in (3, 40, 300):
        for _ in range(8):
            text = text_of(chance, words) + chance.choice(["", " the people's U.S. naïve", "\n"])
            tokens = Tokens(text, tokenizer)
            for _ in range(30):
                start, end = sorted(chance.sample(range(len(text) + 1), 2))
                alone = backend.encode(text[start:end], add_special_tokens=False)
                assert tokens.count(start, end) == len(alone)
                asked += end - start
    if kind is words_together:
        assert tokenizer.characters >= asked
    else:
        assert tokenizer.characters < asked / 2


@pytest.mark.parametrize("kind", [byte_level, llama_2, unigram, bert])
def test_tokens_are_found_by_their_place(kind):
    backend = trained(kind)
    text = text_of(random.Random(3), 60)
    tokens = Tokens(text, Counting(backend))
    starts = [start for start, _ in backend.encode(text, add_special_tokens=False).offsets]
    assert len(tokens) == len(starts) == tokens.first_from(len(text))
    assert [tokens.start_of(token) for token in range(len(tokens))] == starts
    for position in range(len(text)):
        assert tokens.first_from(position) == sum(start < position for start in starts)


def test_a_limit_that_the_tokenizer_was_left_with_cuts_nothing():
    backend = trained(byte_level)
    text = text_of(random.Random(4), 100)
    whole = len(backend.encode(text, add_special_tokens=False))
    backend.enable_truncation(8)
    assert len(Tokens(text, Counting(backend))) == whole > 8
