"""The build stage: count types over all annotations, then make conversations of each chunk.

Each gold data set to train on is one more chunk, `gold-<name>`.
"""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
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
from uniner.build.near_synonyms import (
    NearSynonyms,
    Words,
    find_near_synonyms,
    merged,
    neighbours,
    with_close_names,
)
from uniner.build.type_forms import TypeForms, with_synonyms
from uniner.config.schema import Build
from uniner.errors import UserError
from uniner.gold.catalogue import is_listed, label_renamer, tag_column
from uniner.gold.reader import absolute_gold, gold_digest, read_gold, verify_gold
from uniner.gold.records import GoldPassage
from uniner.inference.type_names import NameEncoder
from uniner.labels import LABEL_WORDS, normalize_type
from uniner.records import CONVERSATION, Annotation, from_table, to_table
from uniner.runtime import chunk_pipeline
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import absolute, explained, filesystem
from uniner.storage.manifest import ChunkEntry, Identity, Manifest, StageTotals
from uniner.storage.model_folders import model_address, model_digest, require_model
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.teacher.prompts import PASSAGE, annotation_prompt
from uniner.templates import make_template
from uniner.type_descriptions import Descriptions, descriptions_json, read_descriptions

SECTIONS = ("student", "generate", "teacher", "annotate", "describe", "build")
TYPES = "types.json"
"""File in the stage's folder: mentions of each type, most frequent first."""
NEAR_SYNONYMS = "near-synonyms.json"
"""File in the stage's folder: pairs of types that mean nearly the same, with the evidence."""
_DESCRIPTIONS = "descriptions.json"
"""The file that describe writes, and people may edit; build keeps a copy of what it used."""
_GOLD = "gold-"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildResults:
    """What the manifest says of a build's types; the bands are by how frequent the types are."""

    types: int
    mentions_by_type_band: dict[str, float]
    negatives_by_type_band: dict[str, float]


def check(context: StageContext) -> None:
    """Read the gold data sets, and compare the settings with those the stage began with."""
    settings = context.sections.build
    if not settings.teacher_weight and not settings.supervised:
        raise UserError(
            "build.teacher_weight = 0 and an empty build.supervised leave nothing to train on; name a gold "
            'data set, such as build.supervised.news="train.jsonl"'
        )
    for name, address in settings.supervised.items():
        verify_gold(address, tag_column=tag_column(name))
    if settings.synonym_share + settings.description_share > 1:
        raise UserError(
            f"build.synonym_share = {settings.synonym_share:g} and build.description_share = "
            f"{settings.description_share:g} are more than 1 together; set both to 0.25, for example"
        )
    if settings.type_descriptions_file:
        _read_file(settings.type_descriptions_file)
    if settings.near_synonym_encoder:
        require_model(settings.near_synonym_encoder, setting="build.near_synonym_encoder")
    context.folder.check_identity(_identity(context, parents={}))


def parents(context: StageContext) -> list[str]:
    """Return annotate, unless gold data alone are trained on, and describe if it describes types."""
    annotated = ["annotate"] if context.sections.build.teacher_weight else []
    return [*annotated, *(["describe"] if _reads_describe(context) else [])]


def run(context: StageContext) -> Manifest:
    """Build the run's conversations. Returns the manifest."""
    settings, folder = context.sections.build, context.folder
    annotations = context.run_folder / "annotate" if settings.teacher_weight else None
    descriptions, described = _read_descriptions(context)
    identity = _identity(
        context, {**({"annotate": annotations.digest()} if annotations else {}), **described}
    )
    if annotations and (manifest := folder.manifest_before_growth(identity, "annotate", annotations)):
        log.warning(
            f"build: already done, {manifest.rows:,} conversations of the corpus before it grew; they and "
            "their student stay as they are. To train on what was added too, take another run.name"
        )
        return manifest
    if manifest := folder.begin(identity):
        if settings.train_json and not folder.exists(card.TRAIN_JSON):
            card.write_train_json(folder, manifest.rows_of_chunk)
        return chunk_pipeline.log_complete("build", manifest, "conversations", folder)
    filters, mentions, near_synonyms = _count_mentions(annotations, settings)
    folder.write_json(TYPES, dict(mentions.most_common()))
    if annotations:
        folder.write_json(NEAR_SYNONYMS, [pair.to_json() for pair in near_synonyms])
    near = with_synonyms(neighbours(near_synonyms), mentions, descriptions)
    if descriptions:
        folder.write(_DESCRIPTIONS, descriptions_json(descriptions))
    kept_apart = near if settings.skip_near_synonyms else {}
    forms = TypeForms(
        descriptions=descriptions,
        synonym_share=settings.synonym_share,
        description_share=settings.description_share if _may_describe(context) else 0.0,
        near=near,
        seed=context.seed,
    )
    gold_addresses = {name: absolute_gold(address) for name, address in settings.supervised.items()}
    corrected = _corrected_texts(gold_addresses, settings, context.seed) if annotations else frozenset()
    conversation_builder = _ConversationBuilder(
        annotations=annotations,
        corrected=corrected,
        settings=settings,
        gold=gold_addresses,
        sampler=NegativeSampler(mentions, settings.negatives, kept_apart),
        conversation=replace(_conversation_settings(context), forms=forms),
        filters=filters,
    )
    facts = _card_facts(context, near_synonyms)

    def results(totals: StageTotals) -> dict[str, Any]:
        negatives = card.write(folder, facts, totals, mentions)
        if settings.train_json:
            card.write_train_json(folder, totals.chunks().keys.to_pylist())
        return asdict(
            BuildResults(
                types=len(mentions),
                mentions_by_type_band=frequency_bands(mentions, mentions),
                negatives_by_type_band=frequency_bands(mentions, negatives),
            )
        )

    gold = [ChunkEntry(key=f"{_GOLD}{name}", rows=0, bytes=0) for name in settings.supervised]
    return chunk_pipeline.run_stage(
        folder,
        identity,
        [*(annotations.require_manifest().chunks if annotations else ()), *gold],
        read=conversation_builder,
        unit="conversations",
        results=results,
    )


def _conversation_settings(context: StageContext) -> ConversationSettings:
    student, settings = context.sections.student, context.sections.build
    return ConversationSettings(
        context.seed,
        settings.negatives_per_positive,
        settings.negatives_per_passage,
        settings.validation_share,
        settings.teacher_weight,
        make_template(student.template, student.group_types),
    )


def _card_facts(context: StageContext, near_synonyms: Sequence[NearSynonyms]) -> card.CardFacts:
    annotate, build = context.sections.annotate, context.sections.build
    prompt = annotation_prompt(annotate.prompt, context.sections.student.template, annotate.reply_format)
    teacher = card.TeacherFacts(
        model=context.sections.teacher.model,
        temperature=annotate.temperature,
        prompt="\n".join(message["content"] for message in prompt.messages(PASSAGE)),
    )
    return card.CardFacts(
        run=context.run_folder.name,
        seed=context.seed,
        negatives=build.negatives,
        supervised=tuple(build.supervised),
        domains=context.sections.generate.domains,
        teacher=teacher if build.teacher_weight else None,
        near_synonyms=tuple(near_synonyms),
        near_synonyms_skipped=build.skip_near_synonyms and build.negatives != "none",
    )


def _identity(context: StageContext, parents: dict[str, str | None]) -> Identity:
    student, build = context.sections.student, context.sections.build
    template = student.template_identity()
    listed = all(map(is_listed, build.supervised))
    words = {} if listed else {"gold": {"label_words": LABEL_WORDS}}
    file = build.type_descriptions_file
    described = {"build.type_descriptions_file": _digest(_read_file(file)[1])} if file else {}
    return Identity(
        stage="build",
        settings={
            "run": {"seed": context.seed},
            "student": template,
            "build": _deciding(build, bool(file) or _reads_describe(context), _may_describe(context)),
            **words,
        },
        inputs={
            "build.supervised": {name: gold_digest(address) for name, address in build.supervised.items()},
            **described,
        },
        parents=parents,
    )


def _may_describe(context: StageContext) -> bool:
    """Tell whether questions may have descriptions: other templates' answers would repeat them."""
    return context.sections.student.template == "type"


def _reads_describe(context: StageContext) -> bool:
    """Tell whether the descriptions of types come from the stage describe."""
    build = context.sections.build
    return bool(context.sections.describe.types and build.teacher_weight and not build.type_descriptions_file)


def _read_descriptions(context: StageContext) -> tuple[Descriptions, dict[str, str | None]]:
    """Return the descriptions of types, and as a parent the digest of the file that describe wrote.

    The file counts by its content, not by describe's manifest: a person may have edited it.
    """
    if file := context.sections.build.type_descriptions_file:
        return _read_file(file)[0], {}
    if not _reads_describe(context):
        return {}, {}
    folder = context.run_folder / "describe"
    folder.require_manifest()
    descriptions, data = _read_file(folder.path(_DESCRIPTIONS))
    return descriptions, {"describe": _digest(data)}


def _read_file(url: str) -> tuple[Descriptions, bytes]:
    system, path = filesystem(absolute(url))
    with explained(url):
        data = system.cat_file(path)
    return read_descriptions(data, url), data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _deciding(build: Build, describes: bool, in_questions: bool) -> dict[str, Any]:
    """Return the settings that decide the conversations: some count only beside others.

    describes: there are descriptions of types. in_questions: the template's questions may have them.
    """
    without = {"supervised"}  # gold data count by name and content: a file may be moved
    if not describes:
        without |= {"synonym_share", "description_share"}
    if not in_questions:
        without.add("description_share")
    if not build.supervised:
        without |= {"supervised_weight", "supervised_examples", "labels", "dataset_line"}
    if not build.teacher_weight:
        without |= {
            "drop_types",
            "singular_types",
            "require_in_passage",
            "require_latin",
            "max_mention_words",
            "skip_near_synonyms",
        }
    if build.negatives == "none":
        without |= {"negatives_per_positive", "negatives_per_passage", "skip_near_synonyms"}
    elif build.negatives_per_passage is not None:
        without.add("negatives_per_positive")
    encoder = build.near_synonym_encoder if build.teacher_weight else None
    if not encoder:
        without |= {"near_synonym_encoder", "near_synonym_likeness"}
    deciding = {name: value for name, value in build.identity().items() if name not in without}
    return deciding | ({"near_synonym_encoder": model_digest(model_address(encoder))} if encoder else {})


def _count_mentions(
    annotations: StageFolder | None, settings: Build
) -> tuple[MentionFilters, Counter[str], list[NearSynonyms]]:
    """Count the mentions of each type over all annotations. Returns the filters used, the counts, and the
    near-synonyms."""
    filters = MentionFilters(
        frozenset(map(normalize_type, settings.drop_types)),
        settings.require_in_passage,
        settings.require_latin,
        settings.max_mention_words,
    )
    mentions: Counter[str] = Counter()
    if not annotations:
        return filters, mentions, []
    keys = annotations.require_manifest().chunks.keys.to_pylist()
    count = functools.partial(_count_types, annotations=annotations, filters=filters)
    words: list[Words] = []
    for counts, words_of_chunk in chunk_pipeline.gather(keys, count):
        mentions.update(counts)
        words.append(words_of_chunk)
    if not mentions:
        raise UserError(
            f"build: the filters left no entity of {annotations.url}; look at the column outcome there, and "
            "at build.drop_types"
        )
    if settings.singular_types:
        filters = replace(filters, renamed=plural_types(mentions))
        for plural, singular in filters.renamed.items():
            mentions[singular] += mentions.pop(plural)
    all_words = merged(words, filters.renamed)
    near_synonyms = find_near_synonyms(all_words)
    if settings.near_synonym_encoder:
        encoder = NameEncoder(settings.near_synonym_encoder, "build.near_synonym_encoder")
        near_synonyms = with_close_names(near_synonyms, all_words, encoder, settings.near_synonym_likeness)
    return filters, mentions, near_synonyms


def _count_types(key: str, annotations: StageFolder, filters: MentionFilters) -> tuple[dict[str, int], Words]:
    counts, words = count_types(from_table(annotations.read_chunk(key).table, Annotation), filters)
    return dict(counts), words


def _gold_sample(name: str, address: str, settings: Build, seed: int) -> list[GoldPassage]:
    rename = label_renamer(name, settings.labels)
    passages = read_gold(address, rename=rename, tag_column=tag_column(name))
    return sample_passages(passages, name, settings.supervised_examples, seed)


def _is_of_review(name: str, address: str) -> bool:
    """Tell by its first passage whether a gold data set is a file of a review."""
    return any(passage.reviewed for passage in islice(read_gold(address, tag_column=tag_column(name)), 1))


def _corrected_texts(gold: Mapping[str, str], settings: Build, seed: int) -> frozenset[str]:
    """Return the texts that people corrected in a review and that are trained on so."""
    if not settings.supervised_weight:
        return frozenset()
    return frozenset(
        passage.text
        for name, address in gold.items()
        if _is_of_review(name, address)
        for passage in _gold_sample(name, address, settings, seed)
        if passage.reviewed
    )


@dataclass(frozen=True, kw_only=True)
class _ConversationBuilder:
    """Makes the conversations of a chunk of annotations, or of a gold data set, by key."""

    annotations: StageFolder | None
    settings: Build
    gold: dict[str, str]
    sampler: NegativeSampler
    conversation: ConversationSettings
    filters: MentionFilters
    corrected: frozenset[str] = frozenset()

    def __call__(self, key: str) -> Chunk:
        if self.annotations and not key.startswith(_GOLD):
            annotations = from_table(self.annotations.read_chunk(key).table, Annotation)
            conversations, counts = annotation_conversations(
                annotations, self.sampler, self.conversation, self.filters, self.corrected
            )
        else:
            name, settings = key.removeprefix(_GOLD), self.settings
            conversations, counts = gold_conversations(
                _gold_sample(name, self.gold[name], settings, self.conversation.seed),
                name,
                settings.negatives,
                replace(self.conversation, weight=settings.supervised_weight),
                settings.dataset_line,
            )
        return Chunk(key, to_table(conversations, CONVERSATION), figures={**counts})
