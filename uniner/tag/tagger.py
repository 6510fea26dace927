"""Passages to tagged passages: every type asked, every answered mention located in the document."""

from collections.abc import Sequence

from uniner.grounding import locate, most_likely
from uniner.inference.questions import Asker, Reply
from uniner.passages import own_span, owns
from uniner.records import PASSAGE, TAGGED_PASSAGE, Passage, TaggedEntity, TaggedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk, merge
from uniner.tag.entity_rules import Rules, select
from uniner.tag.types import Types

BROKEN = ("poison", "overlong", "too_long", "unparseable")
"""From the worst on: the worst of its questions is a passage's outcome."""
NOT_ASKED = BROKEN[:2]


def tagged(passage: Passage, replies: Sequence[Reply], every_occurrence: bool) -> TaggedPassage:
    """Turn a passage's replies into its entities, with offsets into the document, in the order of the text.

    An entity's text is the document's own. A (start, end, type) appears once, with the highest score of the
    mentions that stand there; a mention of a type that is not in the passage is ungrounded, once too.
    What stands in an overlap of two passages is the entity of the one that owns it. Unless every occurrence
    is one, the most likely of those that the passage owns is.
    """
    located = {mention: locate(passage.text, mention) for reply in replies for mention in reply.scores}
    everywhere = [span for spans, _ in located.values() for span in spans]
    found: dict[tuple[int, int, str, str], TaggedEntity] = {}
    for reply in replies:
        for mention, score in reply.scores.items():
            spans, grounding = located[mention]
            if not spans:
                key = (-1, -1, reply.type, mention)
                found.setdefault(
                    key,
                    TaggedEntity(
                        text=mention, type=reply.type, start=-1, end=-1, score=score, grounding=grounding
                    ),
                )
            # What stands in an overlap, and is the neighbour's, the neighbour gives.
            own = [span for span in spans if owns(passage, *(passage.char_start + place for place in span))]
            for start, end in own if every_occurrence or not own else [most_likely(own, everywhere)]:
                here, there = passage.char_start + start, passage.char_start + end
                entity = TaggedEntity(
                    text=passage.text[start:end],
                    type=reply.type,
                    start=here,
                    end=there,
                    score=score,
                    grounding=grounding,
                )
                standing = found.setdefault((here, there, reply.type, ""), entity)
                if standing.score < score:
                    found[here, there, reply.type, ""] = entity
    outcomes = {reply.outcome for reply in replies}
    return TaggedPassage(
        doc_id=passage.doc_id,
        passage_id=passage.passage_id,
        char_start=passage.char_start,
        entities=tuple(sorted(found.values(), key=_place)),
        outcome=next((broken for broken in BROKEN if broken in outcomes), "ok"),
        failed_types=tuple(reply.type for reply in replies if reply.outcome != "ok"),
    )


def covered(passages: Sequence[Passage], rows: Sequence[TaggedPassage]) -> dict[str, float]:
    """Count characters: of the passages, each once where they overlap; of these cut_characters.

    Those are of passages that were not put to the student, whole, for each of their types: no prompt is ever
    shortened, but a passage that is longer than the student's window, or kills it, is left out.
    """
    own = [end - start for start, end in map(own_span, passages)]
    cut = (size for size, row in zip(own, rows, strict=True) if row.outcome in NOT_ASKED)
    return {"characters": sum(own), "cut_characters": sum(cut)}


def _place(entity: TaggedEntity) -> tuple[bool, int, int]:
    return entity.start < 0, entity.start, entity.end  # the ungrounded last


class Tagger:
    """The tag stage's worker: asks each passage for its source's types, and keeps what the rules keep."""

    def __init__(self, asker: Asker, types: Types, every_occurrence: bool, rules: Rules):
        self._asker, self._types = asker, types
        self._every_occurrence, self._rules = every_occurrence, rules

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Tag a chunk's passages, in their order."""
        passages = from_table(chunk.table.select(PASSAGE.names), Passage)
        asked = await self._asker.ask_all(
            [(passage.text, self._types.of(passage.source)) for passage in passages]
        )
        rows = [
            tagged(passage, answered.replies, self._every_occurrence)
            for passage, answered in zip(passages, asked, strict=True)
        ]
        rows, counts = select(passages, rows, self._rules)
        return Chunk(
            chunk.key,
            to_table(rows, TAGGED_PASSAGE),
            figures=merge([counts, covered(passages, rows), *(answered.figures for answered in asked)]),
        )

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return what becomes of passages that kill the engine: no entities, and a reject that says why."""
        passages = from_table(chunk.table.select(PASSAGE.names), Passage)
        rows = [
            tagged(
                passage,
                [Reply(type_name, "poison", {}) for type_name in self._types.of(passage.source)],
                True,
            )
            for passage in passages
        ]
        rejects = [{"passage_id": passage.passage_id, "reason": reason} for passage in passages]
        return Chunk(
            chunk.key, to_table(rows, TAGGED_PASSAGE), figures=covered(passages, rows), rejects=rejects
        )
