"""Passages of which there is nothing to tag, and one that the engine dies of: each has its outcome."""

import asyncio
import contextlib

from uniner.engine import Answer
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage import Chunk
from uniner.tag.asker import Asker
from uniner.tag.confidence import Piece
from uniner.tag.selection import Rules
from uniner.tag.tagger import Tagger
from uniner.tag.types import Types
from uniner.templates import TYPE


class Silent:
    """An engine that finds nothing."""

    max_prompt_tokens = 256

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        yield

    async def ask(self, prompts):
        assert all(len(prompt) <= self.max_prompt_tokens for prompt in prompts)
        return [Answer("[]", "stop", (Piece("[]", -0.1),), 2) for _ in prompts]


def chunk_of(*texts):
    passages = [Passage(f"d-{n}", "d", n, 0, len(text), text, 1, "") for n, text in enumerate(texts)]
    return Chunk("k", to_table(passages, PASSAGE))


def test_odd_passages_are_asked_like_any_other_and_a_longer_one_than_the_window_is_not(tokenizer):
    tagger = Tagger(Asker(Silent(tokenizer), TYPE), Types(("person",)), True, Rules())
    texts = ["", "%&§ ((( ]]] \\ \x00 \U0001f4a5", " \n ", "word " * 900, "</s>"]
    done = asyncio.run(tagger(chunk_of(*texts)))
    rows = from_table(done.table, TaggedPassage)
    assert [row.passage_id for row in rows] == [f"d-{n}" for n in range(5)]
    assert [row.outcome for row in rows] == ["ok", "ok", "ok", "overlong", "ok"]


def test_a_passage_that_is_set_aside_keeps_its_place_and_says_why(tokenizer):
    tagger = Tagger(Asker(Silent(tokenizer), TYPE), Types(("person", "city")), True, Rules())
    done = tagger.set_aside(chunk_of("deadly"), "the reason")
    (row,) = from_table(done.table, TaggedPassage)
    assert (row.passage_id, row.outcome, row.entities) == ("d-0", "poison", ())
    assert row.failed_types == ("person", "city")
    assert done.rejects == [{"passage_id": "d-0", "reason": "the reason"}]
