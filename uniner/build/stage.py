"""The build stage: types are counted over all annotations, then each chunk becomes conversations."""

import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from uniner import work
from uniner.build.conversations import Recipe, bands, converse, count_types
from uniner.build.negatives import Sampler
from uniner.config import Config
from uniner.errors import UserError
from uniner.records import CONVERSATION, Annotation, from_table, to_table
from uniner.storage import Chunk, Folder

TYPES = "types.json"
"""File in the stage's folder: mentions of each type, most frequent first."""


def check(config: Config) -> None:
    """Compare, before Ray starts, with what the run began with."""
    work.check_plan(_folder(config), _plan(config))


def run(config: Config) -> dict[str, Any]:
    """Build the run's conversations. Returns the manifest."""
    settings = config.build
    recipe = Recipe(
        config.run.seed,
        settings.negatives_per_positive,
        frozenset(settings.drop_types),
        settings.max_mention_words,
        settings.validation_share,
    )
    folder = _folder(config)
    parent = Folder(config.run.root) / config.run.name / "annotate"
    plan = _plan(config, parent.digest())
    if folder.begin(plan):
        return work.already_done("build", folder, "conversations")
    mentions: Counter[str] = Counter()
    count = functools.partial(_count_types, parent=parent, recipe=recipe)
    for counted in work.gather(sorted(work.chunks_of(parent)), count):
        mentions.update(counted)
    if not mentions:
        raise UserError(
            f"build: no entity is left of {parent.url}; look at its outcomes and at build.drop_types"
        )
    folder.write_json(TYPES, dict(mentions.most_common()))
    return work.run_stage(
        "build",
        folder,
        plan,
        parent,
        read=functools.partial(
            _build, parent=parent, sampler=Sampler(mentions, settings.negatives), recipe=recipe
        ),
        unit="conversations",
        more={"types": len(mentions), "mentions_by_type_band": bands(mentions)},
    )


def _folder(config: Config) -> Folder:
    return Folder(config.run.root) / config.run.name / "build"


def _plan(config: Config, parent: str | None = None) -> dict[str, Any]:
    return {
        "stage": "build",
        "config": {"seed": config.run.seed, "build": config.build.identity()},
        "parents": {"annotate": parent},
    }


def _count_types(key: str, parent: Folder, recipe: Recipe) -> dict[str, int]:
    return dict(count_types(from_table(parent.read_chunk(key), Annotation), recipe))


def _build(key: str, parent: Folder, sampler: Sampler, recipe: Recipe) -> Iterator[Chunk]:
    conversations, funnel = converse(from_table(parent.read_chunk(key), Annotation), sampler, recipe)
    yield Chunk(key, to_table(conversations, CONVERSATION), figures={**funnel})
