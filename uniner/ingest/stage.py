"""The ingest stage: parts of shards are the items; each is streamed, its chunks written as they are made.

What generate wrote is read as further parts, which come after those of the shards.
"""

import functools
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from uniner.config.schema import Config, Ingest
from uniner.errors import UserError
from uniner.ingest.chunk_reader import DIGEST, Position, Recipe, chunk_key, read_chunks
from uniner.ingest.contamination import Benchmarks, collect
from uniner.ingest.dedup_sample import repeated, smallest
from uniner.ingest.document_reader import REASONS, Fields, read_texts
from uniner.ingest.passage_filters import Hygiene, languages
from uniner.ingest.sampling import Sampling
from uniner.ingest.shards import Part, fingerprint, fingerprints, generated_parts, parts_of
from uniner.progress import Progress, say
from uniner.records import PASSAGE, generated_source
from uniner.runtime import chunk_pipeline
from uniner.storage.filesystem import expand, explained, is_remote
from uniner.storage.model_folders import load_tokenizer, model_fingerprint, require_model
from uniner.storage.stage_folder import PLAN, Chunk, Folder, Summary, merge, rejects_name, run_folder

_BENCHMARKS = "benchmarks.npz"
_READERS = 16


@dataclass(frozen=True)
class Checks:
    """What a worker makes its `Hygiene` of; benchmarks is the folder that has them, empty for none."""

    min_tokens: int
    languages: tuple[str, ...]
    benchmarks: str


def check(config: Config) -> None:
    """Find, before Ray starts, the shards and the tokenizer, and compare with what the run began with."""
    require_model(config.student.base)
    if not is_remote(config.student.base):  # else all of the model would be copied here
        load_tokenizer(config.student.base)
    if not config.ingest.shards and not config.generate.domains:
        raise UserError("ingest.shards: names no file; set it, or generate.domains to have passages written")
    if unknown := set(config.ingest.languages) - (languages() if config.ingest.languages else set()):
        raise UserError(
            f"ingest.languages: {', '.join(sorted(unknown))} cannot be told; take of "
            f"{', '.join(sorted(languages()))}"
        )
    if 2 * config.ingest.overlap_tokens > config.ingest.max_tokens:
        raise UserError(
            f"ingest.overlap_tokens = {config.ingest.overlap_tokens}: must be at most half of "
            f"ingest.max_tokens = {config.ingest.max_tokens}, so that passages go forward"
        )
    if config.ingest.stratified and not config.ingest.passages:
        raise UserError("ingest.stratified divides ingest.passages among the sources; set that too")
    files = expand(config.ingest.shards)
    folder, plan = _folder(config), _plan(config, files)
    _parts(config, files, plan)
    _require_same_shards(folder, plan)
    chunk_pipeline.check_plan(folder, plan)


def run(config: Config) -> dict[str, Any]:
    """Cut the corpus into passages. Returns the manifest."""
    started = time.monotonic()
    folder, files = _folder(config), expand(config.ingest.shards)
    generated = _generate(config) if config.generate.domains else None
    plan = _plan(config, files, generated)
    if folder.begin(plan):
        return chunk_pipeline.already_done("ingest", folder, "passages")
    settings = config.ingest
    selects = settings.dedupe or settings.passages is not None
    # What is selected from is set aside until all of it is there, and deleted when the stage is done.
    read_into = folder / "candidates" if selects else folder
    benchmarks = _gather_benchmarks(folder, settings) if settings.decontaminate else {}
    checks = Checks(settings.min_tokens, tuple(settings.languages), folder.url if benchmarks else "")
    parts = _parts(config, files, plan)
    if generated:
        parts += generated_parts(generated.chunk_files(), len(parts))
    recipe = _recipe(config, digests=selects)
    read = functools.partial(_read, recipe=recipe, base=config.student.base, checks=checks)
    summaries = _read_parts(read_into, parts, read)
    _require_few_rejects(read_into, summaries, settings.max_reject_share)
    if selects:
        summaries = _select(folder, read_into, summaries, settings)
        _require_enough(summaries, settings)
    bounded = f"the first {settings.read_mb:,} MB of each shard" if settings.read_mb else None
    manifest = folder.finish(
        plan,
        summaries,
        read=bounded or "all of each shard",
        parts=[part.account() for part in parts],
        benchmarks=_with_dropped(benchmarks, summaries),
        seconds=round(time.monotonic() - started, 1),
    )
    if selects:
        read_into.remove_all()
    if bounded:
        say(f"ingest: read only {bounded} (ingest.read_mb): no sample of the whole corpus")
    return chunk_pipeline.say_done("ingest", manifest, "passages")


def _recipe(config: Config, digests: bool) -> Recipe:
    settings = config.ingest
    # What was paid for is not left out because the corpus is large.
    shares = {generated_source(domain): 1.0 for domain in config.generate.domains} | settings.sample_of_source
    return Recipe(
        settings.max_tokens,
        settings.overlap_tokens,
        settings.chunk_passages,
        Sampling(config.run.seed, settings.sample, shares, 4 * settings.max_tokens),
        Fields(settings.text_field, settings.source_field, settings.id_field),
        settings.max_row_mb * 1_000_000,
        digests,
    )


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "ingest"


def _generate(config: Config) -> Folder:
    return run_folder(config.run) / "generate"


def _plan(config: Config, files: list[str], generated: Folder | None = None) -> dict[str, Any]:
    """Return what decides the passages. Files stand by name and content: a folder may be moved."""
    also: dict[str, Any] = {"generated": config.generate.domains} if config.generate.domains else {}
    if generated:
        also["parents"] = {"generate": generated.digest()}
    identity = config.ingest.identity()
    del identity["shards"]
    benchmarks = identity.pop("decontaminate")
    base = model_fingerprint(config.student.base)  # by its content too
    return {
        "stage": "ingest",
        "config": {"seed": config.run.seed, "base": base, "ingest": identity},
        "decontaminate": {name: fingerprint(file) for name, file in benchmarks.items()},
        "shards": fingerprints(files),
        **also,
    }


def _parts(config: Config, files: list[str], plan: dict[str, Any]) -> list[Part]:
    sizes = [shard["bytes"] for shard in plan["shards"].values()]
    settings = config.ingest
    return parts_of(files, sizes, settings.text_field, settings.read_mb and settings.read_mb * 1_000_000)


def _require_same_shards(folder: Folder, plan: dict[str, Any]) -> None:
    with explained(folder.url):
        before = (folder.read_json(PLAN) or plan)["shards"]
    for name, now in plan["shards"].items():
        if before.get(name, now) != now:
            raise UserError(
                f"ingest: the shard {name.split(' ', 1)[1]} has changed since {folder.url} was begun "
                f"({before[name]['bytes']:,} bytes then, {now['bytes']:,} now); put the old one back, or "
                "take another run.name"
            )


def _gather_benchmarks(folder: Folder, settings: Ingest) -> dict[str, dict[str, int]]:
    """Write the benchmarks' n-grams where the workers find them. Returns the texts and those too short."""
    found, report = collect(
        {
            name: read_texts(file, settings.max_row_mb * 1_000_000)
            for name, file in settings.decontaminate.items()
        },
        settings.decontaminate_words,
    )
    folder.write(_BENCHMARKS, found.to_bytes())
    return report


def _with_dropped(report: dict[str, dict[str, int]], summaries: list[Summary]) -> dict[str, dict[str, int]]:
    figures = merge(summary.figures for summary in summaries)
    return {
        name: {**found, "dropped": figures.get(f"shared_with_{name}", 0)} for name, found in report.items()
    }


def _read_parts(folder: Folder, parts: list[Part], read: chunk_pipeline.Read) -> list[Summary]:
    """Read all parts into chunks, from where they stand on. Returns the summaries of all chunks."""
    summaries, items = _standing(folder, parts)
    all_bytes = sum(part.bytes for part in parts)
    with Progress("ingest", None, "passages") as progress:
        progress.stood(sum(summary.rows for summary in summaries))
        done = sum(summary.figures["bytes_in"] for summary in summaries)
        for summary in chunk_pipeline.stream(folder, items, read):
            summaries.append(summary)
            done += summary.figures["bytes_in"]
            progress.add(summary.rows, min(1.0, done / max(1, all_bytes)))
    return summaries


def _standing(folder: Folder, parts: list[Part]) -> tuple[list[Summary], list[dict[str, Any]]]:
    """Return the summaries of the chunks that stand, and an item for each part that is not finished.

    Chunks are counted from a part's first on without a gap; what stands behind a gap is made again.
    """
    keys = folder.chunk_keys()
    wanted: list[str] = []
    for part in parts:
        running = (chunk_key(part.number, number) for number in itertools.count())
        wanted += itertools.takewhile(keys.__contains__, running)
    summaries = folder.read_summaries(wanted)
    starts = {part.number: Position() for part in parts}
    for summary in summaries:  # in key order: the last of each part stays
        starts[int(summary.key.split("-")[0])] = Position(**summary.position)
    items = [
        {"part": asdict(part), "start": asdict(starts[part.number])}
        for part in parts
        if not starts[part.number].last
    ]
    return summaries, items


def _read(item: dict[str, Any], recipe: Recipe, base: str, checks: Checks) -> Iterator[Chunk]:
    part, start = Part(**item["part"]), Position(**item["start"])
    yield from read_chunks(part, start, recipe, load_tokenizer(base), _hygiene(checks))


@functools.lru_cache(maxsize=1)
def _hygiene(checks: Checks) -> Hygiene:
    found = Benchmarks.from_bytes(Folder(checks.benchmarks).read(_BENCHMARKS)) if checks.benchmarks else None
    return Hygiene(checks.min_tokens, checks.languages, found)


def _select(folder: Folder, candidates: Folder, summaries: list[Summary], settings: Ingest) -> list[Summary]:
    """Write the chunks of what is selected, one for one of the candidates'. Returns all their summaries.

    The selection is made anew from all candidates when the stage goes on, and is the same.
    """
    keys = sorted(summary.key for summary in summaries)
    names = [DIGEST.name, "source"] if settings.stratified else [DIGEST.name]
    with ThreadPoolExecutor(_READERS) as pool:
        read = functools.partial(candidates.read_columns, names=names)
        columns = pa.concat_tables(pool.map(read, keys))
    digests = columns[DIGEST.name].to_numpy()
    duplicate = repeated(digests) if settings.dedupe else np.zeros(len(digests), bool)
    unwanted = np.zeros(len(digests), bool)
    if settings.passages is not None:
        sources = np.zeros(len(digests), np.int64)
        if settings.stratified:
            sources = columns["source"].combine_chunks().dictionary_encode().indices.to_numpy()
        unwanted[~duplicate] = ~smallest(digests[~duplicate], sources[~duplicate], settings.passages)
    rows = {summary.key: summary.rows for summary in summaries}
    bounds = itertools.pairwise(np.cumsum([0, *(rows[key] for key in keys)]))
    standing = folder.chunk_keys() & set(keys)
    around = np.concatenate([[False], duplicate, [False]])
    items = [
        {
            "key": key,
            # From 1 on; 0 and the last stand for the rows before the chunk and behind it.
            "duplicate": np.flatnonzero(around[start : end + 2]).tolist(),
            "unwanted": np.flatnonzero(unwanted[start:end]).tolist(),
        }
        for key, (start, end) in zip(keys, bounds, strict=True)
        if key not in standing
    ]
    read_selected = functools.partial(_read_selected, candidates=candidates)
    return [*folder.read_summaries(standing), *chunk_pipeline.stream(folder, items, read_selected)]


def _read_selected(item: dict[str, Any], candidates: Folder) -> Iterator[Chunk]:
    key = item["key"]
    table, summary = candidates.read_chunk(key), candidates.read_summary(key)
    around, unwanted = np.zeros(table.num_rows + 2, bool), np.zeros(table.num_rows, bool)
    around[item["duplicate"]], unwanted[item["unwanted"]] = True, True
    # What a duplicate had in common with its neighbours is theirs alone, as of one dropped for a fault.
    for name, gone in (("overlap_before", around[:-2]), ("overlap_after", around[2:])):
        values = np.where(gone, 0, table[name].to_numpy())
        table = table.set_column(table.schema.get_field_index(name), PASSAGE.field(name), [values])
    duplicate = around[1:-1]
    kept = np.flatnonzero(~(duplicate | unwanted))
    dropped = {"dropped_duplicate": int(duplicate.sum()), "dropped_unwanted": int(unwanted.sum())}
    yield Chunk(
        key,
        table.take(kept).drop_columns([DIGEST.name]),
        figures={**summary.figures, **dropped},
        rejects=candidates.read_rejects(key),
    )


def _require_enough(summaries: list[Summary], settings: Ingest) -> None:
    found, wanted = sum(summary.rows for summary in summaries), settings.passages or 0
    if found >= wanted:
        return
    if settings.sample < 1:
        enough = min(1.0, 1.1 * settings.sample * wanted / max(1, found))
        raise UserError(
            f"ingest: the sample has {found:,} passages, ingest.passages asks for {wanted:,}; take another "
            f"run.name with ingest.sample={enough:.2g}"
        )
    say(f"ingest: all of the corpus has {found:,} passages, fewer than ingest.passages = {wanted:,}")


def _require_few_rejects(folder: Folder, summaries: list[Summary], limit: float) -> None:
    figures = merge(summary.figures for summary in summaries)
    counts = {reason: figures.get(f"rejected_{reason}", 0) for reason in REASONS}
    rejected = {reason: count for reason, count in counts.items() if count}
    if sum(rejected.values()) > limit * figures.get("lines", 0):
        share = sum(rejected.values()) / figures["lines"]
        names = {f"rejected_{reason}" for reason in rejected}
        first = min(summary.key for summary in summaries if names & summary.figures.keys())
        listed = ", ".join(f"{count:,.0f} {reason}: {REASONS[reason]}" for reason, count in rejected.items())
        raise UserError(
            f"ingest: {share:.2%} of {figures['lines']:,.0f} rows were rejected ({listed}), the limit is "
            f"{limit:.2%}; look at {folder.path(rejects_name(first))}, then mend the shards or raise "
            "ingest.max_reject_share"
        )
