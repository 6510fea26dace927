"""Templates: how a passage is asked for types, as text and token ids, and how an answer is read."""

from uniner.templates.interface import AnsweredSpan, Mentions, Offsets, ParsedAnswer, Spans, Template
from uniner.templates.json_answers import (
    SINGLE_TYPE,
    MultiTypeTemplate,
    SingleTypeTemplate,
    parse_settling_answer,
    settling_question,
)
from uniner.templates.rendering import READ, SYSTEM, AnswerSize, Renderer, TokenBlock, render_conversation
from uniner.templates.words import WordsTemplate

__all__ = [
    "DEFAULT_GROUP_TYPES",
    "READ",
    "SINGLE_TYPE",
    "SYSTEM",
    "TEMPLATES",
    "AnswerSize",
    "AnsweredSpan",
    "Mentions",
    "MultiTypeTemplate",
    "Offsets",
    "ParsedAnswer",
    "Renderer",
    "SingleTypeTemplate",
    "Spans",
    "Template",
    "TokenBlock",
    "WordsTemplate",
    "default_group_types",
    "make_template",
    "parse_settling_answer",
    "render_conversation",
    "settling_question",
]

TEMPLATES = ("type", "definition", "grouped", "all_in_one", "words")
DEFAULT_GROUP_TYPES = {"grouped": 5, "words": 50}
"""Types per question of the templates that divide types into groups, where the config does not say it."""


def default_group_types(name: str) -> int:
    """Return the types per question of a template where the config does not say it."""
    return DEFAULT_GROUP_TYPES.get(name, 5)


def make_template(name: str, group_types: int | None = None) -> Template:
    """Return a template by its name.

    group_types: types per question of those that divide types into groups; None: as many as usual.
    """
    size = group_types or default_group_types(name)
    if name in ("type", "definition"):
        return SINGLE_TYPE
    if name == "words":
        return WordsTemplate(size)
    return MultiTypeTemplate(size if name == "grouped" else None)
