"""The review loop: give out tagged passages to correct, and read the corrections back as gold data.

It runs in the driver alone, without Ray: choosing is one pass over the columns of tag's chunks.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain

from uniner.errors import UserError
from uniner.gold.records import GoldEntity
from uniner.review import form, label_studio
from uniner.review.choice import Chooser, divide, passage_hash
from uniner.review.read_back import (
    ReadBack,
    ReviewFormat,
    gold_lines_format,
    latest,
    passed_over,
    read_reviews,
    unknown_type_lines,
)
from uniner.review.results import result_lines, summarise
from uniner.review.rounds import RESULT, REVIEWS, ReviewRound, earlier_rounds, rounds_of, write_round
from uniner.review.tagged import read_tasks, scan
from uniner.review.tasks import (
    DISAGREE,
    PARTS,
    RANDOM,
    RULES,
    UNSURE,
    ReviewedPassage,
    ReviewTask,
    json_lines,
)
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import absolute
from uniner.storage.folder import Folder
from uniner.storage.lease import hold_lease
from uniner.storage.manifest import Manifest
from uniner.storage.stage_folder import StageFolder

SECTIONS = ("tag", "review")
_FORMATS = (
    ReviewFormat("Label Studio's JSON export", label_studio.is_export, label_studio.read_export),
    ReviewFormat("the form's saved file", form.is_saved_form, form.read_saved_form),
    gold_lines_format(),
)
_WORDS = {
    RANDOM: "drawn at random",
    RULES: "against a rule",
    DISAGREE: "in disagreement",
    UNSURE: "least sure",
}


def export_round(context: StageContext) -> ReviewRound:
    """Choose the passages of the next round and write them for people to correct. Prints what is in it.

    A round without reviews is written again, not followed by another.
    """
    settings, run = context.sections.review, context.run_folder
    tagged, passages = run / "tag", run / "ingest"
    manifest = tagged.require_manifest()
    other = StageFolder(settings.against) / "tag" if settings.against else None
    if other:
        other.require_manifest()
    with hold_lease(context.folder):
        earlier = _finished(context)
        chooser = Chooser(
            divide(settings.passages, settings.random_share, _parts(other)),
            context.seed,
            drawn=set().union(*(each.drawn_ids() for each in earlier)),
            reviewed=(known := set().union(*(each.reviewed_ids() for each in earlier))),
        )
        scan(tagged, passages, chooser, other)
        tasks = read_tasks(tagged, passages, chooser.choose(), known)
        # By another hash than the draw, so that a reviewer who stops half-way has done a part of each part.
        tasks.sort(key=lambda task: passage_hash("order", context.seed, task.passage_id))
        given = [task for task in tasks if not task.known]
        if not given:
            raise UserError(
                f"{tagged.url}: all its passages have been reviewed; tag more of the corpus, such as with "
                "uniner ingest CONFIG --append"
            )
        number = max((each.number for each in earlier), default=0) + 1
        parts = {part: sum(task.part == part for task in given) for part in PARTS}
        types = _types(manifest, given)
        facts = {
            "types": types,
            "after": absolute(settings.after) if settings.after else "",
            "run": run.name,
            "tag": manifest.digest,
            "parts": parts,
        }
        files = _files_for_people(f"{run.name} round {number}", types, given)
        made = write_round(context.folder, number, tasks, facts, files)
    counts = ", ".join(f"{count:,} {_WORDS[part]}" for part, count in parts.items() if count)
    print(f"review: round {number}, {len(given):,} passages: {counts}")
    if len(tasks) < settings.passages:
        print(f"review: fewer than review.passages = {settings.passages:,}: no other passage has a reason")
    print(f"review: {made.folder.url}: form.html, label-studio.json and .xml, gold.jsonl")
    return made


def import_reviews(
    context: StageContext, files: Sequence[str], reviewer: str = "", number: int | None = None
) -> ReviewRound:
    """Read reviewed files into a round, and write its gold data. Prints what the round says.

    reviewer: who made the reviews of files that do not say it. number: the round; None: the newest.

    Raises:
        UserError: where a file cannot be read, or more than 1 % of the reviews are wrong; nothing is written.
    """
    with hold_lease(context.folder):
        rounds = rounds_of(context.folder)
        chosen = _find_round(context, rounds, number)
        read = ReadBack()
        for file in files:
            read_reviews(absolute(file), chosen.tasks_by_id, _FORMATS, reviewer, read)
        read.check()
        before_and_now = [*chosen.reviews, *read.reviews]
        reviews = latest(before_and_now)
        chosen.folder.write(REVIEWS, json_lines(reviews))
        others = [*earlier_rounds(context.sections.review.after), *rounds]
        earlier = [each for each in others if each.number < chosen.number]
        known = {passage.passage_id: passage.entities for each in earlier for passage in each.merged()}
        result = summarise(chosen.tasks, reviews, known)
        chosen.folder.write_sealed_json(RESULT, asdict(result))
        chosen = replace(chosen, reviews=tuple(reviews), result=result)
        gold = [
            passage
            for each in others
            for passage in (chosen if each.number == chosen.number else each).merged()
        ]
        written = _write_gold(context.folder, gold)
    for line in _import_lines(chosen, read, passed_over(before_and_now, reviews)):
        print(f"review: {line}")
    estimates = [(each.number, each.result.estimate) for each in earlier if each.result]
    before = next(((number, found) for number, found in reversed(estimates) if found), None)
    for line in result_lines(chosen.number, result, before):
        print(f"review: {line}")
    print(f"review: {len(gold):,} passages of gold data in {context.folder.path('gold.jsonl')}")
    for name, use in (("train.jsonl", "build.supervised.review"), ("evaluate.jsonl", "evaluate.gold.review")):
        if name in written:
            print(f"review: {use}={context.folder.path(name)}")
    return chosen


def _import_lines(chosen: ReviewRound, read: ReadBack, older: int) -> Iterator[str]:
    """Say which reviews became no gold data, and which types nobody was asked for."""
    yield from (f"left out: {error}" for error in read.errors)
    if read.errors:
        yield f"{len(read.errors):,} of {read.rows:,} reviews are wrong and left out"
    if older:
        yield f"{older:,} older reviews are passed over: the same person reviewed the passage again later"
    if chosen.types:
        yield from unknown_type_lines(read.reviews, chosen.types)


def _finished(context: StageContext) -> list[ReviewRound]:
    """Return the rounds before the next one: all but a last one that has no reviews yet."""
    own = rounds_of(context.folder)
    if own and not own[-1].reviews:
        own = own[:-1]
    return [*earlier_rounds(context.sections.review.after), *own]


def _find_round(context: StageContext, rounds: Sequence[ReviewRound], number: int | None) -> ReviewRound:
    if not rounds:
        raise UserError(
            f"{context.folder.url}: no round was given out; run uniner review export CONFIG first"
        )
    wanted = rounds[-1].number if number is None else number
    found = next((each for each in rounds if each.number == wanted), None)
    if found is None:
        numbers = ", ".join(str(each.number) for each in rounds)
        raise UserError(f"--round {wanted}: this run has no such round; it has {numbers}")
    return found


def _parts(other: StageFolder | None) -> tuple[str, ...]:
    return (RANDOM, RULES, DISAGREE, UNSURE) if other else (RANDOM, RULES, UNSURE)


def _types(manifest: Manifest, tasks: Iterable[ReviewTask]) -> list[str]:
    """Return the types to choose from: those that tag asked for, then others that the passages have."""
    asked = manifest.identity.settings.get("tag", {})
    of_source = chain.from_iterable(asked.get("types_of_source", {}).values())
    found = (entity.type for task in tasks for entity in task.entities)
    return list(dict.fromkeys([*asked.get("types", ()), *of_source, *sorted(found)]))


def _files_for_people(title: str, types: Sequence[str], tasks: Sequence[ReviewTask]) -> dict[str, bytes]:
    gold = [
        ReviewedPassage(
            passage_id=task.passage_id,
            text=task.text,
            source=task.source,
            part=task.part,
            entities=tuple(GoldEntity(e.start, e.end, e.text, e.type) for e in task.entities),
            reviewers=(),
        ).gold_row()
        for task in tasks
    ]
    return {
        "label-studio.json": label_studio.studio_tasks(tasks, title),
        "label-studio.xml": label_studio.labelling_config(types).encode(),
        "gold.jsonl": json_lines(gold),
        "form.html": form.review_form(title, types, tasks).encode(),
    }


def _write_gold(folder: Folder, gold: Sequence[ReviewedPassage]) -> list[str]:
    """Write the gold files that have passages; returns their names."""
    shares = {
        "gold.jsonl": gold,
        "train.jsonl": [passage for passage in gold if passage.part != RANDOM],
        "evaluate.jsonl": [passage for passage in gold if passage.part == RANDOM],
    }
    for name, passages in shares.items():
        if passages:
            folder.write(name, json_lines(passage.gold_row() for passage in passages))
        else:
            folder.remove([name])
    return [name for name, passages in shares.items() if passages]
