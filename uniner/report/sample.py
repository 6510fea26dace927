"""A bounded sample of a run's tagged passages, and what another run says of the same passages."""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from uniner.errors import UserError
from uniner.labels import normalize_type
from uniner.records import Annotation, Entity, Passage, TaggedEntity, TaggedPassage, from_table
from uniner.storage.chunk_list import ChunkList
from uniner.storage.joined_chunks import member_keys, read_joined
from uniner.storage.manifest import StageTotals
from uniner.storage.stage_folder import StageFolder

_LEAST_CHUNKS, _MOST_CHUNKS = 32, 512
MOST_CHARACTERS = 12_000_000
"""Characters of all passages together: what a phone still opens."""
NO_SCORE = -1.0
"""The score of a mention of the teacher, which gives none."""


@dataclass(frozen=True, kw_only=True)
class SampledPassage:
    """A passage to show. Offsets of entities are into its text; -1: not found there.

    other: what the other run says; None where nothing is compared, or where the other run lacks the passage.
    """

    passage_id: str
    text: str
    source: str
    outcome: str
    entities: tuple[TaggedEntity, ...]
    other: tuple[TaggedEntity, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class PassageSample:
    """Passages in the order of the corpus, and what they are drawn from.

    stage: tag, or annotate where nothing is tagged yet. rows, chunks: all there are. keys: of the chunks that
    they are drawn from. other: the name of what is compared, "" for nothing. lacking: passages that it does
    not have.
    """

    passages: tuple[SampledPassage, ...] = ()
    stage: str = ""
    rows: int = 0
    chunks: int = 0
    keys: tuple[str, ...] = ()
    other: str = ""
    lacking: int = 0


@dataclass(frozen=True)
class PassageStage:
    """A stage of a run that says which entities passages have: tag, or annotate."""

    run: StageFolder
    stage: str
    chunks: ChunkList

    def read(self, key: str, among: Callable[[Sequence[str]], Sequence[int]]) -> list[SampledPassage]:
        """Read passages of a chunk. among: chooses rows by the passages' ids."""
        passages = read_joined(self.run / "ingest", key).table
        rows = (self.run / self.stage).read_chunk(key).table
        if passages["passage_id"] != rows["passage_id"]:
            raise UserError(
                f"{(self.run / self.stage).url}: chunk {key} has other passages than ingest; "
                f"ingest was run anew since: run `uniner {self.stage} CONFIG` in another run"
            )
        chosen = pa.array(among(passages["passage_id"].to_pylist()), pa.int64())
        pairs = zip(from_table(passages.take(chosen), Passage), self._rows(rows.take(chosen)), strict=True)
        return [
            SampledPassage(
                passage_id=passage.passage_id,
                text=passage.text,
                source=passage.source,
                outcome=outcome,
                entities=entities,
            )
            for passage, (outcome, entities) in pairs
        ]

    def _rows(self, table: pa.Table) -> Iterable[tuple[str, tuple[TaggedEntity, ...]]]:
        if self.stage == "tag":
            for row in from_table(table, TaggedPassage):
                yield row.outcome, tuple(_relative(entity, row.char_start) for entity in row.entities)
        else:
            for annotation in from_table(table, Annotation):
                yield annotation.outcome, tuple(map(_of_teacher, annotation.entities))


def passage_stage(run: StageFolder, stages: Sequence[str] = ("tag", "annotate")) -> PassageStage | None:
    """Return the first of these stages that has chunks, complete or not; None without one."""
    for stage in stages:
        folder = run / stage
        manifest = folder.manifest()
        chunks = manifest.chunks if manifest else StageTotals(folder.summaries()).chunks()
        if chunks:
            return PassageStage(run, stage, chunks)
    return None


def sample_passages(source: PassageStage, most: int) -> PassageSample:
    """Draw at most so many passages, by a digest of their ids, from chunks spread over the corpus.

    Two runs on the same corpus so show the same passages.
    """
    keys = _spread(source.chunks, most)
    drawn: list[tuple[str, int, int, SampledPassage]] = []
    for place, key in enumerate(keys):
        passages = source.read(key, lambda ids: _lowest(ids, most))
        drawn += [(_digest(each.passage_id), place, row, each) for row, each in enumerate(passages)]
        drawn = heapq.nsmallest(most, drawn, key=lambda item: item[:3])
    kept, characters = [], 0
    for item in drawn:
        characters += len(item[3].text)
        if characters > MOST_CHARACTERS:
            break
        kept.append(item)
    in_order = sorted(kept, key=lambda item: item[1:3])
    return PassageSample(
        passages=tuple(passage for *_, passage in in_order),
        stage=source.stage,
        rows=source.chunks.total_rows,
        chunks=len(source.chunks),
        keys=tuple(keys),
    )


def compare(sample: PassageSample, other: PassageStage, name: str) -> PassageSample:
    """Add to each passage what another run, or another stage, says of it.

    Raises:
        UserError: the other run has none of the passages.
    """
    wanted = {passage.passage_id: passage for passage in sample.passages}
    found: dict[str, SampledPassage] = {}
    for key in _same_chunks(sample.keys, other.chunks):
        rows = other.read(key, lambda ids: [row for row, each in enumerate(ids) if each in wanted])
        # An id tells the place in a corpus; another corpus has other texts there.
        found |= {row.passage_id: row for row in rows if row.text == wanted[row.passage_id].text}
    if wanted and not found:
        raise UserError(
            f"{other.run.url}: has none of the passages of this run, so nothing can be compared; take a run "
            "with the same corpus and the same settings of ingest, such as --with runs/other-student"
        )
    passages = (
        replace(passage, other=found[key].entities if key in found else None)
        for key, passage in wanted.items()
    )
    return replace(sample, passages=tuple(passages), other=name, lacking=len(wanted) - len(found))


def _same_chunks(keys: Iterable[str], chunks: ChunkList) -> list[str]:
    """Return the chunks that have passages of ingest's chunks in `keys`; either may be joined."""
    holder = {member: key for key in chunks.keys.to_pylist() for member in member_keys(key)}
    same = (holder.get(member) for key in keys for member in member_keys(key))
    return [key for key in dict.fromkeys(same) if key is not None]


def _spread(chunks: ChunkList, most: int) -> list[str]:
    """Return keys of chunks spread evenly, enough for twice the passages where there are so many."""
    if not chunks or not most:
        return []
    per_chunk = max(1, chunks.total_rows // len(chunks))
    wanted = min(len(chunks), _MOST_CHUNKS, max(_LEAST_CHUNKS, -(-2 * most // per_chunk)))
    places = [number * len(chunks) // wanted for number in range(wanted)]
    return chunks.keys.take(pa.array(places, pa.int64())).to_pylist()


def _lowest(ids: Sequence[str], most: int) -> list[int]:
    """Return the rows with the lowest digests of their ids, in order."""
    return sorted(heapq.nsmallest(most, range(len(ids)), key=lambda row: _digest(ids[row])))


def _digest(passage_id: str) -> str:
    return hashlib.blake2b(passage_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _of_teacher(entity: Entity) -> TaggedEntity:
    """Return a mention of the teacher, its type written as build writes it."""
    name = normalize_type(entity.type) or entity.type
    grounding = "exact" if entity.start >= 0 else "ungrounded"
    return TaggedEntity(**{**vars(entity), "type": name}, score=NO_SCORE, grounding=grounding)


def _relative(entity: TaggedEntity, offset: int) -> TaggedEntity:
    if entity.start < 0:
        return entity
    return replace(entity, start=entity.start - offset, end=entity.end - offset)
