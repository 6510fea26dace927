"""A small page to try a student on: text and types in, the text with its entities out. Gradio, no Ray."""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from uniner.errors import Stopped, UserError
from uniner.progress import say
from uniner.records import TaggedPassage
from uniner.report.page import colours_of
from uniner.tag.text_tagger import TextTagger, example_of, remarks
from uniner.tag.types import Types

_HOST = "127.0.0.1"
_SUGGESTED = 12
_COLUMNS = ("text", "type", "start", "end", "score", "grounding")


def serve(tagger: TextTagger, types: Sequence[str], port: int) -> None:
    """Serve the page on this machine's loopback until the job is stopped. types: suggested, the first few.

    Raises:
        UserError: where Gradio is missing or the port is taken.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # else it tells its makers of each start
    try:
        import gradio
    except ImportError:
        raise UserError("tag.page needs Gradio, which is not installed: pip install '.[page]'") from None

    async def answer(text: str, written: str) -> tuple[Any, list[list[Any]], str]:
        asked = named_types(written)
        if not asked:
            raise gradio.Error("Name a type to look for.")
        passages = await tagger.tag(text, Types(asked))
        pieces, colours = highlighted(text, passages)
        said = "\n".join(remarks(passages))
        return gradio.HighlightedText(value=pieces, color_map=colours), entity_rows(passages), said

    with gradio.Blocks(title="UniNER", analytics_enabled=False) as page:
        text = gradio.Textbox(label="Text", lines=6)
        written = gradio.Textbox(label="Types, separated by commas", value=", ".join(types[:_SUGGESTED]))
        button = gradio.Button("Tag", variant="primary")
        marked = gradio.HighlightedText(label="Entities and their scores")
        table = gradio.Dataframe(label="All entities", headers=list(_COLUMNS))
        said = gradio.Textbox(label="Not in the text, or broken")
        button.click(answer, [text, written], [marked, table, said], api_name="tag", concurrency_limit=16)
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
        raise UserError(f"tag.page: port {port} of {_HOST} cannot be had: {error}") from None
    say(f"tag: the page is at http://{_HOST}:{port}, until this job is stopped (Ctrl-C)")
    try:
        with contextlib.suppress(Stopped):
            page.block_thread()
    finally:
        page.close(verbose=False)


def named_types(written: str) -> tuple[str, ...]:
    """Return the types that somebody wrote, separated by commas or line breaks, each once."""
    names = (name.strip() for name in re.split(r"[,\n]", written))
    return tuple(dict.fromkeys(name for name in names if name))


def highlighted(
    text: str, passages: Sequence[TaggedPassage]
) -> tuple[list[tuple[str, str | None]], dict[str, str]]:
    """Cut a text into pieces, each with its label or None, together all of it; and each label's colour.

    A label is type and score; the colour is the type's.
    """
    example = example_of(text, passages)
    by_type = colours_of([example])
    pieces: list[tuple[str, str | None]] = []
    colours, position = {}, 0
    for entity in example.entities:
        label = f"{entity.type} {entity.score:.2f}"
        colours[label] = _darker(by_type[entity.type])
        pieces += [(text[position : entity.start], None), (text[entity.start : entity.end], label)]
        position = entity.end
    pieces.append((text[position:], None))
    return [piece for piece in pieces if piece[0]], colours


def _darker(colour: str) -> str:
    """Return a colour on which Gradio's white letters can be read; it lightens it for the mention itself."""
    return "#" + "".join(f"{int(colour[at : at + 2], 16) * 11 // 20:02x}" for at in (1, 3, 5))


def entity_rows(passages: Sequence[TaggedPassage]) -> list[list[Any]]:
    """Return all entities, also those that overlap others, as rows of the table below the text."""
    entities = [
        replace(entity, score=round(entity.score, 3)) for passage in passages for entity in passage.entities
    ]
    return [[getattr(entity, name) for name in _COLUMNS] for entity in entities]
