"""The annotate stage's worker: annotates a chunk of passages."""

from collections.abc import Sequence
from itertools import chain

from uniner.grounding import locate, nested_spans, without_nested
from uniner.records import ANNOTATION, Annotation, Entity, Passage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Rejection
from uniner.teacher.reply_cache import CachedReply
from uniner.teacher.reply_parser import TypedMention, judge_reply


class Annotator:
    """Turns a chunk of passages into the same passages, in order, with the teacher's entities."""

    def __init__(self, teacher: CachedTeacher, occurrences: str = "all"):
        """occurrences: `all` of a mention become entities, or the `best` one."""
        self._teacher, self._occurrences = teacher, occurrences

    async def close(self) -> None:
        """Close the connections to the teacher. An actor's end with its process."""
        await self._teacher.close()

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Annotate a chunk."""
        passages = from_table(chunk.table, Passage)
        annotations, figures = await self._teacher.ask_about(passages, self._annotation)
        entities = [entity for annotation in annotations for entity in annotation.entities]
        figures["entities"] = len(entities)
        figures["entities_not_in_passage"] = sum(entity.start < 0 for entity in entities)
        return Chunk(chunk.key, to_table(annotations, ANNOTATION), figures=figures)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return the annotations, without entities, of passages that crash the teacher's engine."""
        poison = Rejection(outcome="poison", reason=reason, attempts=0)
        annotations = [self._annotation(passage, poison) for passage in from_table(chunk.table, Passage)]
        return Chunk(chunk.key, to_table(annotations, ANNOTATION))

    def _annotation(self, passage: Passage, answer: CachedReply | Rejection) -> Annotation:
        mentions: tuple[TypedMention, ...] = ()
        if isinstance(answer, Rejection):
            outcome = answer.outcome
        else:
            outcome, mentions = judge_reply(answer.text, answer.finish_reason, answer.refusal, passage.text)
        return Annotation(
            passage_id=passage.passage_id,
            doc_id=passage.doc_id,
            text=passage.text,
            outcome=outcome,
            entities=locate_entities(passage.text, mentions, self._occurrences),
            **self._teacher.fields_of(answer),
        )


def locate_entities(
    text: str, mentions: Sequence[TypedMention], occurrences: str = "all"
) -> tuple[Entity, ...]:
    """Locate the teacher's mentions in a passage, at every occurrence or the best one, the first.

    An occurrence inside a longer mention gives way to it, unless the mention occurs nowhere else. A mention
    that does not occur has the offsets -1.
    """
    spans_of = {mention: locate(text, mention)[0] for mention, _ in mentions}
    nested = nested_spans(chain.from_iterable(spans_of.values()))
    places: dict[tuple[str, str, int, int], None] = {}  # in order, each once
    for mention, type_name in mentions:
        spans = without_nested(spans_of[mention], nested)
        if not spans:
            places[mention, type_name, -1, -1] = None
        for start, end in spans[:1] if occurrences == "best" else spans:
            places[text[start:end], type_name, start, end] = None
    return tuple(
        Entity(text=mention, type=type_name, start=start, end=end)
        for mention, type_name, start, end in places
    )
