"""The tag stage's worker: passages in, entities with offsets into the document out."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from uniner.grounding import locate, nested_spans, without_nested
from uniner.inference.questions import PassageAnswers, QuestionAsker, Questions, TypeAnswer, work_concurrently
from uniner.metrics.calibration import calibrate
from uniner.overlaps import Overlaps, settle
from uniner.passages import own_span, owns
from uniner.records import (
    BY_RULE,
    PASSAGE,
    TAGGED_PASSAGE,
    Passage,
    TaggedEntity,
    TaggedPassage,
    from_table,
    to_table,
)
from uniner.storage.manifest import Counts, merge
from uniner.storage.stage_folder import Chunk
from uniner.tag.rule_file import RuleSet
from uniner.tag.rules import RuleWork, rule_runner
from uniner.tag.types import TypeSelection

Occurrences = Literal["all", "best"]

FAILURES = ("poison", "overlong", "too_long", "unparseable")
"""Worst first: a passage's outcome is the worst of its questions."""
NOT_ASKED = FAILURES[:2]
RULE_LATE = "rule_late"
"""The outcome of a passage whose answers are whole, but on which a rule reached its time limit."""


@dataclass(frozen=True, kw_only=True)
class EntityRules:
    """Which mentions become entities, and which entities are kept.

    occurrences: all occurrences of a mention in a passage, or the best (most likely) one. min_score, and
    min_score_of_type in its place: entities with a lower score are dropped. overlaps: of a document's
    entities. calibration: slope and intercept (from `metrics.calibration.fit`), applied to the scores before
    everything else. patterns: rules of a file, applied to what the scores leave, before the overlaps.
    """

    occurrences: Occurrences = "all"
    min_score: float = 0.0
    keep_ungrounded: bool = True
    overlaps: Overlaps = "keep"
    min_score_of_type: Mapping[str, float] = field(default_factory=dict)
    calibration: tuple[float, float] | None = None
    patterns: RuleSet = field(default_factory=RuleSet)


class PassageTagger(Protocol):
    """What tags passages together (`inference.encoder.EncoderTagger`)."""

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order."""
        ...


class Tagger:
    """Asks each passage for its source's types and keeps the entities that the rules keep."""

    def __init__(self, asker: QuestionAsker, types: TypeSelection, rules: EntityRules):
        self._asker, self._types, self._rules = asker, types, rules

    def behind(self, encoder: PassageTagger, threshold: float) -> "CascadeWorker":
        """Return a tagger that asks only what an encoder finds likely."""
        return CascadeWorker(encoder, self._asker, self._types, self._rules, threshold)

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Tag a chunk's passages, in their order."""
        passages = from_table(chunk.table.select(PASSAGE.names), Passage)
        tagged = await work_concurrently(self._tag, passages)
        # In a thread: meanwhile the engine needs the next chunk's questions.
        return await asyncio.to_thread(self._finish, chunk.key, passages, tagged)

    async def _tag(self, passage: Passage) -> tuple[TaggedPassage, Counts]:
        """Tag a passage as soon as its answers are there, so that not all are left for the end."""
        reply = await self._asker.ask(passage.text, self._types.words_of(passage.source))
        return self._tagged(passage, reply.answers), reply.figures

    def _tagged(self, passage: Passage, answers: Sequence[TypeAnswer]) -> TaggedPassage:
        """Turn the answers to the words that a passage was asked by into its entities."""
        by_type = self._types.answers(passage.source, answers)
        return tag_passage(passage, by_type, self._rules.occurrences)

    def _finish(
        self, key: str, passages: Sequence[Passage], tagged: Sequence[tuple[TaggedPassage, Counts]]
    ) -> Chunk:
        rows, counts, examples = apply_rules(passages, [row for row, _ in tagged], self._rules)
        figures = merge([counts, count_characters(passages, rows), *(figures for _, figures in tagged)])
        return Chunk(key, to_table(rows, TAGGED_PASSAGE), figures=figures, examples=examples)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return the rows of passages that kill the engine: no entities, and a reject with the reason."""
        passages = from_table(chunk.table.select(PASSAGE.names), Passage)
        rows = [
            tag_passage(passage, [TypeAnswer(name, "poison", {}) for name in self._types.of(passage.source)])
            for passage in passages
        ]
        rejects = [{"passage_id": passage.passage_id, "reason": reason} for passage in passages]
        figures = count_characters(passages, rows)
        return Chunk(chunk.key, to_table(rows, TAGGED_PASSAGE), figures=figures, rejects=rejects)


class EncoderWorker(Tagger):
    """Tags with an encoder, which works on all passages of a chunk together."""

    def __init__(self, encoder: PassageTagger, types: TypeSelection, rules: EntityRules):
        self._encoder, self._types, self._rules = encoder, types, rules

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Tag a chunk's passages, in their order."""
        passages = from_table(chunk.table.select(PASSAGE.names), Passage)
        replies = await self._encoder.ask_all(
            [(passage.text, self._types.words_of(passage.source)) for passage in passages]
        )
        tagged = [
            (self._tagged(passage, reply.answers), reply.figures)
            for passage, reply in zip(passages, replies, strict=True)
        ]
        return await asyncio.to_thread(self._finish, chunk.key, passages, tagged)


class CascadeWorker(Tagger):
    """Asks a student only for the types that an encoder finds likely in a passage.

    threshold: of the encoder's best score. The figures count asked and saved questions.
    """

    def __init__(
        self,
        encoder: PassageTagger,
        asker: QuestionAsker,
        types: TypeSelection,
        rules: EntityRules,
        threshold: float,
    ):
        super().__init__(asker, types, rules)
        self._encoder, self._threshold = encoder, threshold

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Tag a chunk's passages, in their order."""
        passages = from_table(chunk.table.select(PASSAGE.names), Passage)
        likely = await self._encoder.ask_all(
            [(passage.text, self._types.words_of(passage.source)) for passage in passages]
        )
        tagged = await work_concurrently(
            lambda pair: self._tag_likely(*pair), list(zip(passages, likely, strict=True))
        )
        return await asyncio.to_thread(self._finish, chunk.key, passages, tagged)

    async def _tag_likely(self, passage: Passage, likely: PassageAnswers) -> tuple[TaggedPassage, Counts]:
        asked = [answer.type for answer in likely.answers if float(answer.text) >= self._threshold]
        reply = await self._asker.ask(passage.text, asked)
        figures = {
            **reply.figures,
            "prefilter_tokens": likely.figures.get("prompt_tokens", 0),
            "types_asked": len(asked),
            "types_saved": len(likely.answers) - len(asked),
        }
        return self._tagged(passage, reply.answers), figures


def tag_passage(
    passage: Passage, answers: Sequence[TypeAnswer], occurrences: Occurrences = "all"
) -> TaggedPassage:
    """Turn a passage's answers into its entities, with offsets into the document, in the order of the text.

    An entity's text is the document's own. A (start, end, type) appears once, with the highest score of the
    mentions found there. A mention that the passage lacks is ungrounded, and appears once for each type.
    An occurrence inside a longer mention gives way to it, unless the mention occurs nowhere else. An entity
    in the overlap of two passages goes to the passage that owns it; `best` chooses among the occurrences that
    the passage owns.
    """
    offset = passage.char_start
    located = {
        mention: locate(passage.text, mention)
        for answer in answers
        if not answer.span_scores
        for mention in answer.scores
    }
    nested = nested_spans(span for spans, _ in located.values() for span in spans)
    entities: dict[tuple[int, int, str, str], TaggedEntity] = {}
    for answer in answers:
        for entity in _scored_spans(passage, answer, occurrences) if answer.span_scores else ():
            entities[entity.start, entity.end, entity.type, ""] = entity
        for mention, score in answer.scores.items() if not answer.span_scores else ():
            spans, grounding = located[mention]
            # The best occurrence is one that the passage owns.
            meant = spans if occurrences == "best" else without_nested(spans, nested)
            own = [span for span in meant if owns(passage, *(offset + position for position in span))]
            if occurrences == "best":
                own = list(without_nested(own, nested)[:1])
            places = [(passage.text[start:end], offset + start, offset + end) for start, end in own]
            for text, start, end in places if spans else [(mention, -1, -1)]:
                entity = TaggedEntity(
                    text=text, type=answer.type, start=start, end=end, score=score, grounding=grounding
                )
                key = (start, end, answer.type, "" if spans else mention)
                if key not in entities or entities[key].score < score:
                    entities[key] = entity
    outcomes = {answer.outcome for answer in answers}
    return TaggedPassage(
        doc_id=passage.doc_id,
        passage_id=passage.passage_id,
        char_start=passage.char_start,
        entities=tuple(sorted(entities.values(), key=_text_order)),
        outcome=next((failure for failure in FAILURES if failure in outcomes), "ok"),
        failed_types=tuple(answer.type for answer in answers if answer.outcome != "ok"),
    )


def _scored_spans(passage: Passage, answer: TypeAnswer, occurrences: Occurrences) -> list[TaggedEntity]:
    """Return the entities of an answer whose spans have scores of their own, as an encoder's have."""
    offset = passage.char_start
    entities = [
        TaggedEntity(
            text=passage.text[start:end],
            type=answer.type,
            start=offset + start,
            end=offset + end,
            score=score,
            grounding="exact",
        )
        for (start, end), score in zip(answer.spans, answer.span_scores, strict=True)
        if owns(passage, offset + start, offset + end)
    ]
    if occurrences == "all":
        return entities
    best: dict[str, TaggedEntity] = {}
    for entity in entities:
        if entity.text not in best or best[entity.text].score < entity.score:
            best[entity.text] = entity
    return list(best.values())


def _text_order(entity: TaggedEntity) -> tuple[bool, int, int]:
    return entity.start < 0, entity.start, entity.end  # ungrounded entities last


def count_characters(passages: Sequence[Passage], rows: Sequence[TaggedPassage]) -> dict[str, float]:
    """Count the passages' characters, those of an overlap once, and the cut_characters among them.

    Cut characters belong to passages that the student was not asked about: longer than its window, or deadly
    to the engine. No prompt is ever shortened.
    """
    sizes = [end - start for start, end in map(own_span, passages)]
    cut = (size for size, row in zip(sizes, rows, strict=True) if row.outcome in NOT_ASKED)
    return {"characters": sum(sizes), "cut_characters": sum(cut)}


def apply_rules(
    passages: Sequence[Passage], rows: Sequence[TaggedPassage], rules: EntityRules
) -> tuple[list[TaggedPassage], dict[str, int], Mapping[str, Sequence[str]]]:
    """Keep the entities of a chunk's rows that the rules keep; passages are in document order.

    Returns the rows, the counts and examples of what the rules of a file did. Counts: entities; of these
    ungrounded; dropped_low_score, dropped_ungrounded, dropped_by_rule and dropped_overlapping, each entity by
    the first that drops it; and those of `rules.RuleWork`.
    """
    counts: Counter[str] = Counter()
    kept = [_filtered(_calibrate(row.entities, rules), rules, counts) for row in rows]
    runs = list(_overlapping_runs(passages)) if rules.patterns or rules.overlaps != "keep" else []
    work = RuleWork(kept)
    if rules.patterns:
        work = rule_runner(rules.patterns).apply(passages, kept, runs)
        counts.update(work.figures)
    kept, before = work.kept, sum(map(len, work.kept))
    if rules.overlaps != "keep":
        for run in runs:
            entities = without_overlaps(
                [passages[number] for number in run],
                [entity for number in run for entity in kept[number]],
                rules.overlaps,
            )
            chosen = set(map(id, entities))
            for number in run:
                kept[number] = [entity for entity in kept[number] if id(entity) in chosen]
    entities = [entity for row in kept for entity in row]
    counts.update(
        entities=len(entities),
        ungrounded=sum(entity.start < 0 for entity in entities),
        dropped_overlapping=before - len(entities),
    )
    rows = [
        _with_late_rules(replace(row, entities=tuple(entities)), work.late.get(number, ()))
        for number, (row, entities) in enumerate(zip(rows, kept, strict=True))
    ]
    return rows, dict(counts), work.examples


def _with_late_rules(row: TaggedPassage, labels: Sequence[str]) -> TaggedPassage:
    """Return a passage marked with the types of rules that reached their time limit on it."""
    if not labels:
        return row
    outcome = RULE_LATE if row.outcome == "ok" else row.outcome
    return replace(row, outcome=outcome, failed_types=tuple(dict.fromkeys((*row.failed_types, *labels))))


def without_overlaps(
    run: Sequence[Passage], entities: Sequence[TaggedEntity], rule: Overlaps
) -> list[TaggedEntity]:
    """Choose entities by a rule on overlaps, from consecutive passages of a document.

    An entity that a rule of a file found comes before all others. Of two that are as good, the longer stays,
    then the earlier, then the type that was asked first. Ungrounded entities overlap nothing. An entity that
    reaches into text owned by a passage outside the run is dropped, as that passage's entities are not known
    here.
    """
    run_start, run_end = own_span(run[0])[0], own_span(run[-1])[1]
    grounded = [entity for entity in entities if entity.start >= 0]
    inside = [entity for entity in grounded if run_start <= entity.start and entity.end <= run_end]
    ordered = sorted(inside, key=lambda entity: (entity.start - entity.end, entity.start))
    chosen = settle(ordered, rule, certain=lambda entity: entity.grounding == BY_RULE)
    return [*chosen, *(entity for entity in entities if entity.start < 0)]


def _calibrate(entities: Sequence[TaggedEntity], rules: EntityRules) -> Sequence[TaggedEntity]:
    if rules.calibration is None:
        return entities
    return [replace(entity, score=calibrate(entity.score, *rules.calibration)) for entity in entities]


def _filtered(
    entities: Sequence[TaggedEntity], rules: EntityRules, counts: Counter[str]
) -> list[TaggedEntity]:
    lowest = rules.min_score_of_type
    confident = [entity for entity in entities if entity.score >= lowest.get(entity.type, rules.min_score)]
    kept = [entity for entity in confident if rules.keep_ungrounded or entity.start >= 0]
    counts.update(
        dropped_low_score=len(entities) - len(confident), dropped_ungrounded=len(confident) - len(kept)
    )
    return kept


def _overlapping_runs(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Yield the indices of consecutive passages that share text with one another."""
    run: list[int] = []
    for number, passage in enumerate(passages):
        if run:
            last = passages[run[-1]]
            overlaps = last.overlap_after and last.char_end - last.overlap_after == passage.char_start
            if last.doc_id != passage.doc_id or not overlaps:
                yield run
                run = []
        run.append(number)
    if run:
        yield run
