"""Odd passages, and one that kills the engine: each has its outcome."""

import asyncio
import contextlib
import json
import shutil
from dataclasses import replace

import pytest

from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import AnswerPiece
from uniner.inference.questions import QuestionAsker
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.tag import stage
from uniner.tag import student as tagging_student
from uniner.tag.tagger import EntityRules, Tagger, count_characters
from uniner.tag.types import TypeSelection
from uniner.templates import SINGLE_TYPE


class EmptyEngine:
    """An engine that finds nothing."""

    max_prompt_tokens = 256

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        yield

    async def ask(self, prompts):
        assert all(len(prompt) <= self.max_prompt_tokens for prompt in prompts)
        return [EngineAnswer("[]", "stop", (AnswerPiece("[]", -0.1),), 2) for _ in prompts]


def chunk_of(*texts):
    passages = [
        Passage(
            passage_id=f"d-{n}",
            doc_id="d",
            passage_index=n,
            char_start=0,
            char_end=len(text),
            text=text,
            n_tokens=1,
            source="",
        )
        for n, text in enumerate(texts)
    ]
    return Chunk("k", to_table(passages, PASSAGE))


def test_odd_passages_are_asked_like_any_other_and_one_longer_than_the_window_is_not(tokenizer):
    tagger = Tagger(
        QuestionAsker(EmptyEngine(tokenizer), SINGLE_TYPE), TypeSelection(("person",)), EntityRules()
    )
    texts = ["", "%&§ ((( ]]] \\ \x00 \U0001f4a5", " \n ", "word " * 900, "</s>"]
    done = asyncio.run(tagger(chunk_of(*texts)))
    rows = from_table(done.table, TaggedPassage)
    assert [row.passage_id for row in rows] == [f"d-{n}" for n in range(5)]
    assert [row.outcome for row in rows] == ["ok", "ok", "ok", "overlong", "ok"]
    counted = (done.figures["characters"], done.figures["cut_characters"])
    assert counted == (sum(map(len, texts)), len(texts[3]))


def test_a_passage_that_is_set_aside_keeps_its_place_and_has_a_reason(tokenizer):
    tagger = Tagger(
        QuestionAsker(EmptyEngine(tokenizer), SINGLE_TYPE), TypeSelection(("person", "city")), EntityRules()
    )
    done = tagger.set_aside(chunk_of("deadly"), "the reason")
    (row,) = from_table(done.table, TaggedPassage)
    assert (row.passage_id, row.outcome, row.entities) == ("d-0", "poison", ())
    assert row.failed_types == ("person", "city")
    assert done.rejects == [{"passage_id": "d-0", "reason": "the reason"}]
    assert done.figures == {"characters": 6, "cut_characters": 6}


def test_characters_in_an_overlap_count_once():
    left = Passage(
        passage_id="d-0",
        doc_id="d",
        passage_index=0,
        char_start=0,
        char_end=60,
        text="x" * 60,
        n_tokens=9,
        source="",
        overlap_after=15,
    )
    right = replace(
        left,
        passage_id="d-1",
        passage_index=1,
        char_start=45,
        char_end=100,
        text="x" * 55,
        overlap_before=15,
        overlap_after=0,
    )
    rows = [
        TaggedPassage(
            doc_id="d", passage_id=name, char_start=0, entities=(), outcome=outcome, failed_types=()
        )
        for name, outcome in (("", "ok"), ("", "overlong"))
    ]
    assert count_characters([left, right], rows) == {"characters": 100, "cut_characters": 47}


@pytest.mark.ray
def test_a_run_completes_with_odd_passages_and_reports_each_outcome(
    tmp_path, base, make_engine_config, stage_context, complete_stage, ray_session, monkeypatch
):
    texts = ["Ann left.", "", "%&§ ((( \x00 \U0001f4a5", "word " * 200, "the deadly one", "Ann came.", " \n "]

    def make(model, template, types, rules, settings):
        import contextlib  # Ray does not send names used in a class body to its workers with the function
        import os
        from types import SimpleNamespace

        class Letters:
            """A tokenizer with one token for each letter."""

            eos_token_id, bos_token_id = 0, None

            def __call__(self, text, **options):
                return SimpleNamespace(input_ids=[*map(ord, text)])

        class Engine:
            """Finds Ann; the process really ends at the deadly passage."""

            tokenizer, max_prompt_tokens = Letters(), 500

            @contextlib.asynccontextmanager
            async def admitted(self, questions):
                yield

            async def ask(self, prompts):
                texts = ["".join(map(chr, prompt)) for prompt in prompts]
                if any("deadly" in text for text in texts):
                    os._exit(1)
                answers = ['["Ann"]' if "Ann" in text else "[]" for text in texts]
                return [EngineAnswer(text, "stop", (AnswerPiece(text, -0.1),), 4) for text in answers]

        return Tagger(QuestionAsker(Engine(), template), types, rules)

    monkeypatch.setattr(tagging_student, "make_tagger", make)
    student = tmp_path / "student"
    shutil.copytree(base, student)
    facts = {"template": "type", "group_types": 5, "max_tokens": 512, "base": "", "types": ["person"]}
    (student / "uniner.json").write_text(json.dumps(facts))
    config = make_engine_config(
        tmp_path, base, engine={"max_chunk_crashes": 1, "max_bad_share": 1.0}, tag={"student": str(student)}
    )
    context = stage_context(stage, config)
    complete_stage(context.run_folder / "ingest", [chunk_of(*texts)])
    manifest, tag = stage.run(context), context.folder

    rows = from_table(tag.read_rows(), TaggedPassage)
    assert [row.passage_id for row in rows] == [f"d-{n}" for n in range(len(texts))]
    assert [row.outcome for row in rows] == ["ok", "ok", "ok", "overlong", "poison", "ok", "ok"]
    assert [len(row.entities) for row in rows] == [1, 0, 0, 0, 0, 1, 0]
    assert [row.failed_types for row in rows if row.outcome != "ok"] == [("person",), ("person",)]
    (reject,) = tag.read_rejects("k")
    assert reject["passage_id"] == "d-4" and reject["reason"].startswith("poison: ")
    assert manifest.outcomes == {"ok": 5, "overlong": 1, "poison": 1}
    assert manifest.results["input"] == {"chunks": 1, "rows": len(texts)}
    figures = manifest.figures
    assert figures["characters"] == sum(map(len, texts))
    assert figures["cut_characters"] == len(texts[3]) + len(texts[4])
