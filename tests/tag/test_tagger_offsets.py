"""Offsets are right in any script: every grounded mention is found at its offsets, once."""

import json
import math
from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import AnswerPiece
from uniner.inference.questions import parse_answer
from uniner.passages import cut_passages
from uniner.records import TAGGED_PASSAGE, TaggedPassage, from_table, to_table
from uniner.tag.tagger import EntityRules, apply_rules, tag_passage
from uniner.templates import SINGLE_TYPE

WORDS = [
    "e\u0301te\u0301",
    "Łódź",
    "😀👩\u200d🚀",
    "עִבְרִית",
    "العربية",
    "नमस्ते",
    "東京都",
    "a\x00b",
    "ﬁn",
    "İzmir",
    "ß",
    "O’Neill",
    "zz",
]
"""Combining marks, emoji of several characters, right to left, NUL, letters that folding makes longer."""
GAPS = [" ", "  ", "\r\n", "\r\n\r\n", ". ", "\u00a0", "\t", " \u200f"]

documents = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), min_size=1, max_size=50)


def numbered(drawn: list[tuple[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """Return a document of distinct words, and the words' offsets."""
    text, places = "", []
    for number, (word, gap) in enumerate(drawn):
        places.append((len(text), len(text) + len(f"{word}{number}")))
        text += f"{word}{number}{gap}"
    return text, places


def passages_of(document, tokenizer, overlap):
    return [
        span.passage(document, f"d-{span.index}", "d")
        for span in cut_passages(document, tokenizer, 40, overlap)
    ]


def tag(passages, mentions, rules=EntityRules()):  # noqa: B008
    """Let every passage's answer name all these mentions, and read the rows back as a user would."""
    text = json.dumps(mentions)
    answer = EngineAnswer(text, "stop", (AnswerPiece(text, math.log(0.5)),), 9)
    rows = [
        tag_passage(passage, parse_answer(SINGLE_TYPE, ["t"], answer, passage.text)) for passage in passages
    ]
    rows, _, _ = apply_rules(passages, rows, rules)
    return from_table(to_table(rows, TAGGED_PASSAGE), TaggedPassage)


@settings(max_examples=80, deadline=None)
@given(documents, st.sampled_from([0, 8, 20]), st.data())
@example([("e\u0301te\u0301", "\r\n")] * 30, 20, None)
def test_every_grounded_mention_is_the_documents_text_and_occurs_once(tokenizer, drawn, overlap, data):
    document, places = numbered(drawn)
    passages = passages_of(document, tokenizer, overlap)
    assert all(document[passage.char_start : passage.char_end] == passage.text for passage in passages)
    last = len(places) - 1
    first = data.draw(st.integers(0, last)) if data else last // 2
    long = (places[first][0], places[min(last, first + 2)][1])
    written = [document[start:end] for start, end in [*places, long]]
    # As models write: another case, single blanks, plain quotation marks; and mentions that do not occur.
    changed = [" ".join(text.split()).swapcase().replace("’", "'") for text in written[::3]]
    rows = tag(passages, [*written, *changed, "nowhere", "e\u0301"])
    grounded = [entity for row in rows for entity in row.entities if entity.grounding != "ungrounded"]
    assert grounded
    for entity in grounded:
        assert 0 <= entity.start < entity.end <= len(document)
        assert document[entity.start : entity.end] == entity.text
    spans = Counter((entity.start, entity.end) for entity in grounded)
    assert set(spans.values()) == {1}
    # Nothing is lost in an overlap: each mention that a passage holds whole is found.
    for start, end in [*places, long]:
        whole = any(passage.char_start <= start and end <= passage.char_end for passage in passages)
        assert spans[start, end] == whole, document[start:end]
    assert all(
        entity.start == entity.end == -1 for row in rows for entity in row.entities if entity not in grounded
    )


@settings(max_examples=40, deadline=None)
@given(documents, st.sampled_from([0, 8, 20]))
def test_flat_entities_of_a_document_never_overlap_whatever_its_chunks(tokenizer, drawn, overlap):
    document, places = numbered(drawn)
    passages = passages_of(document, tokenizer, overlap)
    pairs = [document[places[n][0] : places[n + 1][1]] for n in range(len(places) - 1)]
    mentions = [*pairs, *(document[start:end] for start, end in places)]
    middle = len(passages) // 2  # the two halves are tagged apart, as in two chunks
    halves = [half for half in (passages[:middle], passages[middle:]) if half]
    entities = [
        e
        for half in halves
        for row in tag(half, mentions, EntityRules(overlaps="flat"))
        for e in row.entities
    ]
    covered = [position for e in entities if e.start >= 0 for position in range(e.start, e.end)]
    assert covered and len(covered) == len(set(covered))
