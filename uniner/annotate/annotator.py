"""The annotate stage's worker: a chunk of passages in, the same passages annotated out."""

from collections.abc import Sequence
from itertools import chain

from uniner.grounding import locate, most_likely
from uniner.records import ANNOTATION, Annotation, Entity, Passage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.teacher.completion import Rejection
from uniner.teacher.replies import Replies
from uniner.teacher.reply_cache import Kept
from uniner.teacher.reply_parser import Pair, judge


class Annotator:
    """The stage's worker: a chunk of passages in, the same passages annotated out, in the same order."""

    def __init__(self, replies: Replies, every_occurrence: bool = True):
        """`every_occurrence` of a mention becomes an entity, else the most likely."""
        self._replies, self._every_occurrence = replies, every_occurrence

    async def close(self) -> None:
        """Let the connections to the teacher go; an actor's end with its process."""
        await self._replies.close()

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Annotate a chunk."""
        passages = from_table(chunk.table, Passage)
        answers, figures = await self._replies.to([passage.text for passage in passages])
        annotations = [
            self._record(passage, answer) for passage, answer in zip(passages, answers, strict=True)
        ]
        entities = [entity for annotation in annotations for entity in annotation.entities]
        figures["entities"] = len(entities)
        figures["entities_not_in_passage"] = sum(entity.start < 0 for entity in entities)
        return Chunk(chunk.key, to_table(annotations, ANNOTATION), figures=figures)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return what becomes of passages that kill the engine of a served teacher: no entities."""
        poison = Rejection("poison", reason, 0)
        annotations = [self._record(passage, poison) for passage in from_table(chunk.table, Passage)]
        return Chunk(chunk.key, to_table(annotations, ANNOTATION))

    def _record(self, passage: Passage, answer: Kept | Rejection) -> Annotation:
        pairs: tuple[Pair, ...] = ()
        if isinstance(answer, Rejection):
            outcome, said, tokens_in, tokens_out = answer.outcome, answer.said, 0, 0
        else:
            outcome, pairs = judge(answer.text, answer.finish_reason, answer.refusal)
            said, tokens_in, tokens_out = answer.text, answer.tokens_in, answer.tokens_out
        return Annotation(
            passage_id=passage.passage_id,
            doc_id=passage.doc_id,
            text=passage.text,
            outcome=outcome,
            reply=said,
            entities=entities_of(passage.text, pairs, self._every_occurrence),
            model=self._replies.teacher.model,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost_usd=self._replies.teacher.usd(tokens_in, tokens_out),
            attempts=answer.attempts,
        )


def entities_of(text: str, pairs: Sequence[Pair], every_occurrence: bool = True) -> tuple[Entity, ...]:
    """Locate the teacher's pairs in the passage: every occurrence or the most likely; -1: there is none."""
    located = {mention: locate(text, mention)[0] for mention, _ in pairs}
    found = []
    for mention, type_name in pairs:
        spans = located[mention]
        if every_occurrence or not spans:
            taken = spans
        else:
            taken = [most_likely(spans, chain.from_iterable(located.values()))]
        found += [Entity(text=text[start:end], type=type_name, start=start, end=end) for start, end in taken]
        if not spans:
            found.append(Entity(text=mention, type=type_name, start=-1, end=-1))
    return tuple(dict.fromkeys(found))
