"""Offsets hold in any script: every grounded mention stands where it is said to stand, and each once."""

import json
import math
from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from uniner.inference.engine import Answer
from uniner.inference.mention_scores import Piece
from uniner.inference.questions import judge
from uniner.passages import cut_passages
from uniner.records import TAGGED_PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.tag.entity_rules import Rules, select
from uniner.tag.tagger import tagged
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
    """Return a document in which every word is another, and where its words stand."""
    text, places = "", []
    for number, (word, gap) in enumerate(drawn):
        places.append((len(text), len(text) + len(f"{word}{number}")))
        text += f"{word}{number}{gap}"
    return text, places


def passages_of(document, tokenizer, overlap):
    return [
        Passage(
            passage_id=f"d-{piece.index}",
            doc_id="d",
            passage_index=piece.index,
            char_start=piece.start,
            char_end=piece.end,
            text=document[piece.start : piece.end],
            n_tokens=piece.n_tokens,
            source="",
            overlap_before=piece.overlap_before,
            overlap_after=piece.overlap_after,
        )
        for piece in cut_passages(document, tokenizer, 40, overlap)
    ]


def tag(passages, mentions, rules=Rules()):  # noqa: B008
    """Let every passage's answer name all these mentions, and read the rows back as a user would."""
    text = json.dumps(mentions)
    answer = Answer(text, "stop", (Piece(text, math.log(0.5)),), 9)
    rows = [tagged(passage, judge(SINGLE_TYPE, ["t"], answer), every_occurrence=True) for passage in passages]
    rows, _ = select(passages, rows, rules)
    return from_table(to_table(rows, TAGGED_PASSAGE), TaggedPassage)


@settings(max_examples=80, deadline=None)
@given(documents, st.sampled_from([0, 8, 20]), st.data())
@example([("e\u0301te\u0301", "\r\n")] * 30, 20, None)
def test_every_grounded_mention_is_the_documents_text_and_is_given_once(tokenizer, drawn, overlap, data):
    document, places = numbered(drawn)
    passages = passages_of(document, tokenizer, overlap)
    assert all(document[one.char_start : one.char_end] == one.text for one in passages)
    last = len(places) - 1
    first = data.draw(st.integers(0, last)) if data else last // 2
    long = (places[first][0], places[min(last, first + 2)][1])
    written = [document[start:end] for start, end in [*places, long]]
    # As models write: another case, blanks folded, quotation marks made plain; and what is not there at all.
    changed = [" ".join(text.split()).swapcase().replace("’", "'") for text in written[::3]]
    rows = tag(passages, [*written, *changed, "nowhere", "e\u0301"])
    grounded = [entity for row in rows for entity in row.entities if entity.grounding != "ungrounded"]
    assert grounded
    for entity in grounded:
        assert 0 <= entity.start < entity.end <= len(document)
        assert document[entity.start : entity.end] == entity.text
    found = Counter((entity.start, entity.end) for entity in grounded)
    assert set(found.values()) == {1}
    # Of an overlap nothing is lost either: each mention that some passage has whole is there.
    for start, end in [*places, long]:
        whole = any(one.char_start <= start and end <= one.char_end for one in passages)
        assert found[start, end] == whole, document[start:end]
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
    found = [e for half in halves for row in tag(half, mentions, Rules(flat=True)) for e in row.entities]
    covered = [place for e in found if e.start >= 0 for place in range(e.start, e.end)]
    assert covered and len(covered) == len(set(covered))
