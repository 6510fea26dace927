"""One question to an exported student, by vLLM: a folder that it cannot load is found where it was made."""

import asyncio
from typing import Any

from uniner.errors import UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.inference.questions import QuestionAsker, TypeAnswer
from uniner.records import Conversation, from_table
from uniner.storage.folder import Folder
from uniner.storage.model_folders import local_model
from uniner.templates import Template
from uniner.train.generation_eval import passage_of


def question(build: Folder, template: Template) -> tuple[str, tuple[str, ...]]:
    """Return the passage and types of a conversation's first question: one for validation, if any is."""
    first = None
    for chunk in build.require_manifest()["chunks"]:
        for one in from_table(build.read_chunk(chunk["key"]), Conversation):
            first = first or one
            if one.split == "validation":
                return _first_question(one, template)
    if first is None:
        raise UserError(f"{build.url}: no conversation to ask about")
    return _first_question(first, template)


def _first_question(one: Conversation, template: Template) -> tuple[str, tuple[str, ...]]:
    asked = one.conversations[2]["value"]
    types = template.types_of(asked)
    if types is None:
        raise UserError(f"conversation {one.id}: '{asked[:80]}' is not of student.template; build it anew")
    return passage_of(one), types


def ask(
    student: str, template: Template, passage: str, types: tuple[str, ...], settings: EngineSettings
) -> dict[str, Any]:
    """Load a student into vLLM with an engine's settings, and ask it. Returns passage, types and replies.

    What it says may be wrong, or broken: that is for evaluate to tell.

    Raises:
        UserError: where vLLM does not load it, or does not answer.
    """
    try:
        replies = asyncio.run(_ask(student, template, passage, types, settings))
    except Exception as error:  # vLLM and transformers have no kind of their own
        why = " ".join(str(error).split())[:300]
        raise UserError(not_answering(student, why)) from error
    told = [{"type": one.type, "outcome": one.outcome, "text": one.text} for one in replies]
    return {"passage": passage, "replies": told}


def not_answering(student: str, why: str) -> str:
    """Return the line that tells of a student that vLLM cannot be asked with."""
    return (
        f"train: the student {student} is written, but vLLM does not answer with it: {why}; the same "
        "command tries again, with train.check_export=false it asks nothing"
    )


async def _ask(
    student: str, template: Template, passage: str, types: tuple[str, ...], settings: EngineSettings
) -> tuple[TypeAnswer, ...]:
    engine = Engine(local_model(student), settings, lazy=True)
    try:
        return (await QuestionAsker(engine, template).ask(passage, types)).answers
    finally:
        await engine.close()
