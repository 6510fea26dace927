"""spaCy's DocBin (*.spacy), the binary training data of its version 3, read without spaCy.

The file is zlib-compressed MessagePack: the documents' tokens as rows of 64-bit numbers with a column per
attribute, a byte per token for the blank after it, the number of tokens of each document, and all strings. A
string's number is its MurmurHash64A with seed 1, or its place in spaCy's list of symbols. The passage is the
document's text, with the offsets of its entities.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from uniner.errors import UserError
from uniner.gold.lines import EXPANSION, gold_bytes
from uniner.gold.records import GoldRow, LeftOut, MarkedSpan, annotated_row, bad_row

SUFFIX = ".spacy"
_ORTH, _ENT_IOB, _ENT_TYPE = 65, 77, 78
_INSIDE, _BEGINS = 1, 3
_WRITE_AGAIN = "write it again with DocBin.to_disk"
_SMALL_BYTES = 64 << 20
_WORD = (1 << 64) - 1
_MULTIPLIER = 0xC6A4A7935BD1E995
# The strings that have a fixed number: attributes, parts of speech, entity types, and syntactic relations,
# as far as they are words that a text or an entity type may be.
_SYMBOLS = {
    first + place: name
    for first, names in (
        (64, "ID ORTH LOWER NORM SHAPE PREFIX SUFFIX LENGTH CLUSTER LEMMA POS TAG DEP"),
        (77, "ENT_IOB ENT_TYPE HEAD SENT_START SPACY PROB LANG"),
        (84, "ADJ ADP ADV AUX CONJ CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X EOL SPACE"),
        (380, "PERSON NORP FACILITY ORG GPE LOC PRODUCT EVENT WORK_OF_ART LANGUAGE LAW DATE TIME PERCENT"),
        (394, "MONEY QUANTITY ORDINAL CARDINAL"),
        (398, "acomp advcl advmod agent amod appos attr aux auxpass cc ccomp complm conj cop csubj"),
        (413, "csubjpass dep det dobj expl hmod hyph infmod intj iobj mark meta neg nmod nn npadvmod"),
        (429, "nsubj nsubjpass num number oprd obj obl parataxis partmod pcomp pobj poss possessive"),
        (442, "preconj prep prt punct quantmod relcl rcmod root xcomp acl ENT_KB_ID MORPH ENT_ID IDX _"),
    )
    for place, name in enumerate(names.split())
}


class _DocBin(msgspec.Struct):
    attrs: list[int]
    tokens: bytes
    spaces: bytes
    lengths: bytes
    strings: list[str]


def is_docbin(url: str, start: bytes) -> bool:
    """Tell whether a file is a DocBin, by its name or by the first bytes of zlib at its default levels."""
    return url.endswith(SUFFIX) or start[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda")


def read(url: str) -> Iterator[GoldRow | LeftOut]:
    """Yield the documents as passages.

    Raises:
        UserError: if the file is not a DocBin.
    """
    data = _decompressed(url, gold_bytes(url))
    try:
        content = msgspec.msgpack.decode(data, type=_DocBin)
        width = max(1, len(content.attrs))
        rows = np.frombuffer(content.tokens, dtype="<u8").reshape(-1, width)
        lengths = np.frombuffer(content.lengths, dtype="<i4").tolist()
        columns = [content.attrs.index(attribute) for attribute in (_ORTH, _ENT_IOB, _ENT_TYPE)]
    except (msgspec.DecodeError, ValueError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{url}: not a DocBin of spaCy 3 ({error}); write it again with DocBin.to_disk"
        ) from None
    if min(lengths, default=0) < 0 or not sum(lengths) == len(rows) == len(content.spaces):
        raise UserError(f"{url}: has {len(rows):,} tokens, but not in its documents; {_WRITE_AGAIN}")
    strings = {0: "", **_SYMBOLS} | {_number(string): string for string in content.strings}
    first = 0
    for number, length in enumerate(lengths, start=1):
        after = first + length
        tokens = rows[first:after, columns].tolist()
        try:
            yield _document(url, number, tokens, content.spaces[first:after], strings)
        except UserError as error:
            yield bad_row(error)
        first = after


def _decompressed(url: str, data: bytes) -> bytes:
    most = max(_SMALL_BYTES, EXPANSION * len(data))
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(data, most)
    except zlib.error as error:
        raise UserError(
            f"{url}: not a DocBin of spaCy ({error}); write it again with DocBin.to_disk"
        ) from None
    if not decompressor.eof:
        what = f"expands to more than {most:,} bytes" if len(content) >= most else "ends too early"
        raise UserError(f"{url}: {what}; {_WRITE_AGAIN}")
    return content


def _document(
    url: str, number: int, tokens: list[list[int]], spaces: bytes, strings: Mapping[int, str]
) -> GoldRow:
    where = f"{url}, document {number}"
    text = ""
    spans: list[list[Any]] = []
    for (orth, iob, type_), space in zip(tokens, spaces, strict=True):
        word, label = strings.get(orth), strings.get(type_)
        if word is None or label is None:
            raise UserError(
                f"{where}: has a word or a type that is not among its strings; write the file again"
            )
        start, text = len(text), text + word
        if iob == _INSIDE and spans and spans[-1][2] == label and spans[-1][3]:
            spans[-1][1] = len(text)
        elif label and iob in (_INSIDE, _BEGINS):
            spans.append([start, len(text), label, True])
        elif spans:
            spans[-1][3] = False
        text += " " * (space == 1)
    mentions = [MarkedSpan(where, start, end, None, label) for start, end, label, _ in spans]
    return annotated_row(number, f"document {number}", text, mentions)


def _number(string: str) -> int:
    """Return a string's number: its place in the list of symbols, or MurmurHash64A with seed 1."""
    known = _NUMBERS.get(string)
    if known is not None:
        return known
    data = string.encode()
    hashed = 1 ^ (len(data) * _MULTIPLIER & _WORD)
    whole = len(data) // 8 * 8
    for position in range(0, whole, 8):
        part = int.from_bytes(data[position : position + 8], "little") * _MULTIPLIER & _WORD
        part = (part ^ part >> 47) * _MULTIPLIER & _WORD
        hashed = (hashed ^ part) * _MULTIPLIER & _WORD
    if rest := data[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _WORD
    hashed = (hashed ^ hashed >> 47) * _MULTIPLIER & _WORD
    return hashed ^ hashed >> 47


_NUMBERS = {name: number for number, name in _SYMBOLS.items()}
