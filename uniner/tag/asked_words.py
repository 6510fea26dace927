"""The words that types are asked by at tagging: with a description, or as the nearest learnt type."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from uniner.errors import UserError
from uniner.inference.questions import TypeAnswer
from uniner.labels import known_spellings, unknown_types
from uniner.storage.folder import Folder
from uniner.type_descriptions import read_descriptions, split_description, with_description

UnknownTypes = Literal["itself", "nearest", "both"]
OUTCOMES = ("poison", "overlong", "too_long", "unparseable", "ok")
"""Worst first: the outcome of a type that is asked by several words is the worst."""


def split_types(entries: Iterable[str], setting: str) -> dict[str, str]:
    """Return the types that entries such as `person: a human being` name, each with its description or "".

    Raises:
        UserError: a type has two descriptions.
    """
    found: dict[str, str] = {}
    for name, description in map(split_description, entries):
        if description and found.get(name) not in (None, "", description):
            raise UserError(
                f"{setting}: {name!r} has two descriptions, {found[name]!r} and {description!r}; keep one"
            )
        found[name] = description or found.get(name, "")
    return found


def plain_words(
    types: Iterable[str], descriptions: Mapping[str, str], learnt: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return the words for the types that are not asked by their name as it is written.

    A type is asked in the spelling that the student learnt, with its description, if it has one, as training
    asks for it.
    """
    spelled = known_spellings(types, learnt)
    described = {name: text for name, text in descriptions.items() if text}
    with_text = {name: with_description(spelled.get(name, name), text) for name, text in described.items()}
    return {name: (word,) for name, word in {**spelled, **with_text}.items()}


def words_of_unknown(
    types: Iterable[str],
    words: Mapping[str, tuple[str, ...]],
    known: Collection[str],
    relatives: Mapping[str, Sequence[str]],
    how: UnknownTypes,
) -> dict[str, tuple[str, ...]]:
    """Return the words for all types, with those of the types that a student was not trained on.

    words: for types that are asked otherwise than by their name. known: the student's types; where none are
    known, all types are asked as themselves. relatives: see `labels.unknown_types`.
    """
    if how == "itself" or not known:
        return dict(words)
    nearest = {name: near for name, near in unknown_types(types, known, relatives).items() if near}
    own = {name: words.get(name, (name,)) if how == "both" else () for name in nearest}
    return {**words, **{name: tuple(dict.fromkeys((*own[name], near))) for name, near in nearest.items()}}


def answers_by_type(
    types: Sequence[str], words: Mapping[str, tuple[str, ...]], answers: Sequence[TypeAnswer]
) -> list[TypeAnswer]:
    """Return an answer for each type that was asked, merged where it was asked by several words.

    A mention keeps its highest score. The outcome is the worst of the words'. Types of which no word was
    asked are left out.
    """
    found = {answer.type: answer for answer in answers}
    merged = []
    for name in types:
        own = [found[word] for word in words.get(name, (name,)) if word in found]
        if own:
            merged.append(_merged(name, own))
    return merged


def _merged(name: str, answers: Sequence[TypeAnswer]) -> TypeAnswer:
    if len(answers) == 1:
        return replace(answers[0], type=name)
    scores: dict[str, float] = {}
    spans: dict[tuple[int, int], float] = {}
    for answer in answers:
        for mention, score in answer.scores.items():
            scores[mention] = max(score, scores.get(mention, score))
        for span, score in zip(answer.spans, answer.span_scores, strict=False):
            spans[span] = max(score, spans.get(span, score))
    ordered = sorted(spans)
    return TypeAnswer(
        name,
        min((answer.outcome for answer in answers), key=OUTCOMES.index),
        scores,
        "\n".join(answer.text for answer in answers),
        tuple(dict.fromkeys(mention for answer in answers for mention in answer.unscored)),
        tuple(ordered),
        tuple(spans[span] for span in ordered),
    )


def lowest_scores(
    of_type: Mapping[str, float], words: Mapping[str, tuple[str, ...]], types: Iterable[str], other: float
) -> dict[str, float]:
    """Return the lowest scores by the words that are asked: those of their most lenient type.

    of_type: by type; other: of the types without one.
    """
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for name in types:
        for word in words.get(name, (name,)):
            scores[word].append(of_type.get(name, other))
    lowest = {word: min(found) for word, found in scores.items()}
    return {word: score for word, score in lowest.items() if score != other}


def read_relatives(build: Folder) -> dict[str, list[str]]:
    """Return for types the types that build found to mean the same or nearly so, the nearest first.

    By the synonyms of descriptions, then by the mentions that two types share; nothing without a build.

    Raises:
        UserError: a file of build has other content.
    """
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    data = build.read_if_exists("descriptions.json")
    described = read_descriptions(data, build.path("descriptions.json")) if data else {}
    for name, entry in described.items():
        for synonym in entry.synonyms:
            found[synonym][name] = None
            found[name][synonym] = None
    for first, second in _pairs(build.read_json("near-synonyms.json"), build.path("near-synonyms.json")):
        found[first][second] = None
        found[second][first] = None
    return {name: list(others) for name, others in found.items()}


def _pairs(content: Any, url: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of types of a file of near-synonyms; content: its JSON, None without one."""
    pairs = [] if content is None else content
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        match pair:
            case {"first": str() as first, "second": str() as second}:
                yield first, second
            case _:
                raise UserError(
                    f"{url}: {str(pair)[:60]!r} is not a pair of types, such as "
                    '{"first": "film", "second": "movie"}; copy the file again'
                )
