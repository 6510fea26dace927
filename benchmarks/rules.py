"""Measure what the rules after the model cost a passage on one core, without rules and with 1,000 of a kind.

python -m benchmarks.rules [passages]

The passages (by default 100) have 120 words, some of them names, and six entities as a student finds them.
Each row applies `tag.tagger.apply_rules` to all of them and prints milliseconds of CPU a passage; reading the
file, with its trial of each regular expression, is a row of its own. Token patterns need spaCy. The goal:
under 0.1 ms without rules.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import Measured, say, show
from uniner.records import Passage, TaggedEntity, TaggedPassage
from uniner.tag.rule_file import RuleSet, read_rules
from uniner.tag.tagger import EntityRules, apply_rules

PATTERNS = 1_000
GOAL_MS = 0.1
WORDS = 120


def make_words(chance: random.Random, count: int) -> list[str]:
    """Return made-up words."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    return ["".join(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(count)]


def make_passages(count: int) -> Iterator[tuple[Passage, TaggedPassage]]:
    """Yield passages of 120 words, each with six entities."""
    chance = random.Random(0)
    words = make_words(chance, 5_000)
    for number in range(count):
        chosen = chance.choices(words, k=WORDS)
        for place in chance.sample(range(WORDS - 1), 12):
            chosen[place] = chosen[place].title()
        text = " ".join(chosen)
        names = [word for word in dict.fromkeys(chosen) if word.istitle()][:6]
        entities = tuple(
            TaggedEntity(
                text=name, type=chance.choice(("person", "city")), start=text.index(name),
                end=text.index(name) + len(name), score=chance.random(), grounding="exact",
            )
            for name in names
        )  # fmt: skip
        passage_id = f"{number:06d}"
        passage = Passage(
            passage_id=passage_id, doc_id=passage_id, passage_index=0, char_start=0, char_end=len(text),
            text=text, n_tokens=WORDS, source="",
        )  # fmt: skip
        row = TaggedPassage(
            doc_id=passage_id, passage_id=passage_id, char_start=0, entities=entities, outcome="ok",
            failed_types=(),
        )  # fmt: skip
        yield passage, row


def rule_lines(kind: str) -> Iterator[dict[str, Any]]:
    """Yield 1,000 rules of a kind, of which a few match somewhere."""
    chance = random.Random(0)
    words = make_words(chance, 5_000)
    for number in range(PATTERNS):
        first, second = (word.title() for word in chance.choices(words, k=2))
        if kind == "plain texts":
            yield {"label": "company", "pattern": first if number % 10 == 0 else f"{first} {second}"}
        elif kind == "regular expressions":
            yield {"label": "code", "regex": rf"\b{first}(?: [A-Z][a-z]+)?\b"}
        elif kind == "token patterns":
            yield {"label": "name", "pattern": [{"LOWER": first.lower()}, {"IS_TITLE": True, "OP": "?"}]}
        elif kind == "types to change":
            yield {"label": "place", "pattern": first, "retype": ["city"]}
        else:
            yield {"label": "person", "deny": [first, second]}


def milliseconds(work: Callable[[], object], passages: int) -> float:
    """Return the CPU time of some work a passage, the best of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(1000 * (time.process_time() - started) / passages)
    return min(times)


def measure(
    what: str, rules: EntityRules, tagged: Sequence[tuple[Passage, TaggedPassage]], goal: str = ""
) -> Measured:
    """Return the row of applying rules to passages."""
    passages, rows = zip(*tagged, strict=True)
    apply_rules(passages, rows, rules)  # loads the rules
    cost = milliseconds(lambda: apply_rules(passages, rows, rules), len(rows))
    say(f"{what}: {cost:.3f} ms")
    return Measured(what, 1000 * cost, "µs", "", None, goal)


def main(count: int = 100) -> None:
    tagged = list(make_passages(count))
    rows = [
        measure("no rules, a passage", EntityRules(), tagged, f"under {1000 * GOAL_MS:.0f} µs"),
        measure("no rules, overlaps flat", EntityRules(overlaps="flat"), tagged),
    ]
    for kind in ("plain texts", "regular expressions", "token patterns", "types to change", "deny lists"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rules.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in rule_lines(kind)))
            started = time.process_time()
            rules: RuleSet = read_rules(str(path))
            read_s = time.process_time() - started
            say(f"reading {PATTERNS:,} {kind}: {read_s:.2f} s")
        rows.append(Measured(f"reading {PATTERNS:,} {kind}", 1000 * read_s, "ms", "", None, ""))
        try:
            rows.append(measure(f"{PATTERNS:,} {kind}, a passage", EntityRules(patterns=rules), tagged))
        except Exception as error:
            if not rules.needs_spacy:
                raise
            print(f"{kind}: not measured: {error}")
    show(rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
