"""The ingest stage: shards are the items; each is streamed and its chunks are written as they are made."""

import functools
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from uniner import work
from uniner.config import Config
from uniner.errors import UserError
from uniner.ingest.reader import Position, Recipe, chunk_key, read_chunks
from uniner.ingest.rows import REASONS, Fields
from uniner.ingest.shards import fingerprint
from uniner.progress import Progress
from uniner.storage import PLAN, Chunk, Folder, Summary, expand, explained, merge, rejects_name
from uniner.student import load_tokenizer, require_model


def check(config: Config) -> None:
    """Find, before Ray starts, the shards and the tokenizer, and compare with what the run began with."""
    require_model(config.student.base)
    folder, plan = _folder(config), _plan(config, expand(config.ingest.shards))
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
        Fields(settings.text_field, settings.source_field),
        settings.max_row_mb * 1_000_000,
    )
    summaries, items = _standing(folder, files)
    all_bytes = sum(shard["bytes"] for shard in plan["shards"].values())
    with Progress("ingest", None, "passages") as progress:
        progress.add(sum(summary.rows for summary in summaries), _share(summaries, all_bytes))
        read = functools.partial(_read, recipe=recipe, base=config.student.base)
        for summary in work.stream(folder, items, read):
            summaries.append(summary)
            progress.add(summary.rows, _share(summaries, all_bytes))
    _require_few_rejects(folder, summaries, settings.max_reject_share)
    manifest = folder.finish(plan, summaries, seconds=round(time.monotonic() - started, 1))
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
        # By number too: files of two folders may share a name.
        "shards": {
            f"{number:05d} {PurePosixPath(file).name}": fingerprint(file) for number, file in enumerate(files)
        },
    }


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


def _standing(folder: Folder, files: list[str]) -> tuple[list[Summary], list[dict[str, Any]]]:
    """Return the summaries of the chunks that stand, and an item for each shard that is not finished.

    Chunks are counted from a shard's first on without a gap; what stands behind a gap is made again.
    """
    keys = folder.chunk_keys()
    runs = []
    for shard in range(len(files)):
        number = 0
        while chunk_key(shard, number) in keys:
            number += 1
        runs.append(number)
    wanted = [chunk_key(shard, chunk) for shard, number in enumerate(runs) for chunk in range(number)]
    summaries = folder.read_summaries(wanted)
    starts = {shard: Position() for shard in range(len(files))}
    for summary in summaries:  # in key order: the last of each shard stays
        starts[int(summary.key.split("-")[0])] = Position(**summary.position)
    items = [
        {"url": files[shard], "shard": shard, "start": asdict(start)}
        for shard, start in starts.items()
        if not start.last
    ]
    return summaries, items


def _read(item: dict[str, Any], recipe: Recipe, base: str) -> Iterator[Chunk]:
    tokenizer = load_tokenizer(base)
    yield from read_chunks(item["url"], item["shard"], Position(**item["start"]), recipe, tokenizer)


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
