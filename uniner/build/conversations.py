"""Turn annotations into conversations in the published layout, with negatives, split and counts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from uniner.build.filters import Filters, Kept, filter_mentions
from uniner.build.negatives import Sampler, generator
from uniner.records import Annotation, Conversation
from uniner.templates import TYPE, Template, turns

TEACHER = "teacher"
"""The data set that a conversation of the teacher's belongs to."""


@dataclass(frozen=True)
class Recipe:
    """What decides the conversations, but for the filters.

    negatives_per_passage, if it is not None, stands in place of negatives_per_positive. weight: how often
    each conversation stands in the training set; its fraction is a chance.
    """

    seed: int
    negatives_per_positive: float = 1.0
    negatives_per_passage: float | None = None
    validation_share: float = 0.02
    weight: float = 1.0
    template: Template = TYPE


def kept_mentions(annotations: Iterable[Annotation], filters: Filters) -> list[tuple[Annotation, Kept]]:
    """Filter the annotations that are ok."""
    return [
        (annotation, filter_mentions(annotation.entities, filters))
        for annotation in annotations
        if annotation.outcome == "ok"
    ]


def count_types(annotations: Iterable[Annotation], filters: Filters) -> Counter[str]:
    """Count the mentions of each type that the filters keep."""
    counts: Counter[str] = Counter()
    for _, kept in kept_mentions(annotations, filters):
        for type_name, mentions in kept.mentions.items():
            counts[type_name] += len(mentions)
    return counts


def converse(
    annotations: Sequence[Annotation], sampler: Sampler, recipe: Recipe, filters: Filters
) -> tuple[list[Conversation], dict[str, int]]:
    """Make the conversations of a chunk's annotations, and count the funnel.

    Counts: passages; dropped_<outcome> (annotations that are not ok); dropped_no_entities (nothing left, as
    in the paper); mentions_<filter> (mentions each filter dropped); and those of `count`.
    """
    funnel: Counter[str] = Counter(passages=len(annotations))
    funnel.update(f"dropped_{annotation.outcome}" for annotation in annotations if annotation.outcome != "ok")
    conversations = []
    for annotation, kept in kept_mentions(annotations, filters):
        funnel.update({f"mentions_{name}": count for name, count in kept.dropped.items()})
        if not kept.mentions:
            funnel["dropped_no_entities"] += 1
            continue
        made = converse_about(annotation.passage_id, annotation.text, kept.mentions, sampler, recipe)
        conversations += made
        funnel.update(count(made))
        if made:
            funnel["mentions"] += sum(map(len, kept.mentions.values()))
    return conversations, dict(funnel)


def converse_about(
    passage_id: str,
    text: str,
    mentions: Mapping[str, Sequence[str]],
    sampler: Sampler,
    recipe: Recipe,
    dataset: str = TEACHER,
    dataset_line: bool = False,
) -> list[Conversation]:
    """Ask a passage for the types it has (`mentions`) and for absent ones, in an order of the seed's.

    Returns the conversation as often as the recipe's weight says; a passage of the validation set once.
    """
    random = generator(recipe.seed, passage_id)
    in_validation = random.random() < recipe.validation_share
    positives = sorted(mentions)
    wanted = recipe.negatives_per_passage
    if wanted is None:
        wanted = recipe.negatives_per_positive * max(1, len(positives))
    negatives = sampler.draw(positives, wanted, random)
    asked = [*positives, *negatives]
    shuffled = [asked[place] for place in random.permutation(len(asked))]
    conversation = Conversation(
        id=passage_id,
        passage_id=passage_id,
        conversations=turns(
            text,
            {name: mentions.get(name, ()) for name in shuffled},
            dataset if dataset_line else None,
            recipe.template,
        ),
        positive_types=tuple(positives),
        negative_types=tuple(negatives),
        dataset=dataset,
        split="validation" if in_validation else "train",
    )
    times = 1 if in_validation else int(recipe.weight + random.random())
    return [replace(conversation, id=f"{passage_id}#{time}" if time else passage_id) for time in range(times)]


def count(conversations: Iterable[Conversation]) -> Counter[str]:
    """Count conversations, train, validation, positives and negatives (questions)."""
    counts: Counter[str] = Counter()
    for conversation in conversations:
        counts["conversations"] += 1
        counts[conversation.split] += 1
        counts["positives"] += len(conversation.positive_types)
        counts["negatives"] += len(conversation.negative_types)
    return counts


def bands(mentions: Counter[str], counted: Counter[str]) -> dict[str, float]:
    """Return how what is counted by type spreads: shares of the types with the most mentions (1 %), of those
    from 1 to 10 %, and of the rest."""
    counts = [counted[name] for name, _ in mentions.most_common()]
    total, one, ten = sum(counts), -(-len(counts) // 100), -(-len(counts) // 10)
    shares = {"top_1_percent": counts[:one], "1_to_10_percent": counts[one:ten], "rest": counts[ten:]}
    return {name: round(sum(part) / total, 4) if total else 0.0 for name, part in shares.items()}
