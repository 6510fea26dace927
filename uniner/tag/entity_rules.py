"""Which of the entities that the student gave are kept: sure enough, found in the text, flat. Pure."""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from uniner.metrics.calibration import calibrate
from uniner.passages import own_span
from uniner.records import Passage, TaggedEntity, TaggedPassage


@dataclass(frozen=True)
class Rules:
    """What is kept. min_score: of a lower score nothing. flat: no two entities of a document overlap.

    calibration: slope and intercept (`fit_platt`'s) by which scores are calibrated before all else.
    """

    min_score: float = 0.0
    keep_ungrounded: bool = True
    flat: bool = False
    calibration: tuple[float, float] | None = None


def select(
    passages: Sequence[Passage], rows: Sequence[TaggedPassage], rules: Rules
) -> tuple[list[TaggedPassage], dict[str, int]]:
    """Keep what the rules keep of a chunk's passages, in their order, each with its row.

    Returns the rows and the counts: entities; of these ungrounded; dropped_low_score, dropped_ungrounded and
    dropped_overlapping, each entity by the first rule that drops it.
    """
    counts: Counter[str] = Counter()
    found = [_passing(_calibrated(row.entities, rules), rules, counts) for row in rows]
    if rules.flat:
        for together in _runs(passages):
            run = [passages[place] for place in together]
            entities = flat(run, [entity for place in together for entity in found[place]])
            standing = set(map(id, entities))
            for place in together:
                found[place] = [entity for entity in found[place] if id(entity) in standing]
    entities = [entity for some in found for entity in some]
    dropped = sum(len(row.entities) for row in rows) - len(entities) - counts.total()
    counts.update(
        entities=len(entities),
        ungrounded=sum(entity.start < 0 for entity in entities),
        dropped_overlapping=dropped,
    )
    return [replace(row, entities=tuple(some)) for row, some in zip(rows, found, strict=True)], dict(counts)


def flat(run: Sequence[Passage], entities: Sequence[TaggedEntity]) -> list[TaggedEntity]:
    """Choose entities of which no two overlap, of passages that follow one another in a document.

    Where two overlap, or are one span of two types, the one with the higher score stays; of the same score
    the longer, then the earlier, then that of the type that was asked for first. What is not in the text
    overlaps nothing. What reaches into the text that a passage outside of the run owns is dropped: of what
    that passage gives there, nothing is known here.
    """
    start, end = own_span(run[0])[0], own_span(run[-1])[1]
    starts: list[int] = []
    ends: list[int] = []
    chosen = []
    for entity in sorted(
        entities, key=lambda entity: (-entity.score, entity.start - entity.end, entity.start)
    ):
        if entity.start >= 0:
            place = bisect(starts, entity.start)
            before = ends[place - 1] if place else start
            after = starts[place] if place < len(starts) else end
            if entity.start < before or entity.end > after:
                continue
            starts.insert(place, entity.start)
            ends.insert(place, entity.end)
        chosen.append(entity)
    return chosen


def _calibrated(entities: Sequence[TaggedEntity], rules: Rules) -> Sequence[TaggedEntity]:
    if rules.calibration is None:
        return entities
    return [replace(entity, score=calibrate(entity.score, *rules.calibration)) for entity in entities]


def _passing(entities: Sequence[TaggedEntity], rules: Rules, counts: Counter[str]) -> list[TaggedEntity]:
    sure = [entity for entity in entities if entity.score >= rules.min_score]
    kept = [entity for entity in sure if rules.keep_ungrounded or entity.start >= 0]
    counts.update(dropped_low_score=len(entities) - len(sure), dropped_ungrounded=len(sure) - len(kept))
    return kept


def _runs(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Yield the places of the passages that share text with one another."""
    run: list[int] = []
    for place, passage in enumerate(passages):
        if run:
            last = passages[run[-1]]
            shared = last.overlap_after and last.char_end - last.overlap_after == passage.char_start
            if last.doc_id != passage.doc_id or not shared:
                yield run
                run = []
        run.append(place)
    if run:
        yield run
