"""For people: a training set's data card and plots, and on request one file in the published layout."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment

from uniner import __version__
from uniner.build.conversations import TEACHER, bands
from uniner.config.schema import Config
from uniner.records import Conversation, from_table
from uniner.storage.stage_folder import Folder, Summary, merge
from uniner.teacher.prompts import PASSAGE, annotation_prompt

CARD, PLOT, TRAIN_JSON = "README.md", "card.png", "train.json"
_MOST_TYPES = 25


def write(
    folder: Folder, config: Config, summaries: Sequence[Summary], mentions: Counter[str]
) -> Counter[str]:
    """Write the card and its plots, and train.json where the config asks for it.

    mentions: the teacher's mentions of each type. Returns how often each was a negative question about the
    teacher's passages.
    """
    negatives = Counter[str]()
    questions, characters, positives = Counter[str](), [], []
    published = []  # the JSON list that the original's training code reads
    for conversation in _conversations(folder, sorted(summary.key for summary in summaries)):
        questions.update(conversation.positive_types)
        if conversation.dataset == TEACHER:
            negatives.update(conversation.negative_types)
        positives.append(len(conversation.positive_types))
        characters.append(sum(len(turn["value"]) for turn in conversation.conversations))
        if config.build.train_json and conversation.split == "train":
            published.append({"id": conversation.id, "conversations": conversation.conversations})
    folder.write(PLOT, plot(questions, positives, characters))
    counts = merge(summary.figures for summary in summaries)
    folder.write(CARD, render(config, counts, mentions, negatives).encode())
    if config.build.train_json:
        folder.write(TRAIN_JSON, json.dumps(published, ensure_ascii=False).encode())
    return negatives


def render(config: Config, counts: dict[str, Any], mentions: Counter[str], negatives: Counter[str]) -> str:
    """Return the card of counts as the stage's chunks sum them up."""
    counts = Counter({name: int(count) for name, count in counts.items()})
    supervised = {name: counts[f"from_{name}"] for name in config.build.supervised}
    from_teacher = counts["conversations"] - sum(supervised.values())
    by_teacher = {TEACHER: from_teacher} if config.build.teacher_weight else {}
    annotate = config.annotate
    prompt = annotation_prompt(annotate.prompt, config.student.template, annotate.reply_format)
    text = resources.files("uniner.build").joinpath("card.md").read_text(encoding="utf-8")
    return (
        Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(text)
        .render(
            run=config.run.name,
            seed=config.run.seed,
            version=__version__,
            build=config.build,
            domains=", ".join(f"{name} ({count:,})" for name, count in config.generate.domains.items()),
            teacher=annotate if config.build.teacher_weight else None,
            prompt="\n".join(message["content"] for message in prompt.messages(PASSAGE)),
            counts=counts,
            by_dataset=by_teacher | supervised,
            types=len(mentions),
            mentions=mentions.total(),
            bands=_bands(mentions, negatives),
            dropped=_with_prefix("dropped_", counts),
            filtered=_with_prefix("mentions_", counts),
        )
    )


def plot(questions: Counter[str], positives: Sequence[int], characters: Sequence[int]) -> bytes:
    """Return a PNG: the types that most conversations have, positive types and characters a conversation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    types, spread, lengths = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    names, counts = zip(*questions.most_common(_MOST_TYPES), strict=True) if questions else ((), ())
    types.barh([name[:40] for name in names], counts, color="#33658a")
    types.invert_yaxis()
    types.tick_params(axis="y", labelsize=8)
    types.set_title("conversations that have a type")
    spread.hist(positives, bins=range(max(positives, default=0) + 2), align="left", color="#33658a")
    spread.set_title("positive types a conversation")
    lengths.hist(characters, bins=40, color="#33658a")
    lengths.set_title("characters a conversation")
    for axes in (types, spread, lengths):
        axes.spines[["top", "right"]].set_visible(False)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()


def _bands(mentions: Counter[str], negatives: Counter[str]) -> list[tuple[str, float, float]]:
    """Return each band of types with its shares of the mentions and of the negative questions."""
    drawn = bands(mentions, negatives)
    return [(name.replace("_", " "), share, drawn[name]) for name, share in bands(mentions, mentions).items()]


def _conversations(folder: Folder, keys: Sequence[str]) -> Iterator[Conversation]:
    for key in keys:
        yield from from_table(folder.read_chunk(key), Conversation)


def _with_prefix(prefix: str, counts: Counter[str]) -> dict[str, int]:
    return {
        name.removeprefix(prefix): count
        for name, count in counts.items()
        if name.startswith(prefix) and count
    }
