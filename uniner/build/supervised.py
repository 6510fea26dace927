"""Gold data sets as training data: sampled passages, asked for the data set's own types."""

from collections import Counter
from collections.abc import Iterable, Sequence

from uniner.build.conversations import (
    ConversationSettings,
    NegativeSampler,
    NegativeSampling,
    count_questions,
    passage_conversations,
    passage_generator,
)
from uniner.gold.reader import count_left_out
from uniner.gold.records import GoldPassage, GoldQuestion
from uniner.labels import normalize_type
from uniner.records import Conversation


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
    answers with "none" are negatives.
    """
    mentions = [_mentions(passage) for passage in passages]
    totals: Counter[str] = Counter()
    for by_type in mentions:
        totals.update({name: len(texts) for name, texts in by_type.items()})
    sampler = NegativeSampler(totals, negatives)
    conversations = [
        conversation
        for passage, by_type in zip(passages, mentions, strict=True)
        for conversation in passage_conversations(
            f"{dataset}/{passage.id}",
            passage.text,
            by_type,
            sampler
            if passage.questions is None
            else NegativeSampler(_absent_types(passage.questions, totals), negatives),
            settings,
            dataset,
            dataset_line,
        )
        if by_type or conversation.negative_types
    ]
    counts = count_questions(conversations)
    return conversations, {
        **counts,
        f"from_{dataset}": counts["conversations"],
        **count_left_out(passages),
    }


def _absent_types(questions: Sequence[GoldQuestion], totals: Counter[str]) -> dict[str, int]:
    """Return the types that a passage certainly lacks, with their mentions in the data set."""
    absent = {normalize_type(question.type) for question in questions if not question.mentions}
    return {name: max(1, totals[name]) for name in absent}


def _mentions(passage: GoldPassage) -> dict[str, tuple[str, ...]]:
    mentions: dict[str, dict[str, None]] = {}
    for entity in sorted(passage.entities, key=lambda entity: entity.start):
        mentions.setdefault(normalize_type(entity.type), {})[entity.text] = None
    return {name: tuple(texts) for name, texts in mentions.items()}
