"""The leaderboard as a self-contained HTML page, with plots and the analysis of mistakes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from uniner.evaluate import plots
from uniner.evaluate.leaderboard import Board, Cell, Scores
from uniner.evaluate.leaderboard_tables import WIDE, strict
from uniner.evaluate.published import sources

CONFUSED_TYPES = 12
EXAMPLES = 4
"""Of each kind of mistake, of as many types as there are."""


@dataclass(frozen=True)
class Confusions:
    """How often gold of a type (columns) was answered when another (rows) was asked for, at most."""

    asked: tuple[str, ...]
    gold: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Example:
    """A mistake: the passage with the mention marked, what was predicted and what is gold."""

    dataset: str
    type: str
    text: Markup
    predicted: str
    gold: str


def render(boards: Sequence[Board], scores: Scores, statements: Mapping[str, str]) -> str:
    """Return the page's HTML."""
    text = resources.files("uniner.evaluate").joinpath("leaderboard.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    named = {board.name: board for board in boards}
    colours = plots.colours_of(scores)
    by_dataset = [plots.by_column(named[name], colours) for name in ("all", "others") if name in named]
    return page.render(
        boards=boards,
        wide=WIDE,
        strict=strict,
        shade=_shade,
        statements=statements,
        sources=sources(),
        by_dataset=[Markup(plot) for plot in by_dataset if plot],
        by_domain=Markup(plots.by_column(named["domains"], colours)),
        by_length=Markup(plots.by_length(scores, colours)),
        wrong=Markup(plots.mistakes(scores, "wrong")),
        missed=Markup(plots.mistakes(scores, "missed")),
        systems=[
            {
                "name": system,
                "by_type": Markup(plots.by_type(found)),
                "confusions": confusions(found),
                "examples": examples(found),
                "mistakes": mistakes(found),
                "broken": sum(figures["broken"] for figures in found.values()),
                "questions": sum(figures["questions"] for figures in found.values()),
            }
            for system, found in scores.items()
        ],
        least_gold=plots.LEAST_GOLD,
    )


def mistakes(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, int]]]:
    """Return the types with the most mistakes, counted by kind, such as `wrong: made up`."""
    types: dict[str, Counter[str]] = {}
    for dataset, figures in found.items():
        for name, sides in figures["errors"]["types"].items():
            counts = types.setdefault(f"{name} ({dataset})", Counter())
            for side, kinds in sides.items():
                counts.update({f"{side}: {kind.replace('_', ' ')}": many for kind, many in kinds.items()})
    ordered = sorted(types.items(), key=lambda one: (-one[1].total(), one[0]))
    return [(name, dict(counts)) for name, counts in ordered[:CONFUSED_TYPES]]


def confusions(found: Mapping[str, Mapping[str, Any]]) -> Confusions:
    """Return a system's most frequent confusions, all data sets together."""
    counts: Counter[tuple[str, str]] = Counter()
    for figures in found.values():
        for asked, golds in figures["errors"]["confusions"].items():
            counts.update({(asked, gold): many for gold, many in golds.items()})
    rows: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    for (asked, gold), many in counts.items():
        rows[asked] += many
        columns[gold] += many
    asked_most, gold_most = (
        tuple(sorted(name for name, _ in most.most_common(CONFUSED_TYPES))) for most in (rows, columns)
    )
    return Confusions(asked_most, gold_most, counts)


def examples(found: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Example]]:
    """Return examples of each kind of mistake, of as many data sets and types as there are."""
    kinds: dict[str, list[Example]] = {}
    for place in range(EXAMPLES):
        for dataset, figures in found.items():
            for kind, by_type in figures["errors"].get("examples", {}).items():
                types = sorted(by_type)
                kept = kinds.setdefault(kind, [])
                if place < len(types) and len(kept) < EXAMPLES:
                    one = by_type[types[place]][0]
                    marked = _marked(one["text"], one["predicted"] or one["gold"])
                    kept.append(Example(dataset, types[place], marked, one["predicted"], one["gold"]))
    return {kind.replace("_", " "): kept for kind, kept in sorted(kinds.items())}


def _marked(text: str, mention: str) -> Markup:
    before, found, after = text.partition(mention) if mention else (text, "", "")
    if not found:
        return escape(text)
    return Markup("{}<mark>{}</mark>{}").format(before, found, after)


def _shade(cell: Cell | None) -> str:
    """Return a cell's background: the higher its F1, the darker."""
    return "" if cell is None else f"background:rgba(51,101,138,{0.6 * (cell.f1 / 100) ** 1.5:.3f})"
