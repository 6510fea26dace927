"""Questions to predictions: the evaluate stage's worker."""

from collections.abc import Callable
from itertools import groupby

from uniner.evaluate.systems import System
from uniner.inference.questions import TypeAnswer
from uniner.records import PREDICTION, QUESTION, Prediction, Question, Span, from_table, to_table
from uniner.storage.stage_folder import Chunk, merge


class Predictor:
    """Answers a chunk's questions, those of a passage together."""

    def __init__(self, system_of: Callable[[str], System]):
        """`system_of` returns who answers the questions of a data set, which the chunk is all of."""
        self._system_of = system_of

    @classmethod
    def of(cls, system: System) -> "Predictor":
        """Return a predictor whose one system answers for every data set."""
        return cls(lambda _: system)

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Answer the questions, in their order; a passage's questions stand one after the other."""
        questions = from_table(chunk.table.select(QUESTION.names), Question)
        passages = [list(group) for _, group in groupby(questions, key=lambda question: question.passage_id)]
        if not passages:
            return Chunk(chunk.key, to_table([], PREDICTION))
        asked = await self._system_of(questions[0].dataset).ask_all(
            [(group[0].text, [question.type for question in group]) for group in passages]
        )
        replies = [reply for answered in asked for reply in answered.answers]
        predictions = [
            _predicted(question, reply) for question, reply in zip(questions, replies, strict=True)
        ]
        counts = merge([answered.figures for answered in asked])
        return Chunk(chunk.key, to_table(predictions, PREDICTION), figures=counts)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return what becomes of questions that kill the engine: no answers, and a reject that says why."""
        questions = from_table(chunk.table.select(QUESTION.names), Question)
        predictions = [
            _predicted(question, TypeAnswer(question.type, "poison", {})) for question in questions
        ]
        rejects = [
            {"passage_id": question.passage_id, "type": question.type, "reason": reason}
            for question in questions
        ]
        return Chunk(chunk.key, to_table(predictions, PREDICTION), rejects=rejects)


def _predicted(question: Question, reply: TypeAnswer) -> Prediction:
    return Prediction(
        dataset=question.dataset,
        passage_id=question.passage_id,
        text=question.text,
        type=question.type,
        reply=reply.text,
        predicted=reply.mentions,
        gold=question.gold,
        gold_spans=question.gold_spans,
        outcome=reply.outcome,
        scores=tuple(reply.scores.values()),
        spans=tuple(Span(start=start, end=end) for start, end in reply.spans),
    )
