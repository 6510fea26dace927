"""A text tagged at once, for somebody who looks on: no run, no chunks, no Ray."""

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from uniner.inference.engine import Engine
from uniner.inference.questions import Asker
from uniner.passages import cut_passages
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.report.collect import Example, inside
from uniner.report.page import colours_of
from uniner.report.terminal import marked
from uniner.storage.model_folders import local_model
from uniner.storage.stage_folder import Chunk
from uniner.tag.entity_rules import Rules
from uniner.tag.tagger import Tagger
from uniner.tag.types import Types
from uniner.templates import Template


class TextTagger:
    """Tags texts with an engine of its own, which starts with the first of them.

    model and settings are an `Engine`'s; max_tokens: of a passage.
    """

    def __init__(
        self,
        model: str,
        template: Template,
        max_tokens: int,
        every_occurrence: bool,
        rules: Rules,
        settings: dict[str, Any],
    ):
        _hush()
        self._engine = Engine(local_model(model), lazy=True, **settings)
        self._asker, self._max_tokens = Asker(self._engine, template), max_tokens
        self._every_occurrence, self._rules = every_occurrence, rules

    async def tag(self, text: str, types: Types) -> list[TaggedPassage]:
        """Cut a text as ingest does, and tag its passages; none of a blank one."""
        passages = [
            Passage(
                passage_id=str(piece.index),
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
            for piece in cut_passages(text, self._engine.tokenizer, self._max_tokens)
        ]
        tagger = Tagger(self._asker, types, self._every_occurrence, self._rules)
        done = await tagger(Chunk("text", to_table(passages, PASSAGE)))
        return list(from_table(done.table, TaggedPassage))

    async def once(self, text: str, types: Types) -> list[TaggedPassage]:
        """Tag a text, and end the engine."""
        try:
            return await self.tag(text, types)
        finally:
            await self._engine.close()


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
    example = example_of(text.rstrip(), passages)
    console.print(marked(example, colours_of([example])), soft_wrap=True)
    for line in remarks(passages):
        console.print(line, style="dim", markup=False, highlight=False)


def example_of(text: str, passages: Sequence[TaggedPassage]) -> Example:
    """Return a text with the entities of its passages, the longer of two that overlap."""
    entities = tuple(entity for passage in passages for entity in passage.entities)
    whole = TaggedPassage(
        doc_id="", passage_id="", char_start=0, entities=entities, outcome="ok", failed_types=()
    )
    return Example(text, "", inside(whole))


def remarks(passages: Sequence[TaggedPassage]) -> Iterator[str]:
    """Yield lines about what is not in the text, and about what is broken."""
    for passage in passages:
        for entity in passage.entities:
            if entity.start < 0:
                yield f"not in the text: {entity.text} [{entity.type}]"
    for passage in passages:
        if passage.outcome != "ok":
            yield f"{passage.outcome}, from character {passage.char_start}: {', '.join(passage.failed_types)}"
