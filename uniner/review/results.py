"""What a round of review says of the student: as figures for its result.json, and as lines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from uniner.gold.records import GoldEntity
from uniner.review.estimate import CorpusEstimate, difference, estimate
from uniner.review.merge import (
    EntityChanges,
    ReviewerAgreement,
    agreement,
    changes,
    merge_reviews,
    owned_spans,
)
from uniner.review.tasks import (
    BAD_SPAN,
    PARTS,
    RANDOM,
    REVIEWED,
    SKIPPED,
    Review,
    ReviewedPassage,
    ReviewTask,
)


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A round's figures.

    given_out, reviewed: passages. skipped, bad_spans: reviews that became no gold data. tied: entities that
    half of a passage's reviewers have. estimate: of the whole corpus; None without random passages.
    """

    given_out: int
    reviewed: int
    skipped: int
    bad_spans: int
    reviewers: tuple[str, ...]
    tied: int
    changes: EntityChanges
    changes_of_part: dict[str, EntityChanges]
    agreement: ReviewerAgreement
    estimate: CorpusEstimate | None


def summarise(
    tasks: Sequence[ReviewTask], reviews: Sequence[Review], known: Mapping[str, tuple[GoldEntity, ...]]
) -> RoundResult:
    """Return a round's figures. known: entities of passages that earlier rounds reviewed, by passage id."""
    given = {task.passage_id: task for task in tasks if not task.known}
    merged = merge_reviews(reviews, given)
    outcomes = [review.outcome for review in reviews]
    return RoundResult(
        given_out=len(given),
        reviewed=len(merged),
        skipped=outcomes.count(SKIPPED),
        bad_spans=outcomes.count(BAD_SPAN),
        reviewers=tuple(sorted({review.reviewer for review in reviews if review.outcome == REVIEWED})),
        tied=sum(passage.tied for passage in merged),
        changes=_changes(merged, given),
        changes_of_part={
            part: _changes([passage for passage in merged if passage.part == part], given) for part in PARTS
        },
        agreement=agreement(reviews),
        estimate=_estimate(tasks, {**known, **{passage.passage_id: passage.entities for passage in merged}}),
    )


def result_lines(
    number: int, result: RoundResult, before: tuple[int, CorpusEstimate] | None
) -> Iterator[str]:
    """Say what a round says. before: the number and estimate of the last round that has one."""
    people, counts = ", ".join(result.reviewers) or "nobody", result.changes
    left_out = f", {result.bad_spans:,} with wrong spans left out" if result.bad_spans else ""
    yield (
        f"round {number}: {result.reviewed:,} of {result.given_out:,} passages reviewed by {people}, "
        f"{result.skipped:,} skipped{left_out}"
    )
    yield (
        f"of the student's entities {counts.kept:,} kept, {counts.dropped:,} dropped, {counts.retyped:,} "
        f"given another type; {counts.added:,} added"
    )
    agreed = result.agreement
    if agreed.f1 is not None:
        yield (
            f"reviewers agree on {agreed.passages:,} passages by F1 {agreed.f1:.3f} (spans with types, all "
            f"pairs of reviewers); {result.tied:,} entities that half of them have are left out"
        )
    now = result.estimate
    if now is None:
        yield "no passage drawn at random was reviewed, so precision and recall on the corpus are not known"
        return
    yield (
        f"the student on the corpus, by {now.passages:,} random passages: precision {now.precision}, recall "
        f"{now.recall} (95 % intervals)"
    )
    if before:
        earlier, was = before
        yield (
            f"against round {earlier}: precision {difference(now.precision, was.precision)}, recall "
            f"{difference(now.recall, was.recall)}"
        )


def _changes(merged: Iterable[ReviewedPassage], tasks: Mapping[str, ReviewTask]) -> EntityChanges:
    each = (changes(tasks[passage.passage_id], passage.entities) for passage in merged)
    return reduce(EntityChanges.__add__, each, EntityChanges())


def _estimate(
    tasks: Iterable[ReviewTask], gold: Mapping[str, tuple[GoldEntity, ...]]
) -> CorpusEstimate | None:
    counts = []
    for task in tasks:
        if task.part == RANDOM and task.passage_id in gold:
            found, right = owned_spans(task, task.entities), owned_spans(task, gold[task.passage_id])
            counts.append((len(found & right), len(found), len(right)))
    return estimate(counts) if counts else None
