"""Turn annotations into conversations in the published layout, with negatives, split and counts."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from uniner.build.filters import Kept, filter_mentions
from uniner.build.negatives import Sampler, generator
from uniner.records import Annotation, Conversation
from uniner.templates import turns


@dataclass(frozen=True)
class Recipe:
    """What decides the conversations."""

    seed: int
    negatives_per_positive: float
    drop_types: Collection[str]
    max_mention_words: int
    validation_share: float


def kept_mentions(annotations: Iterable[Annotation], recipe: Recipe) -> list[tuple[Annotation, Kept]]:
    """Filter the annotations that are ok."""
    return [
        (annotation, filter_mentions(annotation.entities, recipe.drop_types, recipe.max_mention_words))
        for annotation in annotations
        if annotation.outcome == "ok"
    ]


def count_types(annotations: Iterable[Annotation], recipe: Recipe) -> Counter[str]:
    """Count the mentions of each type that the filters keep."""
    counts: Counter[str] = Counter()
    for _, kept in kept_mentions(annotations, recipe):
        for type_name, mentions in kept.mentions.items():
            counts[type_name] += len(mentions)
    return counts


def converse(
    annotations: Sequence[Annotation], sampler: Sampler, recipe: Recipe
) -> tuple[list[Conversation], dict[str, int]]:
    """Make the conversations of a chunk's annotations, and count the funnel.

    Counts: passages; dropped_<outcome> (annotations that are not ok); dropped_no_entities (nothing left, as
    in the paper); mentions_<filter> (mentions each filter dropped); conversations, train, validation,
    mentions, positives and negatives (questions).
    """
    funnel: Counter[str] = Counter(passages=len(annotations))
    funnel.update(f"dropped_{annotation.outcome}" for annotation in annotations if annotation.outcome != "ok")
    conversations = []
    for annotation, kept in kept_mentions(annotations, recipe):
        funnel.update({f"mentions_{name}": count for name, count in kept.dropped.items()})
        if not kept.mentions:
            funnel["dropped_no_entities"] += 1
            continue
        conversation = _converse(annotation, kept, sampler, recipe)
        conversations.append(conversation)
        funnel.update(
            {
                "conversations": 1,
                conversation.split: 1,
                "mentions": sum(map(len, kept.mentions.values())),
                "positives": len(conversation.positive_types),
                "negatives": len(conversation.negative_types),
            }
        )
    return conversations, dict(funnel)


def _converse(annotation: Annotation, kept: Kept, sampler: Sampler, recipe: Recipe) -> Conversation:
    random = generator(recipe.seed, annotation.passage_id)
    in_validation = random.random() < recipe.validation_share
    positives = sorted(kept.mentions)
    negatives = sampler.draw(positives, recipe.negatives_per_positive * len(positives), random)
    asked = [*positives, *negatives]
    shuffled = [asked[place] for place in random.permutation(len(asked))]
    return Conversation(
        annotation.passage_id,
        annotation.passage_id,
        turns(annotation.text, [(name, kept.mentions.get(name, ())) for name in shuffled]),
        tuple(positives),
        tuple(negatives),
        "teacher",
        "validation" if in_validation else "train",
    )


def bands(mentions: Counter[str]) -> dict[str, float]:
    """Return how the mentions spread over types: shares of the top 1 %, of 1-10 % and of the rest."""
    counts = sorted(mentions.values(), reverse=True)
    total, one, ten = sum(counts), -(-len(counts) // 100), -(-len(counts) // 10)
    shares = {"top_1_percent": counts[:one], "1_to_10_percent": counts[one:ten], "rest": counts[ten:]}
    return {name: round(sum(part) / total, 4) if total else 0.0 for name, part in shares.items()}
