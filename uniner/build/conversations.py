"""Turn annotations and gold passages into conversations, with negative types, a split and counts."""

import hashlib
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from uniner.build.filters import FilteredMentions, MentionFilters, filter_mentions
from uniner.build.near_synonyms import Words, words_of
from uniner.build.type_forms import TypeForms
from uniner.gold.reader import count_left_out
from uniner.gold.records import GoldPassage, GoldQuestion
from uniner.labels import normalize_type
from uniner.records import Annotation, Conversation
from uniner.templates import SINGLE_TYPE, Mentions, Offsets, Spans, Template, render_conversation

TEACHER = "teacher"
"""The data set name of the teacher's conversations."""
NegativeSampling = Literal["none", "uniform", "frequency"]


@dataclass(frozen=True)
class ConversationSettings:
    """Settings of conversations, except for the filters.

    negatives_per_passage replaces negatives_per_positive if set. weight: copies of each conversation in the
    training set; the fraction is the chance of one more copy. forms: how types are asked for.
    """

    seed: int
    negatives_per_positive: float = 1.0
    negatives_per_passage: float | None = None
    validation_share: float = 0.02
    weight: float = 1.0
    template: Template = SINGLE_TYPE
    forms: TypeForms = field(default_factory=TypeForms)


class NegativeSampler:
    """Samples types that a passage does not have, to be answered with [].

    Negatives teach the student to answer "none" (paper §3.2). Sampling is uniform, or proportional to the
    types' mentions in the whole data set.

    near: types that mean nearly the same as a type, which is present where they are (`near_synonyms`).
    """

    def __init__(
        self,
        mentions: Mapping[str, int],
        sampling: NegativeSampling,
        near: Mapping[str, Collection[str]] | None = None,
    ):
        self._sampling, self._near = sampling, near or {}
        self._types = sorted(mentions)
        self._index = {name: index for index, name in enumerate(self._types)}
        weights = [mentions[name] if sampling == "frequency" else 1 for name in self._types]
        self._log_weights = np.log(np.array(weights, dtype=float))

    def sample(self, present: Collection[str], count: float, random: np.random.Generator) -> list[str]:
        """Return `count` distinct types that are not present, nor near-synonyms of one that is.

        The fraction is the chance of one more.

        Returns fewer if there are not enough types. Sampling without replacement, in proportion to the
        weights, takes the largest sums of log weight and Gumbel noise.
        """
        if self._sampling == "none":
            return []
        wanted = int(count + random.random())
        keys = self._log_weights + random.gumbel(size=len(self._types))
        taken = {*present, *(near for name in present for near in self._near.get(name, ()))}
        keys[[self._index[name] for name in taken if name in self._index]] = -np.inf
        best = np.argsort(-keys, kind="stable")[: min(wanted, int(np.isfinite(keys).sum()))]
        return [self._types[index] for index in best]


def passage_generator(seed: int, passage_id: str) -> np.random.Generator:
    """Return a passage's own random generator, independent of the order of work."""
    digest = hashlib.blake2b(f"{seed}/{passage_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest))


def _filtered(
    annotations: Iterable[Annotation], filters: MentionFilters
) -> list[tuple[Annotation, FilteredMentions]]:
    return [
        (annotation, filter_mentions(annotation.entities, filters))
        for annotation in annotations
        if annotation.outcome == "ok"
    ]


def count_types(annotations: Iterable[Annotation], filters: MentionFilters) -> tuple[Counter[str], Words]:
    """Count the mentions of each type after filtering. Returns the counts, and each type's words."""
    passages = [filtered.mentions for _, filtered in _filtered(annotations, filters)]
    counts: Counter[str] = Counter()
    for mentions in passages:
        counts.update({name: len(texts) for name, texts in mentions.items()})
    return counts, words_of(passages)


def annotation_conversations(
    annotations: Sequence[Annotation],
    sampler: NegativeSampler,
    settings: ConversationSettings,
    filters: MentionFilters,
    corrected: Container[str] = (),
) -> tuple[list[Conversation], dict[str, int]]:
    """Return the conversations of a chunk's annotations, and counts of what was dropped.

    corrected: texts that people have corrected; what the teacher said of them is dropped (dropped_corrected).

    Counts: passages; dropped_<outcome> (annotations that are not ok); dropped_no_entities (no mention left,
    as in the paper); mentions_<filter> (mentions that each filter dropped); mentions; unheld_<reason>
    (mentions that the template's answers cannot hold); and `count_questions`.
    """
    counts: Counter[str] = Counter(passages=len(annotations))
    counts.update(f"dropped_{annotation.outcome}" for annotation in annotations if annotation.outcome != "ok")
    conversations = []
    for annotation, filtered in _filtered(annotations, filters):
        if annotation.text in corrected:
            counts["dropped_corrected"] += 1
            continue
        counts.update({f"mentions_{name}": count for name, count in filtered.dropped.items()})
        if not filtered.mentions:
            counts["dropped_no_entities"] += 1
            continue
        copies = passage_conversations(
            annotation.passage_id, annotation.text, filtered.mentions, sampler, settings, spans=filtered.spans
        )
        conversations += copies
        counts.update(count_questions(copies))
        counts.update(settings.forms.count(copies, settings.template))
        if copies:
            counts["mentions"] += sum(map(len, filtered.mentions.values()))
            counts.update(
                _count_unheld(annotation.text, filtered.mentions, filtered.spans, settings.template)
            )
    return conversations, dict(counts)


def sample_passages(
    passages: Iterable[GoldPassage], dataset: str, max_passages: int, seed: int
) -> list[GoldPassage]:
    """Return at most max_passages passages in their order, sampled by the seed and their ids."""
    candidates = list(passages)
    # Not the generator of the passage's conversation: its first number decides the split.
    keys = [passage_generator(seed, f"draw/{dataset}/{passage.id}").random() for passage in candidates]
    sampled = sorted(range(len(candidates)), key=keys.__getitem__)[:max_passages]
    return [candidates[index] for index in sorted(sampled)]


def gold_conversations(
    passages: Sequence[GoldPassage],
    dataset: str,
    negatives: NegativeSampling,
    settings: ConversationSettings,
    dataset_line: bool,
) -> tuple[list[Conversation], dict[str, int]]:
    """Return a data set's conversations and their counts.

    Negative types are the data set's own. A passage without entities is asked for negative types only: it has
    none of the types that the data set annotates. If the file asks its own questions, only types that it
    answers with "none" are negatives, and all types are asked for by their names.
    """
    mentions, spans = [_mentions(passage) for passage in passages], [_spans(passage) for passage in passages]
    totals: Counter[str] = Counter()
    for by_type in mentions:
        totals.update({name: len(texts) for name, texts in by_type.items()})
    sampler = NegativeSampler(totals, negatives)
    conversations = [
        conversation
        for passage, by_type, places in zip(passages, mentions, spans, strict=True)
        for conversation in passage_conversations(
            f"{dataset}/{passage.id}",
            passage.text,
            by_type,
            sampler
            if passage.questions is None
            else NegativeSampler(_absent_types(passage.questions, totals), negatives),
            settings if passage.questions is None else replace(settings, forms=TypeForms()),
            dataset,
            dataset_line,
            places,
        )
        if by_type or conversation.negative_types
    ]
    counts = count_questions(conversations)
    for passage, by_type, places in zip(passages, mentions, spans, strict=True):
        counts.update(_count_unheld(passage.text, by_type, places, settings.template))
    counts.update(settings.forms.count(conversations, settings.template))
    return conversations, {**counts, f"from_{dataset}": counts["conversations"], **count_left_out(passages)}


def _count_unheld(text: str, mentions: Mentions, spans: Spans, template: Template) -> dict[str, int]:
    """Count what of a passage's mentions the template's answers cannot hold, by reason."""
    return {f"unheld_{reason}": count for reason, count in template.unheld(text, mentions, spans).items()}


def _absent_types(questions: Sequence[GoldQuestion], totals: Counter[str]) -> dict[str, int]:
    """Return the types that a passage certainly lacks, with their mentions in the data set."""
    absent = {normalize_type(question.type) for question in questions if not question.mentions}
    return {name: max(1, totals[name]) for name in absent}


def _mentions(passage: GoldPassage) -> dict[str, tuple[str, ...]]:
    mentions: dict[str, dict[str, None]] = {}
    for entity in sorted(passage.entities, key=lambda entity: entity.start):
        mentions.setdefault(normalize_type(entity.type), {})[entity.text] = None
    return {name: tuple(texts) for name, texts in mentions.items()}


def _spans(passage: GoldPassage) -> dict[str, tuple[Offsets, ...]]:
    spans: dict[str, dict[Offsets, None]] = {}
    for entity in sorted(passage.entities, key=lambda entity: entity.start):
        if entity.start >= 0:
            spans.setdefault(normalize_type(entity.type), {})[entity.start, entity.end] = None
    return {name: tuple(places) for name, places in spans.items()}


def passage_conversations(
    passage_id: str,
    text: str,
    mentions: Mapping[str, Sequence[str]],
    sampler: NegativeSampler,
    settings: ConversationSettings,
    dataset: str = TEACHER,
    dataset_line: bool = False,
    spans: Spans | None = None,
) -> list[Conversation]:
    """Return a passage's conversation: questions about its types and about negative ones, in random order.

    mentions: type to mentions. spans: type to their places; None: all occurrences. There are as many copies
    as the weight says, and one of a validation passage.
    """
    random = passage_generator(settings.seed, passage_id)
    in_validation = random.random() < settings.validation_share
    positives = sorted(mentions)
    count = settings.negatives_per_passage
    if count is None:
        count = settings.negatives_per_positive * max(1, len(positives))
    negatives = sampler.sample(positives, count, random)
    types = [*positives, *negatives]
    shuffled = [types[index] for index in random.permutation(len(types))]
    forms = {} if in_validation else settings.forms.asked(passage_id, positives, negatives)
    conversation = Conversation(
        id=passage_id,
        passage_id=passage_id,
        conversations=render_conversation(
            text,
            {forms.get(name, name): mentions.get(name, ()) for name in shuffled},
            dataset if dataset_line else None,
            settings.template,
            None if spans is None else {forms.get(name, name): spans.get(name, ()) for name in shuffled},
        ),
        positive_types=tuple(positives),
        negative_types=tuple(negatives),
        dataset=dataset,
        split="validation" if in_validation else "train",
    )
    copies = 1 if in_validation else int(settings.weight + random.random())
    return [
        replace(conversation, id=f"{passage_id}#{copy}" if copy else passage_id) for copy in range(copies)
    ]


def count_questions(conversations: Iterable[Conversation]) -> Counter[str]:
    """Count conversations, those of train and validation, and positive and negative questions."""
    counts: Counter[str] = Counter()
    for conversation in conversations:
        counts["conversations"] += 1
        counts[conversation.split] += 1
        counts["positives"] += len(conversation.positive_types)
        counts["negatives"] += len(conversation.negative_types)
    return counts


def frequency_bands(mentions: Counter[str], counts: Counter[str]) -> dict[str, float]:
    """Return the shares of `counts` in three bands of types, ordered by mentions: top 1 %, 1-10 %, rest."""
    ordered = [counts[name] for name, _ in mentions.most_common()]
    total, one, ten = sum(ordered), -(-len(ordered) // 100), -(-len(ordered) // 10)
    bands = {"top_1_percent": ordered[:one], "1_to_10_percent": ordered[one:ten], "rest": ordered[ten:]}
    return {name: round(sum(band) / total, 4) if total else 0.0 for name, band in bands.items()}
