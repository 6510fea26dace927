"""Damaged input: readers, parser and grounding end in rows with reasons or one line, and invent nothing."""

import gzip
import json
import re
import tempfile
import zlib
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.teacher.test_reply_parser import plain
from uniner.annotate.annotator import locate_entities
from uniner.errors import UserError
from uniner.grounding import locate
from uniner.ingest.document_reader import REASONS, CorpusDocument, RowFields, read_rows
from uniner.ingest.shards import shard_digests, split_shards
from uniner.normalized_text import normalize_text
from uniner.storage.filesystem import expand
from uniner.teacher.reply_parser import judge_reply

OUTCOMES = {"ok", "unparseable", "refused", "cut"}


def profile(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


DEPTHS = [pytest.param(1, id="quick"), pytest.param(15, id="deep", marks=pytest.mark.slow)]


def damage(data, edits, pieces):
    """Apply edits to bytes or a string: each is a kind, two places in thousandths, and a piece to put in."""
    for kind, first, second, number in edits:
        start, end = sorted((first * len(data) // 1000, second * len(data) // 1000))
        piece = pieces[number % len(pieces)]
        if kind == "insert":
            data = data[:start] + piece + data[start:]
        elif kind == "replace":
            data = data[:start] + piece + data[start + len(piece) :]
        elif kind == "cut":
            data = data[: start if second > 800 else len(data)]
        elif kind == "delete":
            data = data[:start] + data[min(end, start + 40) :]
        elif kind == "repeat":
            data = data[:end] + data[start : min(end, start + 200)] + data[end:]
        else:  # swap two parts of the same length
            size = min(9, end - start, len(data) - end)
            data = (
                data[:start]
                + data[end : end + size]
                + data[start + size : end]
                + data[start : start + size]
                + data[end + size :]
            )
    return data


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "cut", "delete", "repeat", "swap"]),
        st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000),
    ),
    max_size=5,
)  # fmt: skip

ROWS = [
    {
        "text": f"Text {number} of Łódź 🙂.\n",
        "id": f"d{number}",
        "meta": {"pile_set_name": "S", "n": [number]},
    }
    for number in range(12)
]
LINES = "".join(
    json.dumps(row, ensure_ascii=number % 2 == 0) + "\n" for number, row in enumerate(ROWS)
).encode()
BYTES = [
    b"\x00", b"\xff", b"\n", b"\r", b'"', b"\\", b"{", b"}", b"[" * 2000, b"]", b"NaN", b"\\ud83d",
    b"\xef\xbb\xbf", b"\xff\xfe", b"9" * 5000, b",", b":", b'"text": 1,',
    b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x80", b"null",
]  # fmt: skip


def parquet():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=5)
    return sink.getvalue().to_pybytes()


SHARDS = {
    "a.jsonl": (LINES, bytes),
    "a.jsonl.gz": (LINES, gzip.compress),
    "a.json.zst": (LINES, zstandard.compress),
    "b.jsonl.gz": (gzip.compress(LINES[:900]) + gzip.compress(LINES[900:]), bytes),
    "b.jsonl.zst": (zstandard.compress(LINES[:900]) + zstandard.compress(LINES[900:]), bytes),
    "a.txt": ("Łódź is a town.\r\nÜlm too. 🙂".encode(), bytes),
    "a.txt.gz": (gzip.compress("Łódź is a town.".encode()), bytes),
    "a.parquet": (parquet(), bytes),
}


def read_shard(path):
    files = expand([path])
    sizes = [digest.bytes for digest in shard_digests(files)]
    fields = RowFields("text", "meta.pile_set_name", "id")
    parts = split_shards(files, sizes, "text", None, "id", 128)
    return [row.content for part in parts for row in read_rows(part, fields, 5_000, 0, 128)]


def opened(data):
    """The readable beginning of compressed data, by other libraries than the reader's."""
    pieces = []
    while data:
        member = (
            zlib.decompressobj(31)
            if data[:2] == b"\x1f\x8b"
            else zstandard.ZstdDecompressor().decompressobj()
        )
        try:
            for number in range(len(data)):
                pieces.append(member.decompress(data[number : number + 1]))
                if member.eof:
                    break
        except (zlib.error, zstandard.ZstdError):
            break
        data = data[number + 1 :].lstrip(b"\0")
    return b"".join(pieces)


def undone(data, name):
    """A file's text with the escapes of JSON undone, line by line."""
    if ".txt" in name:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", errors="replace")
    text = re.sub(
        r"\\(u[0-9a-fA-F]{4}|[^\n])",
        lambda match: chr(int(match[1][1:], 16)) if len(match[1]) > 1 else UNESCAPED.get(match[1], match[1]),
        data.decode(errors="replace"),
    )
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


UNESCAPED = dict(zip("bfnrt", "\b\f\n\r\t", strict=True))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_shard_gives_rows_reasons_or_one_line(name, depth):
    original, finish = SHARDS[name]

    @profile(40 * depth)
    @given(EDITS)
    def check(edits):
        data = damage(original, edits, BYTES)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(finish(data))
            try:
                rows = read_shard(str(path))
            except UserError as error:
                assert name in str(error) and "\n" not in str(error)
                return
        for content in rows:
            if isinstance(content, CorpusDocument):
                assert content.text.strip() and "\x00" not in content.text
                "".join(content).encode()
                if not name.endswith("parquet"):
                    plain = data if finish is not bytes or name in ("a.jsonl", "a.txt") else opened(data)
                    assert content.text in undone(plain, name), "what is read is in the file"
            else:
                assert content in REASONS

    check()


REPLIES = [
    '[("Ann", "person"), ("Bonn", "city")]',
    '{"entities": [{"entity": "Ann Lee", "type": "person"}, {"entity": "Zürich", "type": "city"}]}',
    '```python\n[\n    ("Ann", "person"),  # me\n    ("\\beta-cells", "cell"),\n]\n```\nNot ("a", "b").',
    '1. ("Ann", "person")\n2. ["Bonn", "city"]\n- [ ] (“Ulm”，“city”)',
    '{"person": ["Ann", "Bob"], "city": []}',
    '<think>Maybe [("Bob", "person")]</think>\n("Ann", "person") and (\'Bonn\', \'city\')',
    '"[(\\"Ann\\", \\"person\\")]"',
]
PIECES = [
    '"', "'", "“", "”", "「", "(", ")", "[", "]", "{", "}", "（", "］", ",", "，", ":", "：",
    "\n", " ", "\\", '\\"', "\\n",
    "\\ud83d", "```", "# ", "//", "/*", "*/", "...", "<think>", "</thought>", "- ", "1. ", "\u200b",
    "\u0308", "None", "7", '("x", "y")', "Label: ",
]  # fmt: skip


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("reply", REPLIES)
def test_a_damaged_reply_has_an_outcome_and_invents_nothing(reply, depth):
    passage = "Ann Lee of Zu\u0308rich met Bob in Bonn: \\beta-cells, 東京 (Ulm)."

    @profile(60 * depth)
    @given(EDITS, st.sampled_from(["stop", "length", None]))
    def check(edits, finish):
        damaged = damage(reply, edits, PIECES)
        outcome, mentions = judge_reply(damaged, finish, None, passage)
        assert outcome in OUTCOMES or (outcome == "too_long" and finish == "length")
        sources = [damaged, plain(damaged), plain(plain(damaged)), half_plain(damaged)]
        # Half a surrogate pair in a reply that is a JSON string becomes a question mark.
        sources += [source.encode(errors="replace").decode() for source in sources]
        for text in (text for pair in mentions for text in pair):
            text.encode()
            assert any(text in source for source in sources)
        for entity in locate_entities(passage, mentions):
            assert entity.start < 0 or passage[entity.start : entity.end] == entity.text

    check()


def half_plain(reply):
    """A reply in which only the escapes that are no control characters are undone."""
    kept = reply.translate({ord("\\"): "\\\\"})
    for escape in ("\\", '"', "'", "/"):
        kept = kept.replace(f"\\\\{escape}", f"\\{escape}")
    return plain(kept)


LETTERS = st.sampled_from([
    *"aAbZ -'\n_ .", "é", "e\u0301", "u\u0308", "ß", "ss", "ﬁ", "ﬀ", "–", "‐", "Ａ", "“",
    "東", "京", "は", "서", "\u1109\u1165", "\u11af",
    "\u200b", "\u00ad", "\ufeff", "\u200d", "क", "\u093f", "ก", "\u0e31", "İ", "ı", "²", "…", "😀",
    "\u3000", "\x1c", "\u0344",
])  # fmt: skip


@pytest.mark.parametrize("depth", DEPTHS)
def test_what_is_located_is_the_mention(depth):
    @profile(400 * depth)
    @given(
        st.lists(LETTERS, max_size=12).map("".join), st.lists(LETTERS, min_size=1, max_size=4).map("".join)
    )
    def check(text, mention):
        spans, grounding = locate(text, mention)
        assert (grounding == "ungrounded") == (not spans)
        assert spans == sorted(spans)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
        for start, end in spans:
            found = text[start:end]
            assert found == found.strip() != ""
            assert same(found) == same(mention), "only blanks, marks and the encoding differ"
            if grounding == "exact":
                assert found == mention.strip()

    check()


def same(string):
    letters = re.sub(r"[\s\u200b\u00ad\ufeff\u200d]", "", string)
    return normalize_text(letters).text


@profile(300)
@given(st.text(max_size=30), st.text(min_size=1, max_size=3))
def test_any_text_can_be_searched_for_any_mention(text, mention):
    for start, end in locate(text, mention).spans:
        assert 0 <= start < end <= len(text)
    normalized = normalize_text(text)
    places = [normalized.source_end(position) for position in range(1, len(normalized.text) + 1)]
    assert [place for place in places if place is not None][-1:] == ([len(text)] if text else [])
