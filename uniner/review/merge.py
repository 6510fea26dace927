"""Merge several reviews of a passage by majority, and say how far the reviewers agree."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from uniner.gold.records import GoldEntity
from uniner.metrics.counts import Counts
from uniner.metrics.matching import strict
from uniner.review.tasks import REVIEWED, Review, ReviewedPassage, ReviewTask


@dataclass(frozen=True, kw_only=True)
class ReviewerAgreement:
    """How far reviewers agree: the F1 of one's spans and types against another's, over all pairs of them.

    F1, not kappa: kappa needs the number of spans that nobody marked, which is not defined. passages: with
    two reviewers or more. f1: None where there is none.
    """

    passages: int
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class EntityChanges:
    """What became of the student's entities: kept, dropped, given another type; and added ones."""

    kept: int = 0
    dropped: int = 0
    added: int = 0
    retyped: int = 0

    def __add__(self, other: "EntityChanges") -> "EntityChanges":
        names = vars(self)
        return EntityChanges(**{name: getattr(self, name) + getattr(other, name) for name in names})


def merge_reviews(reviews: Iterable[Review], tasks: Mapping[str, ReviewTask]) -> list[ReviewedPassage]:
    """Merge the usable reviews of each passage: an entity stays where more than half of them have it.

    Of two reviewers, both must have it: what only one of them has is left out and counted as tied.
    """
    merged = []
    for passage_id, usable in sorted(_usable(reviews).items()):
        task, votes = tasks[passage_id], Counter(entity for review in usable for entity in review.entities)
        merged.append(
            ReviewedPassage(
                passage_id=passage_id,
                text=task.text,
                source=task.source,
                part=task.part,
                entities=tuple(
                    sorted((each for each, count in votes.items() if 2 * count > len(usable)), key=_order)
                ),
                reviewers=tuple(sorted(review.reviewer for review in usable)),
                tied=sum(2 * count == len(usable) for count in votes.values()),
            )
        )
    return merged


def agreement(reviews: Iterable[Review]) -> ReviewerAgreement:
    """Return how far the reviewers of the same passages agree."""
    shared = [usable for usable in _usable(reviews).values() if len(usable) > 1]
    counts = Counts()
    for usable in shared:
        for first, second in combinations(usable, 2):
            counts += strict(frozenset(first.entities), frozenset(second.entities))
    nothing_marked = counts == Counts()
    return ReviewerAgreement(
        passages=len(shared), f1=None if not shared else 1.0 if nothing_marked else round(counts.f1, 6)
    )


def changes(task: ReviewTask, entities: Sequence[GoldEntity]) -> EntityChanges:
    """Compare a passage's corrected entities with the student's, as far as the passage owns them.

    An entity with another start or end counts as one dropped and one added.
    """
    found, corrected = owned_spans(task, task.entities), owned_spans(task, entities)
    lost, new = found - corrected, corrected - found
    places = Counter((start, end) for start, end, _ in lost) & Counter((start, end) for start, end, _ in new)
    retyped = places.total()
    return EntityChanges(
        kept=len(found & corrected), dropped=len(lost) - retyped, added=len(new) - retyped, retyped=retyped
    )


def owned_spans(task: ReviewTask, entities: Iterable[object]) -> frozenset[tuple[int, int, str]]:
    """Return (start, end, type) of the entities that a passage owns."""
    spans = ((e.start, e.end, e.type) for e in entities)  # type: ignore[attr-defined]
    return frozenset(span for span in spans if task.owns(*span[:2]))


def _usable(reviews: Iterable[Review]) -> dict[str, list[Review]]:
    usable = defaultdict[str, list[Review]](list)
    for review in reviews:
        if review.outcome == REVIEWED:
            usable[review.passage_id].append(review)
    return usable


def _order(entity: GoldEntity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.type
