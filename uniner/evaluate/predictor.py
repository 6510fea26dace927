"""Questions to predictions: the evaluate stage's worker."""

from itertools import groupby

from uniner.evaluate.gold import QUESTION, Question
from uniner.records import PREDICTION, Prediction, from_table, to_table
from uniner.storage import Chunk, merge
from uniner.tag.asker import Asker, figures


class Predictor:
    """Answers a chunk's questions, those of a passage together."""

    def __init__(self, asker: Asker):
        self._asker = asker

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Answer the questions, in their order; a passage's questions stand one after the other."""
        asked = from_table(chunk.table.select(QUESTION.names), Question)
        passages = [list(group) for _, group in groupby(asked, key=lambda question: question.passage_id)]
        replies = await self._asker.ask_all(
            [(group[0].text, [question.type for question in group]) for group in passages]
        )
        flat = [reply for answered in replies for reply in answered]
        predictions = [
            Prediction(
                question.dataset,
                question.passage_id,
                question.type,
                reply.text,
                reply.mentions,
                question.gold,
                reply.outcome,
            )
            for question, reply in zip(asked, flat, strict=True)
        ]
        counts = merge([figures(answered) for answered in replies])
        return Chunk(chunk.key, to_table(predictions, PREDICTION), figures=counts)
