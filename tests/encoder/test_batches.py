"""Words, windows, passes and batches: nothing of a text is lost, and every mention has one owner."""

import copy
import dataclasses
import random

import numpy as np
import pytest

from uniner.encoder.batches import Piece
from uniner.encoder.words import WordTokenizer
from uniner.errors import UserError


@pytest.fixture(scope="module")
def collator(make_encoder):
    return make_encoder().collator(types_per_pass=3)


def random_text(seed, words):
    made = random.Random(seed)
    return " ".join("".join(made.choices("abenlortv-_3.,\u200b", k=made.randint(1, 9))) for _ in range(words))


def test_words_are_those_of_gliner_with_their_offsets(collator):
    text = "Bo-Jon_x,  ann's\n3.5%\u200b日本 end-"
    words = collator.tokenizer.texts([text])[0]
    found = [text[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    assert found == ["Bo-Jon_x", ",", "ann", "'", "s", "3", ".", "5", "%", "\u200b", "日本", "end", "-"]
    assert words.sizes[9] == 0  # a word that the tokenizer drops keeps its place


def test_ids_are_those_of_the_tokenizer(collator, make_encoder):
    tokenizer = make_encoder().tokenizer
    text = random_text(1, 30)
    words = collator.tokenizer.texts(["", text])[1]
    split = [text[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    whole = tokenizer(split, is_split_into_words=True)["input_ids"]
    assert [*collator.tokenizer.prefix, *words.ids, *collator.tokenizer.suffix] == whole


def test_padding_of_the_tokenizer_s_file_and_tokenizers_in_python_change_no_ids(make_encoder):
    """Some published tokenizers pad to 128 by their file."""
    text = random_text(2, 30)
    expected = WordTokenizer(make_encoder().tokenizer).texts([text])[0]
    padding = make_encoder().tokenizer
    words = WordTokenizer(padding)
    padding.backend_tokenizer.enable_padding(length=8)
    padding.backend_tokenizer.enable_truncation(2)
    assert words.texts([text])[0].ids.tolist() == expected.ids.tolist()
    plain = WordTokenizer(lambda words, **settings: padding(words, **settings))
    assert plain.texts([text])[0].ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_windows_hold_every_word_and_own_each_once(collator, seed):
    words = collator.tokenizer.texts([random_text(seed, 150)])[0]
    prompt = 20
    windows = collator.windows(words, prompt)
    assert len(windows) > 1
    owned = [word for window in windows for word in range(window.own_first, window.own_last)]
    assert owned == list(range(len(words)))
    for window in windows:
        assert len(window.words) <= collator.limits.words
        assert len(window.words.ids) + prompt + 2 <= collator.limits.tokens
        last = window.first + len(window.words)
        # A mention of max_width words that the window owns is whole in it.
        assert window.own_last == last or window.own_last + 3 <= last
        assert list(window.words.starts) == list(words.starts[window.first : last])


def test_a_word_longer_than_a_window_is_cut_and_counted(collator):
    narrow = copy.copy(collator)
    narrow.limits = dataclasses.replace(collator.limits, tokens=30)
    words = collator.tokenizer.texts(["a " + "an" * 40 + " b"])[0]
    windows = narrow.windows(words, 10)
    assert {word for window in windows for word in range(window.own_first, window.own_last)} == {0, 1, 2}
    assert sum(window.cut for window in windows) == words.sizes[1] - 18
    assert all(len(window.words.ids) <= 18 for window in windows)


def test_many_types_make_several_passes(collator):
    types = [f"type {number}" for number in range(8)]
    prompts = collator.prompts(types)
    assert [list(prompt.numbers) for prompt in prompts] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_a_type_that_is_longer_than_the_window_is_named(collator):
    with pytest.raises(UserError, match=r"has \d+ tokens, and the encoder reads types of at most 62; ask"):
        collator.prompts(["person", "ann lee " * 60])


def test_batches_keep_every_piece_and_the_limit(collator):
    texts = collator.tokenizer.texts([random_text(seed, seed) for seed in range(1, 40)])
    prompt = collator.prompts(["person", "city"])[0]
    pieces = [
        Piece(number, window, prompt)
        for number, words in enumerate(texts)
        for window in collator.windows(words, len(prompt.ids))
    ]
    groups = collator.batches(pieces, 300)
    assert sorted(id(piece) for group in groups for piece in group) == sorted(map(id, pieces))
    for group in groups:
        batch = collator.batch(group)
        assert batch.input_ids.size <= 300 or len(group) == 1
        for row, piece in enumerate(group):
            places = batch.word_places[row, : batch.word_counts[row]]
            sizes = piece.window.words.sizes
            first_ids = piece.window.words.ids[(np.cumsum(sizes) - sizes)[sizes > 0]]
            assert list(batch.input_ids[row, places[places >= 0]]) == list(first_ids)
            marks = batch.input_ids[row, batch.type_places[row]]
            assert set(marks) == {collator.prompts(["x"])[0].ids[0]}
