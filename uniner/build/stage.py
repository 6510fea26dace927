"""The build stage: types are counted over all annotations, then each chunk becomes conversations.

Each gold data set to train on is one more chunk, `gold-<name>`.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from uniner.build import card
from uniner.build.conversations import (
    ConversationSettings,
    NegativeSampler,
    annotation_conversations,
    count_types,
    frequency_bands,
    gold_conversations,
    sample_passages,
)
from uniner.build.filters import MentionFilters, plural_types
from uniner.config.schema import Build, Config
from uniner.errors import UserError
from uniner.gold.catalogue import label_renamer
from uniner.gold.reader import gold_digest, read_gold, verify_gold
from uniner.labels import normalize_type
from uniner.records import CONVERSATION, Annotation, from_table, to_table
from uniner.runtime import chunk_pipeline
from uniner.storage.filesystem import absolute
from uniner.storage.stage_folder import Chunk, Folder, Summary, run_folder
from uniner.teacher.prompts import PASSAGE, chosen
from uniner.templates import make_template

TYPES = "types.json"
"""File in the stage's folder: mentions of each type, most frequent first."""
_GOLD = "gold-"


def check(config: Config) -> None:
    """Read, before Ray starts, the gold data sets, and compare with what the run began with."""
    settings = config.build
    if not settings.teacher_weight and not settings.supervised:
        raise UserError("build: build.teacher_weight = 0 and no build.supervised leaves nothing to train on")
    for url in settings.supervised.values():
        verify_gold(url)
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
    recipe = ConversationSettings(
        config.run.seed,
        settings.negatives_per_positive,
        settings.negatives_per_passage,
        settings.validation_share,
        settings.teacher_weight,
        make_template(config.student.template, config.student.group_types),
    )
    sampler = NegativeSampler(mentions, settings.negatives)

    # Workers run in other folders: paths are made absolute before they travel.
    golds = {name: absolute(url) for name, url in settings.supervised.items()}
    settings = settings.model_copy(update={"supervised": golds})

    facts = _card_facts(config)

    def close(summaries: Sequence[Summary]) -> dict[str, Any]:
        negatives = card.write(folder, facts, summaries, mentions, settings.train_json)
        return {
            "types": len(mentions),
            "mentions_by_type_band": frequency_bands(mentions, mentions),
            "negatives_by_type_band": frequency_bands(mentions, negatives),
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


def _card_facts(config: Config) -> card.CardFacts:
    annotate, build = config.annotate, config.build
    prompt = chosen(annotate.prompt, config.student.template, annotate.reply_format)
    teacher = card.TeacherFacts(
        model=annotate.model,
        temperature=annotate.temperature,
        prompt="\n".join(message["content"] for message in prompt.messages(PASSAGE)),
    )
    return card.CardFacts(
        run=config.run.name,
        seed=config.run.seed,
        negatives=build.negatives,
        supervised=tuple(build.supervised),
        domains=config.generate.domains,
        teacher=teacher if build.teacher_weight else None,
    )


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "build"


def _plan(config: Config, parent: str | None = None) -> dict[str, Any]:
    """Return what decides the conversations. Gold files stand by name and content: a folder may be moved."""
    settings = config.build.identity()
    golds = {name: gold_digest(url) for name, url in config.build.supervised.items()}
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


def _count(parent: Folder | None, settings: Build) -> tuple[MentionFilters, Counter[str]]:
    """Count the mentions of each type over all annotations; return with it the filters that were used."""
    filters = MentionFilters(
        frozenset(map(normalize_type, settings.drop_types)),
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
        filters = replace(filters, renamed=plural_types(mentions))
        for plural, singular in filters.renamed.items():
            mentions[singular] += mentions.pop(plural)
    return filters, mentions


def _count_types(key: str, parent: Folder, filters: MentionFilters) -> dict[str, int]:
    return dict(count_types(from_table(parent.read_chunk(key), Annotation), filters))


def _build(
    key: str,
    parent: Folder | None,
    settings: Build,
    sampler: NegativeSampler,
    recipe: ConversationSettings,
    filters: MentionFilters,
) -> Iterator[Chunk]:
    if parent and not key.startswith(_GOLD):
        annotations = from_table(parent.read_chunk(key), Annotation)
        conversations, counts = annotation_conversations(annotations, sampler, recipe, filters)
    else:
        name = key.removeprefix(_GOLD)
        gold = read_gold(settings.supervised[name], rename=label_renamer(name, settings.labels))
        passages = sample_passages(gold, name, settings.supervised_examples, recipe.seed)
        conversations, counts = gold_conversations(
            passages,
            name,
            settings.negatives,
            replace(recipe, weight=settings.supervised_weight),
            settings.dataset_line,
        )
    yield Chunk(key, to_table(conversations, CONVERSATION), figures={**counts})
