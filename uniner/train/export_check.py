"""Check an exported student: load it into vLLM and ask one question, so that a broken folder is noticed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from uniner.errors import UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.inference.questions import QuestionAsker, TypeAnswer
from uniner.records import Conversation, from_table
from uniner.storage.model_folders import local_model
from uniner.storage.stage_folder import StageFolder
from uniner.templates import Template
from uniner.train.generation_eval import passage_of


@dataclass(frozen=True, kw_only=True)
class ExportReply:
    """The student's answer for a type, and its outcome."""

    type: str
    outcome: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ExportAnswer:
    """The passage that the exported student was asked about, and its replies."""

    passage: str
    replies: list[ExportReply]


def first_question(build: StageFolder, template: Template) -> tuple[str, tuple[str, ...]]:
    """Return the passage and types of a conversation's first question: a validation conversation, if any."""
    first = None
    for chunk in build.require_manifest().chunks:
        for conversation in from_table(build.read_chunk(chunk.key).table, Conversation):
            first = first or conversation
            if conversation.split == "validation":
                return _first_question(conversation, template)
    if first is None:
        raise UserError(f"{build.url}: no conversation to ask about")
    return _first_question(first, template)


def _first_question(conversation: Conversation, template: Template) -> tuple[str, tuple[str, ...]]:
    question = conversation.conversations[2]["value"]
    types = template.types_of(question)
    if types is None:
        raise UserError(
            f"conversation {conversation.id}: the question '{question[:80]}' is not of student.template; "
            "run build again with this template"
        )
    return passage_of(conversation), types


def ask(
    student: str, template: Template, passage: str, types: Sequence[str], settings: EngineSettings
) -> ExportAnswer:
    """Load a student into vLLM with the engine's settings and ask it.

    The answer may be wrong or broken: evaluate measures that.

    Raises:
        UserError: vLLM does not load the student, or does not answer.
    """
    try:
        replies = asyncio.run(_ask(student, template, passage, types, settings))
    except Exception as error:  # vLLM and transformers raise errors of many kinds
        raise UserError(failed(student, " ".join(str(error).split())[:300])) from error
    return ExportAnswer(
        passage=passage,
        replies=[ExportReply(type=reply.type, outcome=reply.outcome, text=reply.text) for reply in replies],
    )


def failed(student: str, reason: str) -> str:
    """Return the error line of a student that vLLM does not answer with."""
    return (
        f"train: the student {student} is written, but vLLM does not answer with it: {reason}; run the same "
        "command to try again, or set train.check_export=false to skip this check"
    )


async def _ask(
    student: str, template: Template, passage: str, types: Sequence[str], settings: EngineSettings
) -> tuple[TypeAnswer, ...]:
    engine = Engine(local_model(student), settings, lazy=True)
    try:
        return (await QuestionAsker(engine, template).ask(passage, types)).answers
    finally:
        await engine.close()
