"""Read a run's tagged passages: once over the columns that choose, then the chosen passages themselves."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from uniner.errors import UserError
from uniner.passages import own_span
from uniner.records import Passage, TaggedPassage, from_table
from uniner.review import signals
from uniner.review.choice import Choice, Chooser, by_chunk
from uniner.review.tasks import DISAGREE, RULES, UNSURE, ReviewTask, TaskEntity
from uniner.storage.joined_chunks import read_joined, read_joined_columns
from uniner.storage.stage_folder import StageFolder

_AHEAD = 4
"""Chunks that are read while another is worked on."""
_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


def scan(tagged: StageFolder, passages: StageFolder, chooser: Chooser, other: StageFolder | None) -> None:
    """Give a chooser the signals of all tagged passages, in one pass. other: another run's."""
    chunks = tagged.require_manifest().chunks.sorted_by_key()
    keys = chunks.keys.to_pylist()

    def read(key: str) -> tuple[str, pa.Table, pa.Table]:
        columns = read_joined_columns(passages, key, ["passage_id", "source"])
        return key, tagged.read_columns(key, ["passage_id", "entities"]), columns

    others = _others(other, chunks.table["rows"].to_pylist()) if other else None
    for key, table, columns in _read_ahead(read, keys):
        ids, sources = columns["passage_id"].to_pylist(), columns["source"].to_pylist()
        _require_same(tagged, table, ids)
        found = {RULES: signals.rule_conflicts(table), UNSURE: signals.unsure(table)}
        if other and others:
            beside = next(others)
            _require_same(other, beside, ids)
            found[DISAGREE] = signals.disagree(table, beside)
        chooser.add(key, ids, sources, found)


def read_tasks(
    tagged: StageFolder, passages: StageFolder, choices: Sequence[Choice], known: Iterable[str]
) -> list[ReviewTask]:
    """Return the chosen passages. known: ids of those that an earlier round has reviewed."""
    reviewed, tasks = set(known), list[ReviewTask]()
    for key, chosen in by_chunk(choices).items():
        rows = pa.array([choice.candidate.row for choice in chosen])
        found = from_table(tagged.read_chunk(key).table.take(rows), TaggedPassage)
        texts = from_table(read_joined(passages, key).table.take(rows), Passage)
        for choice, row, passage in zip(chosen, found, texts, strict=True):
            tasks.append(_task(choice, row, passage, passage.passage_id in reviewed))
    return tasks


def _task(choice: Choice, row: TaggedPassage, passage: Passage, known: bool) -> ReviewTask:
    offset = passage.char_start
    own_start, own_end = own_span(passage)
    return ReviewTask(
        passage_id=passage.passage_id,
        doc_id=passage.doc_id,
        source=passage.source,
        text=passage.text,
        entities=tuple(
            TaskEntity(
                start=entity.start - offset,
                end=entity.end - offset,
                text=entity.text,
                type=entity.type,
                score=round(entity.score, 6),
            )
            for entity in row.entities
            if entity.start >= 0
        ),
        part=choice.part,
        type=choice.type,
        priority=round(choice.candidate.priority, 6),
        own_start=own_start - offset,
        own_end=own_end - offset,
        known=known,
    )


def _others(other: StageFolder, sizes: Sequence[int]) -> Iterator[pa.Table]:
    keys = other.require_manifest().chunks.sorted_by_key().keys.to_pylist()
    tables = _read_ahead(lambda key: other.read_columns(key, ["passage_id", "entities"]), keys)
    return signals.aligned(tables, sizes)


def _require_same(folder: StageFolder, table: pa.Table, ids: Sequence[str]) -> None:
    """Raise where a chunk's rows are not these passages."""
    for found, wanted in zip(table["passage_id"].to_pylist(), ids, strict=True):
        if found != wanted:
            raise UserError(
                f"{folder.url}: has the passage {found} where ingest has {wanted}; review.against must be a "
                "run that tagged the same passages (the same corpus and [ingest])"
            )


def _read_ahead(read: Callable[[_Item], _Read], items: Iterable[_Item]) -> Iterator[_Read]:
    """Read items in order, a few ahead in threads, never more."""
    left = iter(items)
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[Future[_Read]] = deque(pool.submit(read, item) for item in islice(left, _AHEAD))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(read, item) for item in islice(left, 1))
            yield result
