"""The annotate stage's worker: a chunk of passages in, the same passages annotated out."""

import asyncio
from collections.abc import Sequence

from uniner.annotate.limits import Ask, Gate, Limits, Meter, local
from uniner.annotate.replies import Pair, judge
from uniner.annotate.teacher import Line, Rejection, Reply, Teacher
from uniner.records import ANNOTATION, Annotation, Entity, Passage, from_table, to_table
from uniner.storage import Chunk
from uniner.templates import locate


class Annotator:
    """The stage's worker: a chunk of passages in, the same passages annotated out, in the same order."""

    def __init__(self, teacher: Teacher, api_key: str | None = None, ask: Ask | None = None):
        """`ask` reaches the meter of the whole cluster; without it there are no limits."""
        self._teacher = teacher
        self._gate = Gate(ask or local(Meter(Limits())))
        self._line = Line(teacher, api_key, self._gate)

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Annotate a chunk."""
        passages = from_table(chunk.table, Passage)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(passage.text)) for passage in passages]
        answers = [task.result() for task in tasks]
        annotations = [self._record(*pair) for pair in zip(passages, answers, strict=True)]
        figures = {
            "requests": sum(annotation.attempts for annotation in annotations),
            "tokens_in": sum(annotation.tokens_in for annotation in annotations),
            "tokens_out": sum(annotation.tokens_out for annotation in annotations),
            "cost_usd": sum(annotation.cost_usd for annotation in annotations),
            "entities": sum(len(annotation.entities) for annotation in annotations),
        }
        return Chunk(chunk.key, to_table(annotations, ANNOTATION), figures=figures)

    async def _ask(self, text: str) -> Reply | Rejection:
        answer = await self._line.ask(self._teacher.request(text))
        if isinstance(answer, Rejection):
            return answer
        reply, want = answer
        usd = self._teacher.usd(reply.tokens_in, reply.tokens_out)
        self._gate.leave(want, reply.tokens_in + reply.tokens_out, usd)
        return reply

    def _record(self, passage: Passage, answer: Reply | Rejection) -> Annotation:
        pairs: tuple[Pair, ...] = ()
        if isinstance(answer, Rejection):
            outcome, said, tokens_in, tokens_out = answer.outcome, answer.said, 0, 0
        else:
            outcome, pairs = judge(answer.text, answer.finish_reason, answer.refusal)
            said, tokens_in, tokens_out = answer.text, answer.tokens_in, answer.tokens_out
        return Annotation(
            passage.passage_id,
            passage.doc_id,
            passage.text,
            outcome,
            said,
            entities_of(passage.text, pairs),
            self._teacher.model,
            tokens_in,
            tokens_out,
            self._teacher.usd(tokens_in, tokens_out),
            answer.attempts,
        )


def entities_of(text: str, pairs: Sequence[Pair]) -> tuple[Entity, ...]:
    """Locate the teacher's pairs in the passage: every occurrence, or one at -1 where there is none."""
    found = []
    for mention, type_name in pairs:
        spans, _ = locate(text, mention)
        found += [Entity(text[start:end], type_name, start, end) for start, end in spans]
        if not spans:
            found.append(Entity(mention, type_name, -1, -1))
    return tuple(dict.fromkeys(found))
