"""Apply the rules of tag.rules to the entities of passages: change types, add entities, drop entities."""

import functools
import threading
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from uniner.grounding import whole_word_spans
from uniner.overlaps import settle
from uniner.passages import owns
from uniner.records import BY_RULE, RETYPED, Passage, TaggedEntity
from uniner.tag.bounded_regex import BoundedRegex
from uniner.tag.checksums import CHECKS, SURE
from uniner.tag.rule_file import EVERY_TYPE, Rule, RuleSet
from uniner.tag.rule_words import TextWithoutCase, without_case, word_starts, words_of
from uniner.tag.token_patterns import TokenMatcher

_MOST_LATE = 3
"""Passages of a chunk on which a rule may reach its time limit; then the rule is given up for the chunk."""
_EXAMPLE_CHARACTERS = 60
_FIGURE = "rule "
_TOTALS = {
    "added": "rules_added",
    "confirmed": "rules_confirmed",
    "retyped": "rules_retyped",
    "dropped": "dropped_by_rule",
    "late": "rules_late",
}
"""The figures in which a stage sums up what each rule did."""


@dataclass
class RuleWork:
    """What the rules did to a chunk. kept: the entities of each passage.

    figures: by action, and by the rule's number and action. examples: texts, by number and action. late: the
    labels of the rules that reached their time limit, by passage.
    """

    kept: list[list[TaggedEntity]]
    figures: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    late: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def count(self, rule: Rule, done: str, entity: TaggedEntity | None = None) -> None:
        """Count what a rule did, to an entity with its type before."""
        self.figures[f"{_FIGURE}{rule.number} {done}"] += 1
        self.figures[_TOTALS[done]] += 1
        if entity is not None:
            text = " ".join(entity.text.split())[:_EXAMPLE_CHARACTERS]
            shown = text if done in ("added", "confirmed") else f"{text} ({entity.type})"
            self.examples[f"{rule.number} {done}"].append(shown)


class RuleMatch(NamedTuple):
    """What a rule finds: offsets into the document, and the number of words as `score`, by which matches of
    rules that overlap are settled."""

    start: int
    end: int
    score: float
    rule: Rule


@functools.lru_cache(maxsize=4)
def rule_runner(rules: RuleSet) -> "RuleRunner":
    """Return the runner of these rules in this process."""
    return RuleRunner(rules)


class RuleRunner:
    """Applies rules, one call at a time. Loads spaCy where there are token patterns."""

    def __init__(self, rules: RuleSet):
        self._lock = threading.Lock()
        adding = [rule for rule in rules.rules if rule.action == "add"]
        phrases = [(rule, form) for rule in adding if rule.phrase for form in _spellings(rule.phrase)]
        self._phrases = [(rule, form) for rule, form in phrases if rule.match_case]
        self._without_case = [(rule, without_case(form)) for rule, form in phrases if not rule.match_case]
        self._regexes = {rule.line: BoundedRegex(rule.regex) for rule in rules.rules if rule.regex}
        self._found_by_regex = [rule for rule in adding if rule.regex]
        self._retyped_texts = {
            rule.line: _comparable(rule.phrase, match_case=rule.match_case)
            for rule in rules.rules
            if rule.action == "retype" and rule.phrase
        }
        self._retyping = [rule for rule in rules.rules if rule.action == "retype"]
        self._dropping = [_Drop(rule) for rule in rules.rules if rule.action == "drop"]
        self._by_tokens = [rule for rule in rules.rules if rule.tokens]
        self._tokens = (
            TokenMatcher([rule.tokens for rule in self._by_tokens], rules.language)
            if self._by_tokens
            else None
        )

    def apply(
        self,
        passages: Sequence[Passage],
        entities: Sequence[Sequence[TaggedEntity]],
        runs: Iterable[Sequence[int]],
    ) -> RuleWork:
        """Apply the rules to the entities of each passage: first types, then additions, then drops.

        runs: the numbers of passages that share text with one another. An entity in shared text is added by
        the passage that owns it. Of the matches of rules no two overlap: the one with more words stays, then
        the earlier, then that of the earlier line.
        """
        with self._lock:
            work = RuleWork([list(found) for found in entities])
            found = [self._of_passage(number, passage, work) for number, passage in enumerate(passages)]
        for run in runs:
            matches = sorted(
                (match for number in run for match in found[number]),
                key=lambda match: (match.start, match.rule.line),
            )
            chosen = set(settle(matches, "flat"))
            for number in run:
                added = [match for match in found[number] if match in chosen]
                work.kept[number] = _with_additions(passages[number], work.kept[number], added, work)
                work.kept[number] = [each for each in work.kept[number] if not self._drops(each, work)]
        return work

    def _of_passage(self, number: int, passage: Passage, work: RuleWork) -> list[RuleMatch]:
        """Change the types of a passage's entities, and return what the rules find in it."""
        by_tokens, late = list[tuple[Rule, int, int]](), list[Rule]()
        starts = word_starts(passage.text) if self._finds_alone else []
        if self._tokens:
            given_up = [place for place, rule in enumerate(self._by_tokens) if _given_up(rule, work)]
            token_matches, starts = self._tokens.matches(passage.text, given_up)
            late += [self._by_tokens[place] for place in self._tokens.timed_out]
            by_tokens = [(self._by_tokens[place], start, end) for place, start, end in token_matches]
            by_tokens = [match for match in by_tokens if match[0] not in late]
        matches = [match for match in by_tokens if match[0].action == "add"]
        matches += self._plain_matches(passage.text, work, late)
        places = {(rule.line, start, end) for rule, start, end in by_tokens if rule.action == "retype"}
        work.kept[number] = [
            self._retyped(passage, entity, places, work, late) for entity in work.kept[number]
        ]
        for rule in late:
            work.count(rule, "late")
            work.late[number].append(rule.label)
        offset = passage.char_start
        own = [
            RuleMatch(offset + start, offset + end, _words(starts, start, end), rule)
            for rule, start, end in matches
            if owns(passage, offset + start, offset + end)
        ]
        return list(dict.fromkeys(own))  # spaCy may find a match in several ways

    @property
    def _finds_alone(self) -> bool:
        """Whether there are rules that find entities, and no spaCy that gives a passage's words."""
        return self._tokens is None and bool(self._phrases or self._without_case or self._found_by_regex)

    def _plain_matches(self, text: str, work: RuleWork, late: list[Rule]) -> Iterator[tuple[Rule, int, int]]:
        """Yield the matches of plain texts and regular expressions that add entities."""
        for rule, phrase in self._phrases:
            for start, end in whole_word_spans(text, phrase):
                yield rule, start, end
        if self._without_case:
            folded = TextWithoutCase(text)
            for rule, phrase in self._without_case:
                for start, end in whole_word_spans(text, folded.places(phrase)):
                    yield rule, start, end
        for rule in self._found_by_regex:
            expression = self._expression(rule, work, late)
            check = CHECKS[rule.check] if rule.check else None
            spans = expression.spans(text, check, sure=rule.check in SURE) if expression else []
            if expression and expression.timed_out:
                late.append(rule)
            for start, end in spans:
                yield rule, start, end

    def _expression(self, rule: Rule, work: RuleWork, late: list[Rule]) -> BoundedRegex | None:
        """Return a rule's expression; None where it is late here or given up for the chunk."""
        if rule not in late and _given_up(rule, work):
            late.append(rule)
        if rule in late:
            return None
        expression = self._regexes[rule.line]
        expression.restart()
        return expression

    def _retyped(
        self,
        passage: Passage,
        entity: TaggedEntity,
        places: set[tuple[int, int, int]],
        work: RuleWork,
        late: list[Rule],
    ) -> TaggedEntity:
        """Return an entity with the type that the first rule gives it which matches the whole of it."""
        if entity.start < 0:
            return entity
        start, end = entity.start - passage.char_start, entity.end - passage.char_start
        for rule in self._retyping:
            if entity.type == rule.label or not {entity.type, EVERY_TYPE} & set(rule.retype):
                continue
            if rule.tokens:
                fits = (rule.line, start, end) in places
            elif rule.phrase:
                text = _comparable(entity.text, match_case=rule.match_case)
                fits = text == self._retyped_texts[rule.line]
            else:
                expression = self._expression(rule, work, late)
                fits = bool(expression and expression.fullmatch(entity.text))
                if expression and expression.timed_out:
                    late.append(rule)
            if fits and (not rule.check or CHECKS[rule.check](entity.text)):
                work.count(rule, "retyped", entity)
                return replace(entity, type=rule.label, grounding=RETYPED)
        return entity

    def _drops(self, entity: TaggedEntity, work: RuleWork) -> bool:
        for drop in self._dropping:
            if drop.rule.label in (EVERY_TYPE, entity.type) and drop.drops(entity.text):
                work.count(drop.rule, "dropped", entity)
                return True
        return False


class _Drop:
    """A rule that drops entities, with its texts ready for comparison."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self._deny = frozenset(map(self._key, rule.deny))
        # Divided as an entity is, so that "don't" can be found. "New York" is two words: neither of them goes
        # without the other.
        divided = [(text, words_of(self._key(text))) for text in rule.stop_words]
        self._stop_words = frozenset(words for text, words in divided if len(text.split()) == 1)
        self._stop_phrases = frozenset(words for text, words in divided if len(text.split()) > 1)

    def drops(self, text: str) -> bool:
        """Tell whether the rule drops an entity with this text."""
        if self._deny:
            return self._key(text) in self._deny
        if self.rule.stop_words:
            words = words_of(self._key(text))
            return words in self._stop_phrases or (bool(words) and _consists_of(words, self._stop_words))
        if self.rule.min_length:
            return len(text) < self.rule.min_length
        return not CHECKS[self.rule.check](text)

    def _key(self, text: str) -> str:
        return _comparable(text, match_case=self.rule.match_case)


def _spellings(phrase: str) -> list[str]:
    """Return a phrase as it is, with its accents on the letters, and with accents written apart."""
    forms = (unicodedata.normalize(form, phrase) for form in ("NFC", "NFD"))
    return list(dict.fromkeys((phrase, *forms)))


def _comparable(text: str, *, match_case: bool) -> str:
    """Return a text to compare: blanks are one, letters with marks are composed."""
    joined = unicodedata.normalize("NFC", " ".join(text.split()))
    return joined if match_case else without_case(joined)


def _consists_of(words: tuple[str, ...], parts: Set[tuple[str, ...]]) -> bool:
    """Tell whether a row of words is some of these parts, one after another."""
    longest, ends = max(map(len, parts), default=0), {0}
    for start in range(len(words)):
        if start in ends:
            last = min(start + longest, len(words))
            ends |= {end for end in range(start + 1, last + 1) if words[start:end] in parts}
    return len(words) in ends


def _with_additions(
    passage: Passage, entities: Sequence[TaggedEntity], added: Sequence[RuleMatch], work: RuleWork
) -> list[TaggedEntity]:
    """Return a passage's entities with those of rules, which take the place of the same ones.

    Of two that a changed type has made the same, the one with the higher score stays.
    """
    by_place: dict[tuple[int, int, str, str], TaggedEntity] = {}
    for entity in entities:
        key = (entity.start, entity.end, entity.type, entity.text)
        if key not in by_place or entity.score > by_place[key].score:
            by_place[key] = entity
    if not added:
        return list(by_place.values())
    for match in added:
        text = passage.text[match.start - passage.char_start : match.end - passage.char_start]
        entity = TaggedEntity(
            text=text, type=match.rule.label, start=match.start, end=match.end, score=1.0, grounding=BY_RULE
        )
        key = (match.start, match.end, match.rule.label, text)
        work.count(match.rule, "confirmed" if key in by_place else "added", entity)
        by_place[key] = entity
    return sorted(by_place.values(), key=lambda entity: (entity.start < 0, entity.start, entity.end))


def describe_rules(
    rules: RuleSet, figures: Mapping[str, float], examples: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return what the rules did, for the manifest: in all, and each that did something, with examples."""
    did = []
    for rule in rules.rules:
        counts = {done: int(figures.get(f"{_FIGURE}{rule.number} {done}", 0)) for done in _TOTALS}
        counts = {done: count for done, count in counts.items() if count}
        if counts:
            shown = [text for done in counts for text in examples.get(f"{rule.number} {done}", ())]
            did.append(
                {
                    "line": rule.line,
                    "id": rule.name,
                    "label": rule.label,
                    "kind": rule.kind,
                    **counts,
                    "examples": shown,
                }
            )
    totals = {done: int(figures.get(name, 0)) for done, name in _TOTALS.items()}
    return {"rules": len(rules.rules), "without_effect": len(rules.rules) - len(did), **totals, "did": did}


def rules_line(described: Mapping[str, Any]) -> str:
    """Return in words what `describe_rules` returned."""
    line = (
        f"rules added {described['added']:,} entities and confirmed {described['confirmed']:,}, changed the "
        f"type of {described['retyped']:,} and dropped {described['dropped']:,}; "
        f"{described['without_effect']:,} of {described['rules']:,} rules had no effect"
    )
    late = [str(rule["line"]) for rule in described["did"] if rule.get("late")]
    if late:
        line += (
            f"; the regular expressions of line {', '.join(late[:5])} reached their time limit "
            f"{described['late']:,} times: those passages have the outcome rule_late"
        )
    return line


def rule_lines(described: Mapping[str, Any]) -> list[str]:
    """Return a line for each rule that did something, of what `describe_rules` returned."""
    return [
        f"line {rule['line']} ({rule['label']}, {rule['kind']}): "
        + ", ".join(f"{done} {rule[done]:,}" for done in _TOTALS if done in rule)
        + (f": {', '.join(rule['examples'])}" if rule["examples"] else "")
        for rule in described["did"]
    ]


def without_rule_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Return a stage's figures without those of single rules, which `describe_rules` shows."""
    return {name: count for name, count in figures.items() if not name.startswith(_FIGURE)}


def _given_up(rule: Rule, work: RuleWork) -> bool:
    return work.figures[f"{_FIGURE}{rule.number} late"] >= _MOST_LATE


def _words(starts: Sequence[int], start: int, end: int) -> int:
    """Return how many words text[start:end] touches."""
    first = max(0, bisect_right(starts, start) - 1)
    return max(1, bisect_left(starts, end) - first)
