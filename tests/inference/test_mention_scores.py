"""A mention's score: the product of its tokens' probabilities, wherever tokens start and end."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uniner.errors import UserError
from uniner.inference.mention_scores import AnswerPiece, mention_scores, split_answer, text_probability


def answer(*pieces: tuple[str, float]) -> list[AnswerPiece]:
    return [AnswerPiece(text, math.log(probability)) for text, probability in pieces]


def test_a_mention_scores_the_product_of_the_tokens_that_its_string_overlaps():
    scores = mention_scores(
        answer((" [", 0.1), ('"', 0.9), ("Ann", 0.8), (" Lee", 0.5), ('",', 0.7), (' "', 0.6), ("Bo", 0.4))
        + answer(('"', 1.0), ("]", 0.1))
    )
    assert list(scores) == [(None, "Ann Lee"), (None, "Bo")]
    assert scores[None, "Ann Lee"] == pytest.approx(0.9 * 0.8 * 0.5 * 0.7)
    assert scores[None, "Bo"] == pytest.approx(0.6 * 0.4)


def test_a_token_between_two_mentions_counts_for_both_and_a_repeated_mention_has_the_first_score():
    scores = mention_scores(
        answer(('["a', 0.9), ('", "', 0.5), ("b", 0.8), ('", "', 1), ("a", 0.1), ('"]', 1))
    )
    assert scores == pytest.approx({(None, "a"): 0.9 * 0.5, (None, "b"): 0.5 * 0.8})


def test_an_answer_that_names_types_gives_each_type_its_mentions():
    scores = mention_scores(
        answer(('{"person"', 0.1), (": ", 0.1), ('["Zoe"', 0.9), ('], "a \\" city" : [', 0.2))
        + answer(('"Zoe"', 0.3), (', "R\\u00f4me"', 0.4), ("]}", 0.1))
    )
    assert scores == pytest.approx(
        {("person", "Zoe"): 0.9, ('a " city', "Zoe"): 0.3, ('a " city', "Rôme"): 0.4}
    )


def test_an_empty_answer_has_no_mentions_and_a_mention_of_no_letters_a_score():
    assert mention_scores(answer(("[]", 0.9))) == mention_scores([]) == {}
    assert mention_scores(answer(('["', 0.5), ('"]', 0.5))) == {(None, ""): 0.25}


def test_a_probability_that_is_no_number_is_an_error_and_not_a_sure_mention():
    pieces = [AnswerPiece('["', 0.0), AnswerPiece("Ann", math.nan), AnswerPiece('"]', 0.0)]
    with pytest.raises(UserError, match=r"no numbers; set engine\.dtype"):
        mention_scores(pieces)
    with pytest.raises(UserError, match="no numbers"):
        text_probability(pieces)([(0, 6)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=4))
@example(["Łódź", "😀\u200d👩", "e\u0301\u0323", "עברית", "a\r\n\x00b", "\ufffd"])
def test_pieces_joined_are_the_answer_and_hold_each_mention(tokenizer, mentions):
    for text in (json.dumps(mentions, ensure_ascii=False), json.dumps(mentions)):
        ids = tokenizer(f" {text}", add_special_tokens=False).input_ids
        logprobs = [-0.001 * (number + 1) for number in range(len(ids))]
        pieces = split_answer(tokenizer, [*ids, tokenizer.eos_token_id], [*logprobs, -5.0])
        assert "".join(piece.text for piece in pieces) == f" {text}"
        assert sum(piece.logprob for piece in pieces) == pytest.approx(sum(logprobs))
        scores = mention_scores(pieces)
        assert list(scores) == [(None, mention) for mention in dict.fromkeys(mentions)]
        assert all(math.exp(sum(logprobs)) - 1e-9 <= score < 1 for score in scores.values())


def test_the_bytes_of_one_character_are_one_piece(tokenizer):
    ids = tokenizer("ź😀", add_special_tokens=False).input_ids
    assert len(ids) > 2
    assert [piece.text for piece in split_answer(tokenizer, ids, [-1.0] * len(ids))] == ["ź", "😀"]


def test_a_tokenizer_that_cannot_decode_token_by_token_gives_one_piece(tokenizer):
    class Slow:
        def decode(self, ids, **kwargs):
            return tokenizer.decode(ids, **kwargs)

    ids = tokenizer('["a"]', add_special_tokens=False).input_ids
    assert split_answer(Slow(), ids, [-1.0] * len(ids)) == (AnswerPiece('["a"]', -1.0 * len(ids)),)
    # An answer that is cut within a character: the stream does not return all of it.
    cut = tokenizer('["😀', add_special_tokens=False).input_ids[:-1]
    (piece,) = split_answer(tokenizer, cut, [-1.0] * len(cut))
    assert piece == AnswerPiece(tokenizer.decode(cut), -1.0 * len(cut))
