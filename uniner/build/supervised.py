"""Gold data sets as training data: a draw of their passages, asked for the data set's own types."""

from collections import Counter
from collections.abc import Iterable, Sequence

from uniner.build.conversations import Recipe, converse_about, count
from uniner.build.filters import fold_type
from uniner.build.negatives import How, Sampler, generator
from uniner.gold.reader import left_out
from uniner.gold.records import GoldPassage
from uniner.records import Conversation


def draw(passages: Iterable[GoldPassage], dataset: str, most: int, seed: int) -> list[GoldPassage]:
    """Return at most `most` passages, in their order: those that the seed and their id put first."""
    everything = list(passages)
    # Not the generator of the passage's conversation: its first number decides the split.
    places = [generator(seed, f"draw/{dataset}/{passage.id}").random() for passage in everything]
    first = sorted(range(len(everything)), key=places.__getitem__)[:most]
    return [everything[place] for place in sorted(first)]


def converse_gold(
    passages: Sequence[GoldPassage],
    dataset: str,
    negatives: How,
    recipe: Recipe,
    dataset_line: bool,
) -> tuple[list[Conversation], dict[str, int]]:
    """Make a data set's conversations and count them, by its name.

    Absent types are drawn from the data set's own; a passage without an entity is asked for absent types
    alone, as nothing there is what its labels mean. Where the file itself asks (`GoldPassage.asked`), only
    types to which it answers with none are absent.
    """
    found = [_mentions(passage) for passage in passages]
    counts = Counter(name for mentions in found for name, texts in mentions.items() for _ in texts)
    sampler = Sampler(counts, negatives)
    conversations = [
        conversation
        for passage, mentions in zip(passages, found, strict=True)
        for conversation in converse_about(
            f"{dataset}/{passage.id}",
            passage.text,
            mentions,
            sampler if passage.asked is None else Sampler(_absent(passage.asked, counts), negatives),
            recipe,
            dataset,
            dataset_line,
        )
        if mentions or conversation.negative_types
    ]
    counted = count(conversations)
    return conversations, {**counted, f"from_{dataset}": counted["conversations"], **left_out(passages)}


def _absent(asked: Sequence[tuple[str, Sequence[str]]], counts: Counter[str]) -> dict[str, int]:
    """Return the types that a passage is known not to have, and how often its data set has them."""
    absent = {fold_type(name) for name, mentions in asked if not mentions}
    return {name: max(1, counts[name]) for name in absent}


def _mentions(passage: GoldPassage) -> dict[str, tuple[str, ...]]:
    mentions: dict[str, dict[str, None]] = {}
    for entity in sorted(passage.entities, key=lambda entity: entity.start):
        mentions.setdefault(fold_type(entity.type), {})[entity.text] = None
    return {name: tuple(texts) for name, texts in mentions.items()}
