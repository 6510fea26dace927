"""A chat model: each question a request, through the teacher's line, so that no reply is paid twice."""

from collections import Counter
from collections.abc import Sequence

from uniner.evaluate.systems import judged
from uniner.evaluate.systems.instructions import Instruction
from uniner.inference.questions import Asked, Questions, Reply
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Rejection
from uniner.teacher.prompts import Prompt
from uniner.teacher.reply_cache import CachedReply

_QUESTION = "{question}"
PROMPT = Prompt("", _QUESTION, _QUESTION)
"""The messages of a request: the question alone, as the published prompt states no system message."""


class Chat:
    """A chat model behind the replies of a line."""

    def __init__(self, teacher: CachedTeacher, instruction: Instruction):
        self._teacher, self._instruction = teacher, instruction

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Ask about all passages together. The first passage has the counts of all."""
        groups = [
            (place, group)
            for place, (_, types) in enumerate(questions)
            for group in self._instruction.groups(types)
        ]
        texts = [self._instruction.text(questions[place][0], group) for place, group in groups]
        replies, took = await self._teacher.ask(texts)
        of_passage: list[list[Reply]] = [[] for _ in questions]
        for (place, group), reply in zip(groups, replies, strict=True):
            of_passage[place] += _judge(self._instruction, group, reply)
        figures: Counter[str] = Counter({"questions": len(groups), **took})
        return [
            PassageAnswers(tuple(said), dict(figures) if not n else {}) for n, said in enumerate(of_passage)
        ]


def _judge(instruction: Instruction, types: Sequence[str], reply: CachedReply | Rejection) -> list[Reply]:
    """Say what a reply is worth; the outcomes are an annotation's, of a reply cut at the limit too_long."""
    if isinstance(reply, Rejection):
        return [Reply(name, reply.outcome, {}, reply.reason) for name in types]
    if reply.finish_reason == "length":
        failed = "too_long"
    elif reply.finish_reason == "content_filter":
        failed = "filtered"
    else:
        failed = "refused" if reply.refusal else ""
    return judged(types, reply.text or reply.refusal, failed, instruction.parse)
