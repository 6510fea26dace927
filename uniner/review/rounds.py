"""The rounds of review in a run's folder, and those of the earlier runs that it goes on from.

review/round-001/passages.jsonl   what was given out: passages, the student's entities, why they were chosen
                 label-studio.json, label-studio.xml, gold.jsonl, form.html      for people to correct
                 round.json       the types to choose from, and more; written last at export
                 reviews.jsonl    each person's reviews; result.json: what they say of the student
review/gold.jsonl                 corrected passages of all rounds, as gold data
       train.jsonl, evaluate.jsonl       of these the chosen ones, and those drawn at random
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from uniner.errors import UserError
from uniner.review.merge import merge_reviews
from uniner.review.results import RoundResult
from uniner.review.tasks import RANDOM, Review, ReviewedPassage, ReviewTask, json_lines, read_json_lines
from uniner.storage.folder import Folder

PASSAGES, ROUND, REVIEWS, RESULT = "passages.jsonl", "round.json", "reviews.jsonl", "result.json"
_ROUND = re.compile(r"round-(\d+)/round\.json")


@dataclass(frozen=True, kw_only=True)
class ReviewRound:
    """A round: its number, counted through all runs that go on from one another, and what is known of it.

    after: the folder of the earlier run; empty for the first. types: to choose from; empty in a round of a
    version that did not keep them. result: None until reviews are imported.
    """

    number: int
    folder: Folder
    tasks: tuple[ReviewTask, ...]
    after: str = ""
    types: tuple[str, ...] = ()
    reviews: tuple[Review, ...] = ()
    result: RoundResult | None = None

    @property
    def tasks_by_id(self) -> dict[str, ReviewTask]:
        """Return what was given out, by passage id; passages known from earlier rounds are left out."""
        return {task.passage_id: task for task in self.tasks if not task.known}

    def merged(self) -> list[ReviewedPassage]:
        """Return the passages that have a usable review."""
        return merge_reviews(self.reviews, self.tasks_by_id)

    def reviewed_ids(self) -> set[str]:
        """Return the ids of passages that somebody has looked at, skipped ones too."""
        return {review.passage_id for review in self.reviews}

    def drawn_ids(self) -> set[str]:
        """Return the ids of the random share that have been looked at, in this round or an earlier one."""
        seen = self.reviewed_ids()
        return {
            task.passage_id
            for task in self.tasks
            if task.part == RANDOM and (task.known or task.passage_id in seen)
        }


def round_name(number: int) -> str:
    """Return the name of a round's folder."""
    return f"round-{number:03d}"


def rounds_of(review: Folder) -> list[ReviewRound]:
    """Read the rounds in a run's folder `review`, oldest first."""
    numbers = sorted(int(match[1]) for name in review.tree() if (match := _ROUND.fullmatch(name)))
    return [_read(review / round_name(number), number) for number in numbers]


def earlier_rounds(after: str | None) -> list[ReviewRound]:
    """Read the rounds of an earlier run and of those before it, oldest first.

    Raises:
        UserError: where the run has no round, or the runs go on from one another in a circle.
    """
    found, seen = list[ReviewRound](), set[str]()
    while after:
        folder = Folder(after)
        if folder.url in seen:
            raise UserError(f"review.after: {folder.url} goes on from itself; name the run of the last round")
        seen.add(folder.url)
        rounds = rounds_of(folder / "review")
        if not rounds:
            raise UserError(
                f"review.after: {folder.url} has no round of review; name a run's folder, such as runs/my-run"
            )
        found, after = rounds + found, rounds[0].after
    return found


def write_round(
    review: Folder, number: int, tasks: list[ReviewTask], facts: dict[str, Any], files: dict[str, bytes]
) -> ReviewRound:
    """Write a round: the files for people, then round.json. A round that is the same stays as it is.

    Raises:
        UserError: where the round was given out with other passages.
    """
    folder, passages = review / round_name(number), json_lines(tasks)
    facts = {**facts, "round": number, "passages_digest": hashlib.sha256(passages).hexdigest()}
    before = _facts(folder)
    if before and before["passages_digest"] != facts["passages_digest"]:
        raise UserError(
            f"{folder.url}: this round was given out with other passages and has no reviews yet; import them "
            "(uniner review import CONFIG --file FILE), or delete that folder"
        )
    for name, data in {PASSAGES: passages, **files}.items():
        folder.write(name, data)
    folder.write_sealed_json(ROUND, facts)
    return _read(folder, number)


def _read(folder: Folder, number: int) -> ReviewRound:
    facts = _facts(folder) or {}
    passages = folder.read(PASSAGES)
    if hashlib.sha256(passages).hexdigest() != facts["passages_digest"]:
        raise UserError(
            f"{folder.path(PASSAGES)}: was changed or is damaged; restore it, or delete the round's folder"
        )
    reviews = folder.read_if_exists(REVIEWS) or b""
    result = folder.read_sealed_json(RESULT, "import the round's files again")
    return ReviewRound(
        number=number,
        folder=folder,
        after=facts["after"],
        types=tuple(facts.get("types", ())),
        tasks=tuple(read_json_lines(passages, ReviewTask, folder.path(PASSAGES))),
        reviews=tuple(read_json_lines(reviews, Review, folder.path(REVIEWS))),
        result=msgspec.convert(result, RoundResult) if result else None,
    )


def _facts(folder: Folder) -> dict[str, Any] | None:
    return folder.read_sealed_json(ROUND, "restore it, or delete the round's folder")
