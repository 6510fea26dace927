"""The ingest stage: cut the corpus's shards, part by part, and what generate wrote, into passages."""

import functools
import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from uniner.config.schema import Ingest
from uniner.errors import UserError
from uniner.ingest.chunk_reader import IngestSettings, ShardPosition, chunk_key, read_chunks, split_key
from uniner.ingest.corpus import Corpus, arrange
from uniner.ingest.document_reader import REASONS, RowFields, read_texts
from uniner.ingest.passage_filters import (
    BenchmarkNgrams,
    BenchmarkTexts,
    PassageFilter,
    collect_ngrams,
    languages,
)
from uniner.ingest.repeated_ids import RepeatedIds, collect_digests, divide_chunks, find_repeated
from uniner.ingest.sampling import Sampling
from uniner.ingest.selection import select_passages
from uniner.ingest.shards import ShardPart, generated_parts, shard_digest, shard_digests, split_shards
from uniner.progress import Progress
from uniner.records import generated_source
from uniner.runtime import chunk_pipeline
from uniner.runtime.metrics import StageMetrics
from uniner.runtime.stage_context import StageContext
from uniner.storage.chunk_list import ChunkList, ChunkListBuilder
from uniner.storage.filesystem import expand, is_remote
from uniner.storage.folder import Folder
from uniner.storage.manifest import Counts, Identity, Manifest, StageTotals
from uniner.storage.model_folders import load_tokenizer, model_digest, require_model
from uniner.storage.stage_folder import Chunk, StageFolder, rejects_name
from uniner.storage.summary_log import SummaryLog

SECTIONS = ("student", "generate", "ingest")
_BENCHMARKS = "benchmarks.npz"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IngestResults:
    """What the manifest says of an ingest: how much of each shard was read, the parts, the benchmarks.

    repeated_ids: documents with an earlier one's id (`RepeatedIds`); None without ingest.id_field.
    """

    read: str
    parts: list[dict[str, Any]]
    benchmarks: dict[str, dict[str, float]]
    repeated_ids: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """What a task makes its `PassageFilter` of. benchmarks: the folder with their n-grams; empty: none."""

    min_tokens: int
    languages: tuple[str, ...]
    benchmarks: str


def check(context: StageContext) -> None:
    """Find the shards and the tokenizer, and compare with what the stage began with."""
    settings, base = context.sections.ingest, context.sections.student.base
    require_model(base, setting="student.base")
    if not is_remote(base):  # a remote model would be copied here whole
        load_tokenizer(base)
    if not settings.shards and not context.sections.generate.domains:
        raise UserError(
            "ingest.shards is empty; name files, such as ingest.shards='[\"my-texts/*.txt\"]', or set "
            "generate.domains to have passages written"
        )
    if settings.languages and (unknown := set(settings.languages) - languages()):
        raise UserError(
            f"ingest.languages: cannot recognise {', '.join(sorted(unknown))}; the known languages are "
            f"{', '.join(sorted(languages()))}"
        )
    if 2 * settings.overlap_tokens > settings.max_tokens:
        raise UserError(
            f"ingest.overlap_tokens = {settings.overlap_tokens} must be at most half of ingest.max_tokens = "
            f"{settings.max_tokens}, so that passages advance"
        )
    if settings.stratified and not settings.max_passages:
        raise UserError("ingest.stratified divides ingest.max_passages among the sources; set that too")
    corpus = _corpus(context)
    _require_no_selection(settings, corpus)
    _split(settings, corpus, generated={})
    context.folder.check_identity(_identity(context, corpus, parents={}))


def parents(context: StageContext) -> list[str]:
    """Return generate, where it writes passages."""
    return ["generate"] if context.sections.generate.domains else []


def run(context: StageContext) -> Manifest:
    """Cut the corpus into passages. Returns the manifest."""
    started = time.monotonic()
    settings, folder = context.sections.ingest, context.folder
    generated = context.run_folder / "generate" if context.sections.generate.domains else None
    corpus = _corpus(context)
    identity = _identity(context, corpus, {"generate": generated.digest()} if generated else {})
    if manifest := folder.begin(identity):
        if context.append:
            log.info(f"ingest: no new shard to add; the run has all {len(corpus.files):,}")
        return chunk_pipeline.log_complete("ingest", manifest, "passages", folder)
    selects = settings.dedupe or settings.max_passages is not None
    # Candidates for a selection are set aside until they are all there, and deleted in the end.
    target = folder / "candidates" if selects else folder
    benchmarks = _write_benchmarks(folder, settings) if settings.decontaminate else {}
    parts = _split(settings, corpus, generated.chunk_files() if generated else {})
    totals = _read_parts(target, parts, _chunk_maker(context, digests=selects))
    _require_few_rejects(target, totals, settings.max_reject_share)
    if selects:
        totals = select_passages(folder, target, totals.chunks(), settings)
        _require_enough(totals.rows, settings)
    repeated = _find_repeated_ids(folder, totals) if settings.id_field else None
    results = IngestResults(
        read=f"the first {settings.read_mb:,} MB of each shard" if settings.read_mb else "all of each shard",
        parts=[part.manifest_entry() for part in parts],
        benchmarks=_count_contaminated(benchmarks, totals.figures),
        repeated_ids=asdict(repeated) if repeated else None,
    )
    seconds = time.monotonic() - started
    manifest = folder.write_manifest(Manifest.of(identity, totals, seconds, results=asdict(results)))
    if selects:
        target.remove_all()
    if repeated and repeated.documents:
        log.warning(_describe_repeated(repeated, parts))
    if not manifest.rows:
        log.warning(_describe_nothing(totals.figures))
    if settings.read_mb:
        log.warning(f"ingest: read only {results.read} (ingest.read_mb), which is not a sample of the corpus")
    return chunk_pipeline.log_done("ingest", manifest, "passages", folder)


def _chunk_maker(context: StageContext, digests: bool) -> functools.partial[Iterator[Chunk]]:
    settings = context.sections.ingest
    filters = FilterSettings(
        min_tokens=settings.min_tokens,
        languages=tuple(settings.languages),
        benchmarks=context.folder.url if settings.decontaminate else "",
    )
    return functools.partial(
        _make_chunks,
        settings=_chunk_settings(context, digests),
        base=context.sections.student.base,
        filters=filters,
    )


def _chunk_settings(context: StageContext, digests: bool) -> IngestSettings:
    settings = context.sections.ingest
    # Generated passages are paid for: a small sample of a large corpus does not drop them.
    shares = {generated_source(domain): 1.0 for domain in context.sections.generate.domains}
    sampling = Sampling(
        context.seed, settings.sample, shares | settings.sample_of_source, 4 * settings.max_tokens
    )
    return IngestSettings(
        settings.max_tokens,
        settings.overlap_tokens,
        settings.chunk_passages,
        sampling,
        RowFields(settings.text_field, settings.source_field, settings.id_field),
        settings.max_row_mb * 1_000_000,
        digests,
        settings.zstd_window_mib,
    )


def _corpus(context: StageContext) -> Corpus:
    files, folder = expand(context.sections.ingest.shards), context.folder
    arranged = functools.partial(arrange, files, shard_digests(files), url=folder.url, append=context.append)
    try:
        return arranged(folder.read_identity())
    except UserError:
        manifest = folder.manifest()
        if manifest is None:
            raise
    # Shards of an addition that did not complete may be corrected or left out.
    return arranged(manifest.identity)


def _require_no_selection(settings: Ingest, corpus: Corpus) -> None:
    """Refuse new shards where passages are chosen among all of the corpus: the choice would be another."""
    for name, chooses in (("max_passages", settings.max_passages is not None), ("dedupe", settings.dedupe)):
        if chooses and corpus.new:
            raise UserError(
                f"ingest: ingest.{name} chooses passages among all shards, so none can be added to a run "
                "that has chosen; read all of them in another run, such as run.name=my-run-2"
            )


def _identity(context: StageContext, corpus: Corpus, parents: dict[str, str | None]) -> Identity:
    """Return what decides the passages. Files and the base count by name and content: they may be moved."""
    identity = _identity_of(context, corpus, parents)
    return replace(identity, earlier=(_identity_of(context, corpus.before(), parents),) if corpus.new else ())


def _identity_of(context: StageContext, corpus: Corpus, parents: dict[str, str | None]) -> Identity:
    ingest = context.sections.ingest
    settings = ingest.identity()
    del settings["shards"]
    benchmarks = settings.pop("decontaminate")
    if not benchmarks:
        del settings["decontaminate_words"]
    if not ingest.shards:
        for name in ("read_mb", "text_field", "id_field", "source_field"):
            del settings[name]
    shares = {ingest.sample, *ingest.sample_of_source.values()}
    draws = ingest.max_passages is not None or shares - {0.0, 1.0}
    return Identity(
        stage="ingest",
        settings={
            "run": {"seed": context.seed} if draws else {},
            "generate": {"domains": context.sections.generate.domains},
            "ingest": settings,
        },
        inputs={
            "student.base": model_digest(context.sections.student.base),
            "ingest.decontaminate": {name: asdict(shard_digest(file)) for name, file in benchmarks.items()},
            **corpus.inputs(),
        },
        parents=parents,
    )


def _split(settings: Ingest, corpus: Corpus, generated: Mapping[str, int]) -> list[ShardPart]:
    """Divide the corpus into parts. generated: the chunks of generate, address to bytes."""

    def split(files: Sequence[str], sizes: Sequence[int], first: int, root: str | None) -> list[ShardPart]:
        return split_shards(
            files,
            sizes,
            settings.text_field,
            settings.read_mb and settings.read_mb * 1_000_000,
            settings.id_field,
            settings.zstd_window_mib,
            first,
            root,
        )

    return corpus.split(split, functools.partial(generated_parts, generated))


def _write_benchmarks(folder: StageFolder, settings: Ingest) -> dict[str, BenchmarkTexts]:
    """Write the benchmarks' n-grams where the tasks read them. Returns the number of texts by benchmark."""
    max_bytes = settings.max_row_mb * 1_000_000
    texts = {name: read_texts(file, max_bytes) for name, file in settings.decontaminate.items()}
    ngrams, counts = collect_ngrams(texts, settings.decontaminate_words)
    folder.write(_BENCHMARKS, ngrams.to_bytes())
    return counts


def _count_contaminated(
    benchmarks: dict[str, BenchmarkTexts], figures: Counts
) -> dict[str, dict[str, float]]:
    return {
        name: {**asdict(texts), "dropped": figures.get(f"shared_with_{name}", 0)}
        for name, texts in benchmarks.items()
    }


def _read_parts(folder: StageFolder, parts: Sequence[ShardPart], make: Any) -> StageTotals:
    """Read all parts into chunks, each from where its existing chunks end. Returns the sums of all chunks."""
    summary_log = SummaryLog(folder)
    totals, items = _existing_chunks(folder, parts, summary_log)
    all_bytes = sum(part.bytes for part in parts)
    metrics = StageMetrics.of(folder, "ingest")
    with Progress("ingest", None, "passages") as progress:
        progress.skip(totals.rows)
        for summary in chunk_pipeline.make_chunks(folder, items, make):
            totals.add(summary)
            summary_log.add(summary)
            metrics.finished(summary)
            progress.add(summary.rows, min(1.0, totals.figures["bytes_in"] / max(1, all_bytes)))
    return totals


def _existing_chunks(
    folder: StageFolder, parts: Sequence[ShardPart], summary_log: SummaryLog
) -> tuple[StageTotals, list[dict[str, Any]]]:
    """Return the sums over the existing chunks, and an item for each unfinished part.

    A part's chunks count from its first without a gap; a chunk after a gap is made again.
    """
    counts = _chunks_without_gap(folder.chunk_keys(), parts)
    existing = ChunkListBuilder()
    for part, count in counts.items():
        for number in range(count):
            existing.add(chunk_key(part, number), 0, 0, "")
    totals, starts = StageTotals(), {part.number: ShardPosition() for part in parts}
    for summary in folder.summaries(ChunkList(existing.table()), relog=summary_log):
        totals.add(summary)
        part_number, number = split_key(summary.key)
        if number + 1 == counts[part_number]:
            starts[part_number] = ShardPosition(**summary.position)
    items = [
        {"part": asdict(part), "start": asdict(starts[part.number])}
        for part in parts
        if not starts[part.number].last
    ]
    return totals, items


def _chunks_without_gap(keys: set[str], parts: Sequence[ShardPart]) -> dict[int, int]:
    """Return, for each part, how many chunks from its first on exist without a gap."""
    return {
        part.number: next(
            number for number in itertools.count() if chunk_key(part.number, number) not in keys
        )
        for part in parts
    }


def _make_chunks(
    item: dict[str, Any], settings: IngestSettings, base: str, filters: FilterSettings
) -> Iterator[Chunk]:
    part, start = ShardPart(**item["part"]), ShardPosition(**item["start"])
    yield from read_chunks(part, start, settings, load_tokenizer(base), _passage_filter(filters))


@functools.lru_cache(maxsize=1)
def _passage_filter(settings: FilterSettings) -> PassageFilter:
    ngrams = None
    if settings.benchmarks:
        ngrams = BenchmarkNgrams.from_bytes(Folder(settings.benchmarks).read(_BENCHMARKS))
    return PassageFilter(settings.min_tokens, settings.languages, ngrams)


def _find_repeated_ids(folder: StageFolder, totals: StageTotals) -> RepeatedIds:
    keys = [key for key, rows in totals.chunks().rows_of_chunk.items() if rows]
    tasks = divide_chunks(keys, totals.figures.get("documents_chosen", 0))
    collect = functools.partial(collect_digests, folder=folder)
    return find_repeated(chunk_pipeline.gather(tasks, collect), tasks[0]["share"] if tasks else 1.0)


def _describe_repeated(repeated: RepeatedIds, parts: Sequence[ShardPart]) -> str:
    assert repeated.example is not None, "documents have the id of an earlier one"
    by_number = {part.number: part for part in parts}
    places = (by_number[part].place(row) for part, row in repeated.example)
    later, earlier = (f"line {line:,} of {shard}" for shard, line in places)
    among = "" if repeated.share == 1 else f" among {repeated.share:.2%} of the ids, which were compared,"
    return (
        f"ingest:{among} {repeated.documents:,} documents have the id of an earlier one (ingest.id_field), "
        f"such as {later}, which has that of {earlier}; their doc_id alone does not tell them apart, their "
        "passage_id does"
    )


def _describe_nothing(figures: Counts) -> str:
    return (
        f"ingest: the corpus has no passages ({figures.get('lines', 0):,.0f} rows were read), so later "
        "stages have nothing to do; look at ingest.shards, ingest.min_tokens, ingest.languages and "
        "ingest.sample, and take another run.name, such as run.name=my-run-2"
    )


def _require_enough(passages: int, settings: Ingest) -> None:
    wanted = settings.max_passages or 0
    if passages >= wanted:
        return
    if settings.sample < 1:
        enough = min(1.0, 1.1 * settings.sample * wanted / max(1, passages))
        raise UserError(
            f"ingest: the sample has {passages:,} passages, fewer than ingest.max_passages = {wanted:,}; "
            f"take another run.name with ingest.sample={enough:.2g}"
        )
    log.warning(
        f"ingest: the whole corpus has {passages:,} passages, fewer than ingest.max_passages = {wanted:,}"
    )


def _require_few_rejects(folder: StageFolder, totals: StageTotals, limit: float) -> None:
    """Refuse a corpus, or what is added to one, of which too many rows were rejected."""
    complete = folder.manifest()  # of the shards before an addition, which have passed
    before = complete.figures if complete else {}
    figures = {name: count - before.get(name, 0) for name, count in totals.figures.items()}
    counts = {reason: figures.get(f"rejected_{reason}", 0) for reason in REASONS}
    rejected = {reason: count for reason, count in counts.items() if count}
    if sum(rejected.values()) > limit * figures.get("lines", 0):
        share = sum(rejected.values()) / figures["lines"]
        names = {f"rejected_{reason}" for reason in rejected}
        known = complete.chunks.rows_of_chunk if complete else {}
        chunks = (each for each in folder.summaries(totals.chunks()) if each.key not in known)
        first = min(summary.key for summary in chunks if names & summary.figures.keys())
        listed = ", ".join(f"{count:,.0f} {reason}: {REASONS[reason]}" for reason, count in rejected.items())
        rows, cure = "rows", f"correct the shards and delete {folder.url}"
        if complete:
            rows = "rows of the new shards"
            cure = "correct the new shards or leave them out, and run `uniner ingest CONFIG --append` again"
        raise UserError(
            f"ingest: {share:.2%} of {figures['lines']:,.0f} {rows} were rejected ({listed}), the limit is "
            f"{limit:.2%}; look at {folder.path(rejects_name(first))}, then {cure}, or raise "
            "ingest.max_reject_share"
        )
