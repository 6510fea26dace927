"""The ingest stage: parts of shards are the items; each is streamed, its chunks written as they are made."""

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from uniner import work
from uniner.config import Config
from uniner.errors import UserError
from uniner.ingest.reader import Position, Recipe, chunk_key, read_chunks
from uniner.ingest.rows import REASONS, Fields
from uniner.ingest.shards import Part, fingerprints, parts_of
from uniner.progress import Progress
from uniner.storage import PLAN, Chunk, Folder, Summary, expand, explained, merge, rejects_name
from uniner.student import load_tokenizer, require_model


def check(config: Config) -> None:
    """Find, before Ray starts, the shards and the tokenizer, and compare with what the run began with."""
    require_model(config.student.base)
    files = expand(config.ingest.shards)
    folder, plan = _folder(config), _plan(config, files)
    _parts(config, files, plan)
    _require_same_shards(folder, plan)
    work.check_plan(folder, plan)


def run(config: Config) -> dict[str, Any]:
    """Cut the corpus into passages. Returns the manifest."""
    started = time.monotonic()
    folder, files = _folder(config), expand(config.ingest.shards)
    plan = _plan(config, files)
    if folder.begin(plan):
        return work.already_done("ingest", folder, "passages")
    settings = config.ingest
    recipe = Recipe(
        settings.max_tokens,
        settings.chunk_passages,
        settings.sample,
        config.run.seed,
        Fields(settings.text_field, settings.source_field, settings.id_field),
        settings.max_row_mb * 1_000_000,
    )
    parts = _parts(config, files, plan)
    summaries, items = _standing(folder, parts)
    all_bytes = sum(part.bytes for part in parts)
    with Progress("ingest", None, "passages") as progress:
        progress.add(sum(summary.rows for summary in summaries), _share(summaries, all_bytes))
        read = functools.partial(_read, recipe=recipe, base=config.student.base)
        for summary in work.stream(folder, items, read):
            summaries.append(summary)
            progress.add(summary.rows, _share(summaries, all_bytes))
    _require_few_rejects(folder, summaries, settings.max_reject_share)
    accounts = [part.account() for part in parts]
    seconds = round(time.monotonic() - started, 1)
    manifest = folder.finish(plan, summaries, parts=accounts, seconds=seconds)
    return work.say_done("ingest", manifest, "passages")


def _folder(config: Config) -> Folder:
    return Folder(config.run.root) / config.run.name / "ingest"


def _plan(config: Config, files: list[str]) -> dict[str, Any]:
    """Return what decides the passages. Files stand by name and content: a folder may be moved."""
    return {
        "stage": "ingest",
        "config": {
            "seed": config.run.seed,
            "base": config.student.base,
            "ingest": {key: value for key, value in config.ingest.identity().items() if key != "shards"},
        },
        "shards": fingerprints(files),
    }


def _parts(config: Config, files: list[str], plan: dict[str, Any]) -> list[Part]:
    sizes = [shard["bytes"] for shard in plan["shards"].values()]
    return parts_of(files, sizes, config.ingest.text_field)


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


def _read(item: dict[str, Any], recipe: Recipe, base: str) -> Iterator[Chunk]:
    yield from read_chunks(Part(**item["part"]), Position(**item["start"]), recipe, load_tokenizer(base))


def _share(summaries: list[Summary], all_bytes: int) -> float:
    return min(1.0, sum(summary.figures["bytes_in"] for summary in summaries) / max(1, all_bytes))


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
