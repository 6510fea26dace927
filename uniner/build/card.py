"""A training set's data card and plots, and optionally one file in the published layout."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from jinja2 import Environment

from uniner import __version__
from uniner.build.conversations import TEACHER, frequency_bands
from uniner.build.near_synonyms import NearSynonyms
from uniner.display import markdown_code, markdown_text
from uniner.records import Conversation, from_table
from uniner.storage.manifest import StageTotals
from uniner.storage.stage_folder import StageFolder

CARD, PLOT, TRAIN_JSON = "README.md", "card.png", "train.json"
_MAX_TYPES = 25


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """The teacher that annotated; prompt: its messages with the mark where the passage goes."""

    model: str
    temperature: float
    prompt: str


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The settings that the card names. teacher: None if it has no weight in the training set."""

    run: str
    seed: int
    negatives: str
    supervised: tuple[str, ...] = ()
    domains: Mapping[str, int] = field(default_factory=dict)
    teacher: TeacherFacts | None = None
    near_synonyms: tuple[NearSynonyms, ...] = ()
    near_synonyms_skipped: bool = False


def write(folder: StageFolder, facts: CardFacts, totals: StageTotals, mentions: Counter[str]) -> Counter[str]:
    """Write the card and its plots.

    totals: the sums over the stage's chunks. mentions: the teacher's mentions by type. Returns the number of
    negative questions by type about the teacher's passages.
    """
    negatives = Counter[str]()
    questions, characters, positives = Counter[str](), [], []
    for key in totals.chunks().keys.to_pylist():
        for conversation in from_table(folder.read_chunk(key).table, Conversation):
            questions.update(conversation.positive_types)
            if conversation.dataset == TEACHER:
                negatives.update(conversation.negative_types)
            positives.append(len(conversation.positive_types))
            characters.append(sum(len(turn["value"]) for turn in conversation.conversations))
    folder.write(PLOT, plot(questions, positives, characters))
    folder.write(CARD, render(facts, totals.figures, mentions, negatives).encode())
    return negatives


def write_train_json(folder: StageFolder, keys: Iterable[str]) -> None:
    """Write the conversations to train on as one JSON list, as the original training code reads it."""
    published = [
        {"id": conversation.id, "conversations": conversation.conversations}
        for key in sorted(keys)
        for conversation in from_table(folder.read_chunk(key).table, Conversation)
        if conversation.split == "train"
    ]
    folder.write(TRAIN_JSON, json.dumps(published, ensure_ascii=False).encode())


def render(
    facts: CardFacts, figures: Mapping[str, float], mentions: Counter[str], negatives: Counter[str]
) -> str:
    """Return the card. figures: the sums over the stage's chunks."""
    counts = Counter({name: int(count) for name, count in figures.items()})
    supervised = {name: counts[f"from_{name}"] for name in facts.supervised}
    from_teacher = counts["conversations"] - sum(supervised.values())
    text = resources.files("uniner.build").joinpath("card.md").read_text(encoding="utf-8")
    return (
        Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(text)
        .render(
            text=markdown_text,
            code=markdown_code,
            facts=facts,
            version=__version__,
            domains=", ".join(f"{markdown_text(name)} ({count:,})" for name, count in facts.domains.items()),
            counts=counts,
            by_dataset=({TEACHER: from_teacher} if facts.teacher else {}) | supervised,
            types=len(mentions),
            mentions=mentions.total(),
            bands=_bands(mentions, negatives),
            dropped=_with_prefix("dropped_", counts),
            filtered=_with_prefix("mentions_", counts),
            unheld=_with_prefix("unheld_", counts),
        )
    )


def plot(questions: Counter[str], positives: Sequence[int], characters: Sequence[int]) -> bytes:
    """Return a PNG of the most frequent types, and of positive types and characters per conversation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    types, spread, lengths = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    names, counts = zip(*questions.most_common(_MAX_TYPES), strict=True) if questions else ((), ())
    types.barh([name[:40] for name in names], counts, color="#33658a")
    types.invert_yaxis()
    types.tick_params(axis="y", labelsize=8)
    types.set_title("conversations with a type")
    spread.hist(positives, bins=range(max(positives, default=0) + 2), align="left", color="#33658a")
    spread.set_title("positive types per conversation")
    lengths.hist(characters, bins=40, color="#33658a")
    lengths.set_title("characters per conversation")
    for axes in (types, spread, lengths):
        axes.spines[["top", "right"]].set_visible(False)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()


def _bands(mentions: Counter[str], negatives: Counter[str]) -> list[tuple[str, float, float]]:
    """Return each band of types with its shares of the mentions and of the negative questions."""
    sampled = frequency_bands(mentions, negatives)
    return [
        (name.replace("_", " "), share, sampled[name])
        for name, share in frequency_bands(mentions, mentions).items()
    ]


def _with_prefix(prefix: str, counts: Counter[str]) -> dict[str, int]:
    return {
        name.removeprefix(prefix): count
        for name, count in counts.items()
        if name.startswith(prefix) and count
    }
