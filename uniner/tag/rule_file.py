"""Read tag.rules: a file of JSON lines, patterns as spaCy's EntityRuler has them, and others."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from uniner.errors import UserError
from uniner.labels import has_surrogate, is_visible, nearest_type, stripped
from uniner.storage.filesystem import explained
from uniner.storage.line_reader import read_text_lines
from uniner.tag.bounded_regex import fault_of, probe_time_of_file
from uniner.tag.checksums import CHECKS
from uniner.tag.rule_words import words_of
from uniner.tag.token_patterns import token_pattern_fault, unknown_key

Action = Literal["add", "retype", "drop"]
EVERY_TYPE = "*"
"""In place of a type: all of them."""
_FAULTS_SHOWN = 3
_LONGEST_TEXT = 1_000
_PATTERN_EXAMPLE = '{"label": "company", "pattern": "Acme Corp"}'
_EXAMPLES = {
    "pattern": _PATTERN_EXAMPLE,
    "regex": '{"label": "iban", "regex": "[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", "check": "iban"}',
    "check": '{"label": "isbn", "check": "isbn"}',
    "deny": '{"label": "person", "deny": ["Monday", "Mr"]}',
    "stop_words": '{"label": "company", "stop_words": ["the", "company"]}',
    "min_length": '{"label": "*", "min_length": 2}',
    "retype": '{"label": "year", "regex": "[0-9]{4}", "retype": ["date"]}',
}
_ACTIONS = ("pattern", "regex", "deny", "stop_words", "min_length")
_KEYS = {*_EXAMPLES, "label", "id", "match_case"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line of the file.

    number: of the rule, which blank lines do not change. label: the type that the rule gives, or whose
    entities it drops; `*`: of every type. phrase, regex, tokens (a token pattern of spaCy, as JSON): what it
    finds, one of them. check: a checksum (`checksums.CHECKS`) that what it finds must have, or, alone, the
    label's entities. retype: it changes the type of entities of these types in place of adding its own.
    deny, stop_words, min_length: which of the label's entities it drops.
    """

    line: int
    number: int
    label: str
    name: str = ""
    phrase: str = ""
    regex: str = ""
    tokens: str = ""
    check: str = ""
    retype: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    stop_words: tuple[str, ...] = ()
    min_length: int = 0
    match_case: bool = False

    @property
    def action(self) -> Action:
        """What the rule does."""
        if self.retype:
            return "retype"
        return "add" if self.phrase or self.regex or self.tokens else "drop"

    @property
    def kind(self) -> str:
        """The key of the file that says what the rule looks at."""
        if self.phrase or self.tokens:
            return "pattern"
        kinds = ("regex", "deny", "stop_words", "min_length", "check")
        return next(kind for kind in kinds if getattr(self, kind))


@dataclass(frozen=True, kw_only=True)
class RuleSet:
    """The rules of a file, in its order. language: whose spaCy tokenizer token patterns use."""

    rules: tuple[Rule, ...] = ()
    language: str = "en"

    def __bool__(self) -> bool:
        return bool(self.rules)

    @property
    def needs_spacy(self) -> bool:
        """Whether there are token patterns."""
        return any(rule.tokens for rule in self.rules)

    def identity(self) -> dict[str, str]:
        """Return what decides the rules' work: the content of the file, not where it lies."""
        content = [{**asdict(rule), "line": 0, "number": 0, "name": ""} for rule in self.rules]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return {"rules": digest, **({"rules_language": self.language} if self.needs_spacy else {})}


def read_rules(url: str, language: str = "en") -> RuleSet:
    """Read a file of rules, one JSON object in each line. Blank lines are left out.

    Raises:
        UserError: naming the lines that are no rule, each with an example of one; or there is no rule.
    """
    rules: list[Rule] = []
    faults: list[str] = []
    seconds: dict[int, float] = {}
    with explained(url), probe_time_of_file() as time:
        for number, line in read_text_lines(url):
            if not line.strip():
                continue
            before = time.spent_s
            try:
                rules.append(replace(parse_rule(line, number), number=len(rules) + 1))
            except ValueError as error:
                faults.append(f"line {number} {error}")
            seconds[number] = time.spent_s - before
            if time.is_over:
                worst = sorted(seconds, key=lambda number: -round(seconds[number], 2))[:3]
                slowest = ", ".join(f"line {number} ({seconds[number]:.2f} s)" for number in worst)
                raise UserError(f"{url}: {faults[-1]}; the slowest: {slowest}")
    if faults:
        more = len(faults) - _FAULTS_SHOWN
        shown = "; ".join(faults[:_FAULTS_SHOWN]) + (f"; and {more:,} more lines" if more > 0 else "")
        raise UserError(f"{url}: {shown}")
    if not rules:
        raise UserError(f"{url}: the file has no rule; write one in each line, such as {_PATTERN_EXAMPLE}")
    return RuleSet(rules=tuple(rules), language=language)


def unused_labels_line(rules: RuleSet, asked: Collection[str]) -> str:
    """Return a line on types whose entities rules change or drop, and which nothing gives; "" without any."""
    given = {*asked, EVERY_TYPE, *(rule.label for rule in rules.rules if rule.action != "drop")}
    unused: dict[str, int] = {}
    for rule in rules.rules:
        for name in rule.retype if rule.action == "retype" else (rule.label,):
            if name not in given:
                unused.setdefault(name, rule.line)
    if not unused:
        return ""
    known = sorted(given - {EVERY_TYPE})
    near = {name: nearest_type(name, known) for name in unused}
    named = (
        f"line {line}: {name!r}" + (f" (nearest: {near[name]!r})" if near[name] else "")
        for name, line in unused.items()
    )
    return (
        f"tag.rules, {', '.join(named)} {'is' if len(unused) == 1 else 'are'} neither a type that is asked "
        'for nor the label of a pattern; name a type as it is asked, or write "*" for all types'
    )


def parse_rule(line: str, number: int) -> Rule:
    """Read a line of the file.

    Raises:
        ValueError: what is wrong with it, as the rest of a sentence, with an example.
    """
    try:
        value = json.loads(line, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"is not JSON ({reason}); such as {_PATTERN_EXAMPLE}") from None
    if not isinstance(value, dict):
        raise ValueError(f"is not a JSON object; such as {_PATTERN_EXAMPLE}")
    _require_keys(value)
    kind = next((key for key in _ACTIONS if key in value), "check")
    for key, content in value.items():
        if fault := _FAULTS[key](content):
            example = _EXAMPLES.get(key, _EXAMPLES[kind])
            raise ValueError(f"has {key} = {_shown(content)}, which {fault}; such as {example}")
    if value["label"] == EVERY_TYPE and (kind in ("pattern", "regex", "check")):
        raise ValueError(f'has the label "*", and {kind} needs a type; such as {_EXAMPLES[kind]}')
    return _rule(value, number)


def _rule(value: Mapping[str, Any], number: int) -> Rule:
    pattern = value.get("pattern", "")
    is_phrase = isinstance(pattern, str)
    return Rule(
        line=number,
        number=number,
        label=value["label"],
        name=value.get("id", ""),
        phrase=pattern if is_phrase else "",
        tokens="" if is_phrase else json.dumps(pattern, ensure_ascii=False),
        regex=value.get("regex", ""),
        check=value.get("check", ""),
        retype=tuple(value.get("retype", ())),
        deny=tuple(value.get("deny", ())),
        stop_words=tuple(value.get("stop_words", ())),
        min_length=value.get("min_length", 0),
        match_case=value.get("match_case", "pattern" in value),
    )


def _require_keys(value: Mapping[str, Any]) -> None:
    """Check that a line's keys are known and go together."""
    unknown = [key for key in value if key not in _KEYS]
    if unknown:
        raise ValueError(
            f"has {_shown(unknown[0])}, {unknown_key(unknown[0], _KEYS)}; such as {_PATTERN_EXAMPLE}"
        )
    if "label" not in value:
        raise ValueError(f"has no label; such as {_PATTERN_EXAMPLE}")
    actions = [key for key in _ACTIONS if key in value]
    if len(actions) > 1:
        raise ValueError(
            f"has {' and '.join(actions)}; write a line for each, such as {_EXAMPLES[actions[0]]}"
        )
    if not actions and "check" not in value:
        kinds = ", ".join((*_ACTIONS, "check"))
        raise ValueError(f"says nothing to do; write one of {kinds}, such as {_PATTERN_EXAMPLE}")
    finds = actions in (["pattern"], ["regex"])
    if "retype" in value and not finds:
        raise ValueError(f"has retype without a pattern or regex; such as {_EXAMPLES['retype']}")
    if "check" in value and actions and actions != ["regex"]:
        raise ValueError(
            f"has check and {actions[0]}; check goes with regex or alone, such as {_EXAMPLES['regex']}"
        )
    if "match_case" in value and not (
        actions[:1] in (["deny"], ["stop_words"]) or isinstance(value.get("pattern"), str)
    ):
        raise ValueError(
            "has match_case, which goes with deny, stop_words and a pattern of plain text; such as "
            '{"label": "company", "pattern": "acme", "match_case": false}'
        )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    repeated = next((key for key, count in counts.items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"the key {repeated!r} occurs twice")
    return dict(pairs)


def _shown(content: Any) -> str:
    """Return a value of the file for a message: JSON, shortened, in one line."""
    text = json.dumps(content)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text_fault(content: Any) -> str:
    if not isinstance(content, str) or not is_visible(content):
        return "is not a text with a visible character"
    if content != stripped(content):
        return "has blanks around it, or characters without width"
    if len(content) > _LONGEST_TEXT:
        return f"has more than {_LONGEST_TEXT:,} characters"
    return "has half of a surrogate pair" if has_surrogate(content) else ""


def _name_fault(content: Any) -> str:
    fault = _text_fault(content)
    return fault or ("has a line break" if len(content.splitlines()) > 1 else "")


def _stop_words_fault(content: Any) -> str:
    fault = _texts_fault(content)
    empty = [] if fault else [text for text in content if not words_of(text)]
    return f"{empty[0]!r} has no word, so that it could never match" if empty else fault


def _texts_fault(content: Any) -> str:
    if not isinstance(content, list) or not content:
        return "is not a list of texts"
    return next((f"has an item that {fault}" for each in content if (fault := _text_fault(each))), "")


def _regex_fault(content: Any) -> str:
    if not isinstance(content, str) or not content:
        return "is not a regular expression"
    return "has half of a surrogate pair" if has_surrogate(content) else fault_of(content)


def _pattern_fault(content: Any) -> str:
    return _text_fault(content) if isinstance(content, str) else token_pattern_fault(content)


_FAULTS: Mapping[str, Callable[[Any], str]] = {
    "label": _name_fault,
    "id": _name_fault,
    "pattern": _pattern_fault,
    "regex": _regex_fault,
    "check": lambda content: "" if content in list(CHECKS) else f"is none of {', '.join(CHECKS)}",
    "deny": _texts_fault,
    "stop_words": _stop_words_fault,
    "retype": _texts_fault,
    "match_case": lambda content: "" if isinstance(content, bool) else "is neither true nor false",
    "min_length": lambda content: (
        "" if type(content) is int and 1 <= content <= _LONGEST_TEXT else "is not a number of characters"
    ),
}
"""By key: what is wrong with its value, in words; "" where nothing is."""
