"""The build stage: types are counted over all annotations, then each chunk becomes conversations.

Each gold data set to train on is one more chunk, `gold-<name>`.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from uniner.build import card
from uniner.build.conversations import Recipe, bands, converse, count_types
from uniner.build.filters import Filters, fold_type, singulars
from uniner.build.negatives import Sampler
from uniner.build.supervised import converse_gold, draw
from uniner.config.schema import Build, Config
from uniner.errors import UserError
from uniner.gold.catalogue import words_of
from uniner.gold.reader import digest, read_gold, verify
from uniner.records import CONVERSATION, Annotation, from_table, to_table
from uniner.runtime import chunk_pipeline
from uniner.storage.filesystem import absolute
from uniner.storage.stage_folder import Chunk, Folder, Summary, run_folder
from uniner.templates import template

TYPES = "types.json"
"""File in the stage's folder: mentions of each type, most frequent first."""
_GOLD = "gold-"


def check(config: Config) -> None:
    """Read, before Ray starts, the gold data sets, and compare with what the run began with."""
    settings = config.build
    if not settings.teacher_weight and not settings.supervised:
        raise UserError("build: build.teacher_weight = 0 and no build.supervised leaves nothing to train on")
    for url in settings.supervised.values():
        verify(url)
    chunk_pipeline.check_plan(_folder(config), _plan(config))


def run(config: Config) -> dict[str, Any]:
    """Build the run's conversations. Returns the manifest."""
    settings, folder = config.build, _folder(config)
    parent = run_folder(config.run) / "annotate" if settings.teacher_weight else None
    plan = _plan(config, parent.digest() if parent else None)
    if folder.begin(plan):
        return chunk_pipeline.already_done("build", folder, "conversations")
    filters, mentions = _count(parent, settings)
    folder.write_json(TYPES, dict(mentions.most_common()))
    recipe = Recipe(
        config.run.seed,
        settings.negatives_per_positive,
        settings.negatives_per_passage,
        settings.validation_share,
        settings.teacher_weight,
        template(config.student.template, config.student.group_types),
    )
    sampler = Sampler(mentions, settings.negatives)

    # Workers run in other folders: paths are made absolute before they travel.
    golds = {name: absolute(url) for name, url in settings.supervised.items()}
    settings = settings.model_copy(update={"supervised": golds})

    def close(summaries: Sequence[Summary]) -> dict[str, Any]:
        negatives = card.write(folder, config, summaries, mentions)
        return {
            "types": len(mentions),
            "mentions_by_type_band": bands(mentions, mentions),
            "negatives_by_type_band": bands(mentions, negatives),
        }

    return chunk_pipeline.run_stage(
        "build",
        folder,
        plan,
        parent,
        read=functools.partial(
            _build, parent=parent, settings=settings, sampler=sampler, recipe=recipe, filters=filters
        ),
        unit="conversations",
        others=dict.fromkeys((f"{_GOLD}{name}" for name in settings.supervised), 0),
        close=close,
    )


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "build"


def _plan(config: Config, parent: str | None = None) -> dict[str, Any]:
    """Return what decides the conversations. Gold files stand by name and content: a folder may be moved."""
    settings = config.build.identity()
    golds = {name: digest(url) for name, url in config.build.supervised.items()}
    return {
        "stage": "build",
        "config": {
            "seed": config.run.seed,
            "template": config.student.template,
            "group_types": config.student.group_types,
            "build": {**settings, "supervised": golds},
        },
        "parents": {"annotate": parent},
    }


def _count(parent: Folder | None, settings: Build) -> tuple[Filters, Counter[str]]:
    """Count the mentions of each type over all annotations; return with it the filters that were used."""
    filters = Filters(
        frozenset(map(fold_type, settings.drop_types)),
        settings.require_in_passage,
        settings.require_latin,
        settings.max_mention_words,
    )
    mentions: Counter[str] = Counter()
    if not parent:
        return filters, mentions
    count = functools.partial(_count_types, parent=parent, filters=filters)
    for counted in chunk_pipeline.gather(sorted(chunk_pipeline.chunks_of(parent)), count):
        mentions.update(counted)
    if not mentions:
        raise UserError(
            f"build: no entity is left of {parent.url}; look at its outcomes and at build.drop_types"
        )
    if settings.singular_types:
        filters = replace(filters, renamed=singulars(mentions))
        for plural, singular in filters.renamed.items():
            mentions[singular] += mentions.pop(plural)
    return filters, mentions


def _count_types(key: str, parent: Folder, filters: Filters) -> dict[str, int]:
    return dict(count_types(from_table(parent.read_chunk(key), Annotation), filters))


def _build(
    key: str, parent: Folder | None, settings: Build, sampler: Sampler, recipe: Recipe, filters: Filters
) -> Iterator[Chunk]:
    if parent and not key.startswith(_GOLD):
        annotations = from_table(parent.read_chunk(key), Annotation)
        conversations, counts = converse(annotations, sampler, recipe, filters)
    else:
        name = key.removeprefix(_GOLD)
        gold = read_gold(settings.supervised[name], rename=words_of(name, settings.labels))
        passages = draw(gold, name, settings.supervised_examples, recipe.seed)
        conversations, counts = converse_gold(
            passages,
            name,
            settings.negatives,
            replace(recipe, weight=settings.supervised_weight),
            settings.dataset_line,
        )
    yield Chunk(key, to_table(conversations, CONVERSATION), figures={**counts})
