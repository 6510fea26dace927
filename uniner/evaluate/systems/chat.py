"""A chat model: a request for each question, through the teacher's client, so that no reply is paid twice."""

from collections import Counter
from collections.abc import Sequence

from uniner.evaluate.systems import parse_replies
from uniner.evaluate.systems.instructions import Instruction
from uniner.inference.questions import PassageAnswers, Questions, TypeAnswer
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Rejection
from uniner.teacher.prompts import Prompt
from uniner.teacher.reply_cache import CachedReply

_QUESTION = "{question}"
PROMPT = Prompt("", _QUESTION, _QUESTION)
"""The messages of a request: the question alone, as the published prompt has no system message."""


class ChatModel:
    """A chat model on a server."""

    def __init__(self, teacher: CachedTeacher, instruction: Instruction):
        self._teacher, self._instruction = teacher, instruction

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Ask about all passages at once. The first passage's answer carries the figures of all."""
        groups = [
            (number, group)
            for number, (_, types) in enumerate(questions)
            for group in self._instruction.groups(types)
        ]
        texts = [self._instruction.text(questions[number][0], group) for number, group in groups]
        replies, costs = await self._teacher.ask(texts)
        by_passage: list[list[TypeAnswer]] = [[] for _ in questions]
        for (number, group), reply in zip(groups, replies, strict=True):
            by_passage[number] += _parse(self._instruction, group, reply)
        figures: Counter[str] = Counter({"questions": len(groups), **costs})
        return [
            PassageAnswers(tuple(passage), dict(figures) if number == 0 else {})
            for number, passage in enumerate(by_passage)
        ]


def _parse(
    instruction: Instruction, types: Sequence[str], reply: CachedReply | Rejection
) -> list[TypeAnswer]:
    """Return the reply for each type. Outcomes are those of Annotation; too_long: cut at the limit."""
    if isinstance(reply, Rejection):
        return [TypeAnswer(name, reply.outcome, {}, reply.reason) for name in types]
    if reply.finish_reason == "length":
        failure = "too_long"
    elif reply.finish_reason == "content_filter":
        failure = "filtered"
    else:
        failure = "refused" if reply.refusal else ""
    return parse_replies(types, reply.text or reply.refusal, failure, instruction.parse)
