"""Texts tagged in this process, shown in the terminal or on a Gradio page. No run, no Ray."""

import asyncio
import contextlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from rich.console import Console

from uniner.display import TaggedText, displayed_entities, terminal_text, type_colours, visible
from uniner.errors import Stopped, UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.inference.questions import QuestionAsker
from uniner.labels import is_visible, stripped
from uniner.passages import PassageSpan, cut_passages
from uniner.records import PASSAGE, Passage, TaggedEntity, TaggedPassage, from_table, to_table
from uniner.storage.model_folders import local_model
from uniner.storage.stage_folder import Chunk
from uniner.tag.rules import describe_rules, rule_lines
from uniner.tag.tagger import EncoderWorker, EntityRules, PassageTagger, Tagger
from uniner.tag.types import TypeSelection
from uniner.templates import Template

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_SUGGESTED_TYPES = 12
_COLUMNS = ("text", "type", "start", "end", "score", "grounding")


@dataclass(frozen=True)
class TextTags:
    """A text's passages with their entities, and a line for each rule that did something."""

    passages: list[TaggedPassage]
    rules: list[str]

    @classmethod
    def of(cls, chunk: Chunk, rules: EntityRules) -> "TextTags":
        """Read them from the chunk that a tagger returns."""
        did = describe_rules(rules.patterns, chunk.figures, chunk.examples)
        return cls(list(from_table(chunk.table, TaggedPassage)), rule_lines(did))


class TextTagger:
    """Tags texts with an engine of its own, which starts with the first text.

    model: folder, s3:// address or hub name. max_tokens: length of a passage.
    """

    def __init__(
        self, model: str, template: Template, max_tokens: int, rules: EntityRules, settings: EngineSettings
    ):
        _silence_warnings()
        self._engine = Engine(local_model(model), settings, lazy=True)
        self._asker = QuestionAsker(self._engine, template)
        self._max_tokens, self._rules = max_tokens, rules

    async def tag(self, text: str, types: TypeSelection) -> TextTags:
        """Cut a text into passages as ingest does, and tag them."""
        passages = cut_text(text, self._engine.tokenizer, self._max_tokens)
        tagger = Tagger(self._asker, types, self._rules)
        return TextTags.of(await tagger(Chunk("text", to_table(passages, PASSAGE))), self._rules)

    async def tag_once(self, text: str, types: TypeSelection) -> TextTags:
        """Tag a text, and end the engine."""
        try:
            return await self.tag(text, types)
        finally:
            await self._engine.close()


class EncoderTextTagger:
    """Tags texts with an encoder in this process, which `start` loads with the first text."""

    def __init__(self, start: Callable[[], PassageTagger], rules: EntityRules):
        _silence_warnings()
        self._start, self._rules = start, rules
        self._encoder: PassageTagger | None = None

    async def tag(self, text: str, types: TypeSelection) -> TextTags:
        """Tag a text as one passage: the encoder reads it in windows."""
        passages = whole_text(text)
        if not passages:
            return TextTags([], [])
        if self._encoder is None:
            self._encoder = await asyncio.to_thread(self._start)
        tagger = EncoderWorker(self._encoder, types, self._rules)
        return TextTags.of(await tagger(Chunk("text", to_table(passages, PASSAGE))), self._rules)

    async def tag_once(self, text: str, types: TypeSelection) -> TextTags:
        """Tag a text."""
        return await self.tag(text, types)


def cut_text(text: str, tokenizer: Any, max_tokens: int, doc_id: str = "") -> list[Passage]:
    """Return a text's passages, cut as ingest cuts them. A blank text has none."""
    spans = cut_passages(text, tokenizer, max_tokens)
    return [span.passage(text, str(span.index), doc_id) for span in spans]


def whole_text(text: str, doc_id: str = "") -> list[Passage]:
    """Return a text as one passage, for an encoder, which reads it in windows. A blank text has none."""
    return [PassageSpan(0, len(text), 0, 0).passage(text, "0", doc_id)] if text.strip() else []


def read_input(stream: BinaryIO) -> str:
    """Read a text to tag from standard input.

    Raises:
        UserError: it is not UTF-8.
    """
    return require_text(stream.read().decode("utf-8", "surrogateescape"))


def require_text(text: str) -> str:
    """Return a text of the command line or of standard input, whose bytes that are not UTF-8 are surrogates.

    Raises:
        UserError: it has such bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text is not UTF-8 (character {error.start + 1:,}); convert it, for instance with "
            "`iconv -f LATIN1 -t UTF-8`"
        ) from None
    return text


def _silence_warnings() -> None:
    """Keep warnings of torch and vLLM, here and in the engine's process, out of the output."""
    warnings.simplefilter("ignore")
    for name, value in {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"}.items():
        os.environ.setdefault(name, value)


def tagged_text(text: str, passages: Sequence[TaggedPassage]) -> TaggedText:
    """Return a text with the entities of its passages that can be displayed together."""
    entities = displayed_entities(entity for passage in passages for entity in passage.entities)
    return TaggedText(text=text, source="", entities=entities)


def remarks(passages: Sequence[TaggedPassage]) -> Iterator[str]:
    """Yield a line for each ungrounded entity, then for each passage with failed questions."""
    for passage in passages:
        for entity in passage.entities:
            if entity.start < 0:
                yield f"not in the text: {entity.text} [{entity.type}]"
    for passage in passages:
        if passage.outcome != "ok":
            yield f"{passage.outcome}, from character {passage.char_start}: {', '.join(passage.failed_types)}"


def print_text(text: str, tags: TextTags, console: Console) -> None:
    """Print the text with its entities in colour; below it their scores, the remarks, and what rules did."""
    if not tags.passages:
        console.print("nothing to tag: the text is blank")
        return
    tagged = tagged_text(text.rstrip(), tags.passages)
    console.print(terminal_text(tagged, type_colours([tagged])), soft_wrap=True)
    for line in (*_score_lines(tags.passages), *remarks(tags.passages), *tags.rules):
        console.print(visible(line), style="dim", markup=False, highlight=False)


def _score_lines(passages: Sequence[TaggedPassage]) -> Iterator[str]:
    """Yield a line of the entities and scores of each type, the surest first."""
    by_type: dict[str, list[TaggedEntity]] = {}
    for passage in passages:
        for entity in passage.entities:
            by_type.setdefault(entity.type, []).append(entity)
    for name, entities in by_type.items():
        scored = sorted(entities, key=lambda entity: -entity.score)
        yield f"{name}: {', '.join(f'{entity.text} {entity.score:.2f}' for entity in scored)}"


def serve_page(
    tagger: TextTagger | EncoderTextTagger,
    types: Sequence[str],
    select: Callable[[Sequence[str]], TypeSelection],
    port: int,
) -> None:
    """Serve the page on this machine's loopback address until the job is stopped.

    types: the first few are suggested. select: says how the types that somebody types in are asked.

    Raises:
        UserError: Gradio is missing or the port is taken.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # else Gradio reports each start to its makers
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio, which is not installed: pip install 'uniner[page]'") from None

    async def tag(text: str, type_names: str) -> tuple[Any, list[list[Any]], str]:
        names = parse_types(type_names)
        if not names:
            raise gradio.Error("Name a type to look for, such as person.")
        try:
            tags = await tagger.tag(require_text(text), select(names))
        except UserError as error:
            raise gradio.Error(str(error)) from None
        pieces, colours = highlighted(text, tags.passages)
        marked = gradio.HighlightedText(value=pieces, color_map=colours)
        return marked, entity_rows(tags.passages), "\n".join([*remarks(tags.passages), *tags.rules])

    with gradio.Blocks(title="UniNER", analytics_enabled=False) as page:
        text = gradio.Textbox(label="Text", lines=6)
        type_names = gradio.Textbox(
            label="Types, separated by commas", value=", ".join(types[:_SUGGESTED_TYPES])
        )
        button = gradio.Button("Tag", variant="primary")
        marked = gradio.HighlightedText(label="Entities and their scores")
        table = gradio.Dataframe(label="All entities", headers=list(_COLUMNS))
        lines = gradio.Textbox(label="Not in the text or failed; what rules did")
        button.click(tag, [text, type_names], [marked, table, lines], api_name="tag", concurrency_limit=16)
    try:
        page.launch(
            server_name=_HOST,
            server_port=port,
            quiet=True,
            share=False,
            ssr_mode=False,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(f"the page cannot use port {port} of {_HOST}: {error}; take another port") from None
    log.info(f"tag: the page is at http://{_HOST}:{port}, until this job is stopped (Ctrl-C)")
    try:
        with contextlib.suppress(Stopped):
            page.block_thread()
    finally:
        page.close(verbose=False)


def parse_types(names: str) -> tuple[str, ...]:
    """Return the types in a text, separated by commas or line breaks, each once."""
    return tuple(dict.fromkeys(filter(is_visible, map(stripped, re.split(r"[,\n]", names)))))


def highlighted(
    text: str, passages: Sequence[TaggedPassage]
) -> tuple[list[tuple[str, str | None]], dict[str, str]]:
    """Return a text in pieces, each with its label or None, and the labels' colours, as Gradio takes them.

    A label is type and score; the colour is the type's.
    """
    tagged = tagged_text(text, passages)
    by_type = type_colours([tagged])
    labels = {entity: f"{entity.type} {entity.score:.2f}" for entity in tagged.entities}
    colours = {label: _darker(by_type[entity.type]) for entity, label in labels.items()}
    return [(piece, labels[entity] if entity else None) for piece, entity in tagged.pieces], colours


def _darker(colour: str) -> str:
    """Return a colour dark enough for Gradio's white letters; Gradio lightens it for the mention itself."""
    return "#" + "".join(f"{int(colour[at : at + 2], 16) * 11 // 20:02x}" for at in (1, 3, 5))


def entity_rows(passages: Sequence[TaggedPassage]) -> list[list[Any]]:
    """Return all entities, overlapping ones included, as rows of the table below the text."""
    return [
        [round(entity.score, 3) if name == "score" else getattr(entity, name) for name in _COLUMNS]
        for passage in passages
        for entity in passage.entities
    ]
