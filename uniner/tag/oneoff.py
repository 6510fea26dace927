"""A text tagged at once, for somebody who looks on: no run, no chunks, no Ray."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from uniner.engine import Engine
from uniner.ingest.passages import cut
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.report.collect import Example, inside
from uniner.report.page import colours_of
from uniner.report.terminal import marked
from uniner.storage import Chunk
from uniner.student import local_model
from uniner.tag.asker import Asker
from uniner.tag.selection import Rules
from uniner.tag.tagger import Tagger
from uniner.tag.types import Types
from uniner.templates import Template


async def tag(
    text: str,
    model: str,
    template: Template,
    types: Types,
    max_tokens: int,
    every_occurrence: bool,
    rules: Rules,
    settings: dict[str, Any],
) -> list[TaggedPassage]:
    """Cut a text as ingest does, into passages of at most so many tokens, and tag them.

    model and settings are an `Engine`'s, which lives no longer than this takes.
    """
    _hush()
    engine = Engine(local_model(model), lazy=True, **settings)
    passages = [
        Passage(
            str(piece.index), "", piece.index, piece.start, piece.end, text[piece.start : piece.end],
            piece.n_tokens, "", piece.overlap_before, piece.overlap_after,
        )
        for piece in cut(text, engine.tokenizer, max_tokens)
    ]  # fmt: skip
    try:
        tagger = Tagger(Asker(engine, template), types, every_occurrence, rules)
        done = await tagger(Chunk("text", to_table(passages, PASSAGE)))
    finally:
        await engine.close()
    return list(from_table(done.table, TaggedPassage))


def _hush() -> None:
    """Keep what torch and vLLM warn of, here and in the engine's process, from between text and reader."""
    warnings.simplefilter("ignore")
    for name, value in {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"}.items():
        os.environ.setdefault(name, value)


def show(text: str, passages: Sequence[TaggedPassage], console: Console) -> None:
    """Print the text with its entities in colour, and below it what is not in it, or broken."""
    if not passages:
        console.print("nothing to tag: the text is blank")
        return
    entities = tuple(entity for passage in passages for entity in passage.entities)
    example = Example(text.rstrip(), "", inside(replace(passages[0], char_start=0, entities=entities)))
    console.print(marked(example, colours_of([example])), soft_wrap=True)
    for entity in entities:
        if entity.start < 0:
            console.print(f"not in the text: {entity.text} [{entity.type}]", style="dim", markup=False)
    for passage in passages:
        if passage.outcome != "ok":
            failed = ", ".join(passage.failed_types)
            console.print(f"{passage.outcome}, from character {passage.char_start}: {failed}", markup=False)
