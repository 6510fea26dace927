"""The leaderboard as a self-contained HTML page, with plots and the error analysis."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment
from markupsafe import Markup, escape

from uniner.evaluate import paraphrase, plots
from uniner.evaluate.leaderboard import LeaderboardCell, LeaderboardRow, LeaderboardTable, ScoresBySystem
from uniner.evaluate.published import published_sources
from uniner.evaluate.scoring import DatasetScores
from uniner.evaluate.speeds import SPEED_NOTE, SPEED_TITLE, SpeedRow, speed_texts

WIDE = 9
"""Tables with more columns are transposed: a row for each data set."""
TYPES = 12
"""Types shown with their mistakes and confusions."""
EXAMPLES = 4
"""Examples of each kind of mistake, from as many types as possible."""


class ConfusionTable(NamedTuple):
    """The most frequent confusions: how often gold of a type (columns) answered another type (rows)."""

    asked: tuple[str, ...]
    gold: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]


class MistakeExample(NamedTuple):
    """A mistake to show. text: the passage with the mention marked."""

    dataset: str
    type: str
    text: Markup
    predicted: str
    gold: str


def strict_rows(table: LeaderboardTable) -> list[LeaderboardRow]:
    """Return the rows that compare by protocol strict, of ours only `strict`: all that a wide table shows."""
    return [row for row in table.rows if row.compares_with == "strict" and row.protocol != "released"]


def render(
    tables: Sequence[LeaderboardTable],
    scores: ScoresBySystem,
    statements: Mapping[str, str],
    timed: Sequence[SpeedRow],
    in_other_words: Sequence[tuple[str, ...]] = (),
) -> str:
    """Return the page's HTML. statements: by protocol. in_other_words: `paraphrase.paraphrase_rows`."""
    text = resources.files("uniner.evaluate").joinpath("leaderboard.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    named = {table.name: table for table in tables}
    colours = plots.system_colours(scores)
    by_dataset = [plots.plot_columns(named[name], colours) for name in ("all", "others") if name in named]
    return page.render(
        tables=tables,
        wide=WIDE,
        strict_rows=strict_rows,
        background=_background,
        timed=[(row, *speed_texts(row.speed)) for row in timed],
        in_other_words=in_other_words,
        paraphrase_head=paraphrase.HEAD,
        paraphrase_title=paraphrase.TITLE,
        paraphrase_note=paraphrase.NOTE,
        speed_title=SPEED_TITLE,
        speed_note=SPEED_NOTE,
        statements=statements,
        sources=published_sources(),
        by_dataset=[Markup(plot) for plot in by_dataset if plot],
        by_domain=Markup(plots.plot_columns(named["domains"], colours)),
        by_length=Markup(plots.plot_lengths(scores, colours)),
        wrong=Markup(plots.plot_mistakes(scores, "wrong")),
        missed=Markup(plots.plot_mistakes(scores, "missed")),
        systems=[_system_section(system, by_dataset) for system, by_dataset in scores.items()],
        min_gold=plots.MIN_GOLD,
    )


def _system_section(system: str, scores: Mapping[str, DatasetScores]) -> dict[str, object]:
    """Return the template's values for a system's section."""
    types = {
        f"{name} ({dataset})": score
        for dataset, dataset_scores in scores.items()
        for name, score in dataset_scores.types.items()
    }
    return {
        "name": system,
        "by_type": Markup(plots.plot_types(types)),
        "confusions": _confusions(scores),
        "examples": _examples(scores),
        "mistakes": _mistakes(scores),
        "broken": sum(dataset_scores.broken for dataset_scores in scores.values()),
        "questions": sum(dataset_scores.questions for dataset_scores in scores.values()),
    }


def _mistakes(scores: Mapping[str, DatasetScores]) -> list[tuple[str, dict[str, int]]]:
    """Return the types with the most mistakes, counted by kind, such as `wrong: made up`."""
    types: dict[str, Counter[str]] = {}
    for dataset, dataset_scores in scores.items():
        for name, counts in dataset_scores.errors.types.items():
            kinds = types.setdefault(f"{name} ({dataset})", Counter())
            for side, by_kind in (("wrong", counts.wrong), ("missed", counts.missed)):
                kinds.update({f"{side}: {kind.replace('_', ' ')}": count for kind, count in by_kind.items()})
    ordered = sorted(types.items(), key=lambda item: (-item[1].total(), item[0]))
    return [(name, dict(kinds)) for name, kinds in ordered[:TYPES]]


def _confusions(scores: Mapping[str, DatasetScores]) -> ConfusionTable:
    counts: Counter[tuple[str, str]] = Counter()
    rows, columns = Counter[str](), Counter[str]()
    for dataset_scores in scores.values():
        for asked, by_gold in dataset_scores.errors.confusions.items():
            counts.update({(asked, gold): count for gold, count in by_gold.items()})
    for (asked, gold), count in counts.items():
        rows[asked] += count
        columns[gold] += count
    asked_types, gold_types = (
        tuple(sorted(name for name, _ in totals.most_common(TYPES))) for totals in (rows, columns)
    )
    return ConfusionTable(asked_types, gold_types, counts)


def _examples(scores: Mapping[str, DatasetScores]) -> dict[str, list[MistakeExample]]:
    """Return examples by kind, from as many data sets and types as possible."""
    kinds: dict[str, list[MistakeExample]] = {}
    for number in range(EXAMPLES):
        for dataset, dataset_scores in scores.items():
            for kind, by_type in dataset_scores.errors.examples.items():
                types = sorted(by_type)
                examples = kinds.setdefault(kind, [])
                if number < len(types) and len(examples) < EXAMPLES:
                    mistake, name = by_type[types[number]][0], types[number]
                    text = _marked(mistake.text, mistake.predicted or mistake.gold)
                    examples.append(MistakeExample(dataset, name, text, mistake.predicted, mistake.gold))
    return {kind.replace("_", " "): examples for kind, examples in sorted(kinds.items())}


def _marked(text: str, mention: str) -> Markup:
    before, match, after = text.partition(mention) if mention else (text, "", "")
    if not match:
        return escape(text)
    return Markup("{}<mark>{}</mark>{}").format(before, match, after)


def _background(cell: LeaderboardCell | None) -> str:
    """Return the style of a cell: the higher its F1, the darker."""
    return "" if cell is None else f"background:rgba(51,101,138,{0.6 * (cell.f1 / 100) ** 1.5:.3f})"
