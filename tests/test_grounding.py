"""`locate` finds what its definition says, with the offsets of the text as it is."""

import random
import time
import unicodedata
from itertools import product

import pytest

from uniner.grounding import locate, nested_spans, whole_word_spans, without_nested

NO_WIDTH = "\u200b\u00ad\ufeff"
SAME = {"’": "'", "`": "'", "´": "'", "“": '"', "‐": "-", "–": "-", "−": "-", "ﬁ": "fi", "ß": "ss", "Ａ": "a"}


def forms(string):
    """What a string may stand for: characters without width are nothing or a blank."""
    string = "".join(SAME.get(letter, letter) for letter in unicodedata.normalize("NFC", string))
    choices = [("", " ") if letter in NO_WIDTH else (letter,) for letter in string]
    return {" ".join("".join(letters).casefold().split()) for letters in product(*choices)}


def goes_on(letter):
    return letter.isalnum() or letter == "_" or unicodedata.combining(letter) > 0


def by_definition(text, mention):
    """Define `locate` by comparing every part of the text, for scripts with blanks between words."""
    wanted = forms(mention) - {""}
    same, exact = [], []
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            part = text[start:end]
            whole_letters = not (unicodedata.combining(part[0]) or unicodedata.combining((text + " ")[end]))
            at_edges = {part[0], part[-1]} & {*NO_WIDTH, " ", "\n"}
            if whole_letters and part == mention.strip():
                exact.append((start, end))
            if whole_letters and not at_edges and forms(part) & wanted:
                same.append((start, end))
    for spans, grounding in ((exact, "exact"), (same, "normalized")):
        whole = [
            (start, end)
            for start, end in spans
            if not goes_on((" " + text)[start]) and not goes_on((text + " ")[end])
        ]
        if whole:
            return apart(whole), grounding
    return (apart(exact), "exact") if exact else (apart(same), "normalized" if same else "ungrounded")


def apart(spans):
    kept = []
    for start, end in spans:
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def test_locate_agrees_with_its_definition():
    chance = random.Random(0)
    letters = [*"aAbBsfi -'’0\n_", "é", "e", "e\u0301", "\u200b", "ß", "ss", "ﬁ", "–", "Ａ", "“"]
    kinds = []
    for _ in range(2500):
        text = "".join(chance.choices(letters, k=chance.randint(0, 14)))
        mention = "".join(chance.choices(letters, k=chance.randint(1, 3)))
        occurrences = locate(text, mention)
        assert occurrences == by_definition(text, mention), (text, mention)
        kinds.append(occurrences.grounding)
    assert min(map(kinds.count, ("exact", "normalized", "ungrounded"))) > 150


@pytest.mark.parametrize(
    ("text", "mention", "found"),
    [
        # Encodings of the same letters.
        ("in Zu\u0308rich und Cafe\u0301 Mu\u0308ller", "Zürich", ["Zu\u0308rich"]),
        ("Café Müller", "Cafe\u0301 Mu\u0308ller", ["Café Müller"]),
        ("\u1109\u1165\u110b\u116e\u11af\u110b\u1166 \u1109\u1161\u11ab\u1103\u1161", "서울",
         ["\u1109\u1165\u110b\u116e\u11af"]),
        ("Tu\u031b\u0323 ung", "tự", ["Tu\u031b\u0323"]),
        ("Ho\u0302\u0300 Tây", "hồ tây", ["Ho\u0302\u0300 Tây"]),
        ("a ﬁne ﬂow of oﬃce", "fine flow of office", ["ﬁne ﬂow of oﬃce"]),
        ("ＳＯＮＹ　Ｃｏｒｐ．", "Sony Corp.", ["ＳＯＮＹ　Ｃｏｒｐ．"]),
        ("Hauptstraße 5 und STRASSE", "Hauptstrasse", ["Hauptstraße"]),
        ("GROSSE STRASSE", "große Straße", ["GROSSE STRASSE"]),
        ("Ca²⁺ and H₂O", "Ca2+", ["Ca²⁺"]),
        ("in İstanbul", "istanbul", ["İstanbul"]),
        ("ΟΔΟΣ", "οδος", ["ΟΔΟΣ"]),
        # Dashes and marks.
        ("the SARS‐CoV‐2 virus", "SARS-CoV-2", ["SARS‐CoV‐2"]),
        ("the SARS-CoV-2 virus", "SARS–CoV−2", ["SARS-CoV-2"]),
        ("O′Neil's ‹x›", "O'Neil’s", ["O′Neil's"]),
        # Characters without width.
        ("the Donau\u00addampf ship", "Donaudampf", ["Donau\u00addampf"]),
        ("New\u200bYork is", "NewYork", ["New\u200bYork"]),
        ("New\u200bYork is", "New York", ["New\u200bYork"]),
        ("New \u200b York is", "New York", ["New \u200b York"]),
        ("in NewYork and New York", "New\u200bYork", ["NewYork", "New York"]),
        ("\ufeffAnn left", "\u200bAnn\ufeff", ["Ann"]),
        ("❤\ufe0f Ann", "❤", ["❤"]),
        # Scripts without blanks between words.
        ("田中さんは東京に住む。東京、大阪。", "東京", ["東京", "東京"]),
        ("กรุงเทพเป็นเมือง ชอบกรุงเทพ", "กรุงเทพ", ["กรุงเทพ", "กรุงเทพ"]),
        ("SONYは2020年に", "Sony", ["SONY"]),
        ("株式会社SONYは2020年に2020", "2020", ["2020", "2020"]),
        ("서울은 서울대와 남서울에", "서울", ["서울", "서울"]),  # not in the middle of a word
        ("Москве, в Москве", "москве", ["Москве", "Москве"]),
        # A letter is never divided.
        ("Zu\u0308rich", "Zu", []),
        ("Cafe\u0301", "Cafe", []),
        ("Cafe\u0301s, cafe", "Cafe", ["cafe"]),
        ("\u1109\u1165\u11af", "\u1109\u1165", []),
        ("Maß", "mas", []),
        ("oﬃce", "of", []),
        ("क\u093fताब", "क", ["क"]),  # a vowel sign follows: part of a word, as in Parisian
        ("", "Ann", []),
        ("Ann", " \u200b ", []),
    ],
)  # fmt: skip
def test_the_same_letters_are_found_however_they_are_encoded(text, mention, found):
    spans, grounding = locate(text, mention)
    assert [text[start:end] for start, end in spans] == found
    assert (grounding == "ungrounded") == (not found)


def test_whole_words_come_first_and_the_grounding_tells():
    assert locate("Parisian PARIS, Paris", "Paris") == ([(16, 21)], "exact")
    assert locate("Parisian PARIS", "Paris") == ([(9, 14)], "normalized")
    assert locate("Parisian", "Paris") == ([(0, 5)], "exact")
    assert locate("PARISIAN", " paris ") == ([(0, 5)], "normalized")


def test_an_occurrence_inside_a_longer_mention_gives_way_unless_the_mention_is_nowhere_else():
    text = "東京都は東京、New York Times in New York"
    spans = {
        mention: locate(text, mention).spans for mention in ("東京都", "東京", "New York Times", "New York")
    }
    nested = nested_spans(span for some in spans.values() for span in some)
    assert nested == {(0, 2), (7, 15)}
    assert without_nested(spans["東京"], nested) == [(4, 6)]
    assert without_nested(spans["New York"], nested) == [(25, 33)]
    assert without_nested([(7, 15)], nested) == [(7, 15)]
    assert nested_spans([(0, 5), (0, 5), (3, 8), (4, 8)]) == {(4, 8)}


@pytest.mark.parametrize("piece", ["a\u200b", "ﬁ", "e\u0301", "\u200b", "\n", "東", "a "])
def test_locating_takes_linear_time(piece):
    def seconds(length):
        text = piece * (length // len(piece))
        begun = time.thread_time()
        for mention in ("aaaa", "a\u200ba a", "ﬁﬁ", "éé", "東東", "absent"):
            locate(text + str(length), mention)
        return time.thread_time() - begun

    short = min(seconds(6_250) for _ in range(3))
    assert any(seconds(100_000) < max(64 * short, 0.3) for _ in range(3))


@pytest.mark.parametrize(
    ("text", "phrase", "starts"),
    [
        ("Ann, Anna; Ann", "Ann", [0, 11]),
        ("C++ and C++11 cost 5€", "€", [20]),
        ("Lodz Lod\u0301z", "Lod", []),
        ("Zoe\u0308 Zoe", "Zoe", [5]),
        ("在北京大学", "北京", [1]),
        ("anan an", "an", [5]),
        ("", "a", []),
    ],
)
def test_a_phrase_as_written_divides_no_word(text, phrase, starts):
    assert [start for start, _ in whole_word_spans(text, phrase)] == starts
