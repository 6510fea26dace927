"""Protocol `released` gives the published definition's values, on the published test files themselves.

The published definition is counted here by itself: from the files' JSON, by walking through the letters of a
reply, with lists in place of sets, and with the published epsilons.
"""

import gzip
import json
import random
import string

import pytest

from uniner.evaluate.gold_questions import cut
from uniner.evaluate.scoring import score
from uniner.records import Prediction, Question, from_table
from uniner.templates import SINGLE_TYPE

EPSILON = 1e-10


def words(mention):
    kept = "".join(letter for letter in mention.lower() if letter not in string.punctuation)
    # An article is one that stands between what are no letters, digits or underscores.
    pieces, piece = [], ""
    for letter in kept + " ":
        if letter.isalnum() or letter == "_":
            piece += letter
        else:
            pieces += ["" if piece in ("a", "an", "the") else piece, letter]
            piece = ""
    return "".join(" " if piece == "" else piece for piece in pieces).split()


def listed(reply, breaks):
    reply = reply.strip()
    if not reply.startswith("["):
        return []
    end, inside, escaped = None, False, False
    for place, letter in enumerate(reply):
        if letter == "\n" and breaks:
            return []
        if letter == "]" and (breaks or not inside):
            end = place
            break
        if inside and escaped:
            escaped = False
        elif inside and letter == "\\":
            escaped = True
        elif letter == '"':
            inside = not inside
    try:
        found = json.loads(reply[: end + 1]) if end is not None else []
    except json.JSONDecodeError:
        return []
    if [each for each in found if not isinstance(each, str)]:
        return []
    kept = []
    for each in map(words, found):
        if each not in kept:
            kept.append(each)
    return kept


def published(replies, answers, breaks=True):
    correct = predicted = gold = 0
    for reply, answer in zip(replies, answers, strict=True):
        said, true = listed(reply, breaks), listed(answer, breaks)
        correct += len([each for each in said if each in true])
        predicted += len(said)
        gold += len(true)
    precision, recall = correct / (predicted + EPSILON), correct / (gold + EPSILON)
    return precision, recall, 2 * precision * recall / (precision + recall + EPSILON)


def answered(question, reply):
    found = SINGLE_TYPE.parse([question.type], reply)
    return Prediction(
        dataset=question.dataset,
        passage_id=question.passage_id,
        text=question.text,
        type=question.type,
        reply=reply,
        predicted=() if found is None else found[question.type],
        gold=question.gold,
        gold_spans=question.gold_spans,
        outcome="unparseable" if found is None else "ok",
    )


def noisy(answer, text, chance):
    mentions = [each for each in json.loads(answer) if chance.random() < 0.8]
    mentions = [f"The {each.upper()}!" if chance.random() < 0.2 else each for each in mentions]
    if chance.random() < 0.3:
        mentions += chance.choices(text.split(), k=2)
    return json.dumps(mentions, ensure_ascii=chance.random() < 0.5)


def malformed(answer, text, chance):
    good = noisy(answer, text, chance)
    ways = [
        good,
        good[:-1],
        f"{good} is my answer",
        f"Sure: {good}",
        good.replace('"', "'"),
        good.replace(", ", ",\n"),
        good.replace('"]', ' [1]"]'),
        json.dumps([json.loads(good)]),
        json.dumps({"found": json.loads(good)}),
        "",
        f"{good[:-1]}, 3]",
        good.replace("[", '["]", ', 1),
    ]
    return chance.choice(ways)


WAYS = {
    "perfect": lambda answer, text, chance: answer,
    "empty": lambda answer, text, chance: "[]",
    "noisy": noisy,
    "malformed": malformed,
}


def check(name, path, rows):
    """Hold both counts against each other for all kinds of predictions."""
    asked = [
        question
        for chunk in cut(name, str(path), 100, None)
        for question in from_table(chunk.table, Question)
    ]
    answers = [row["conversations"][3]["value"] for row in rows]
    texts = [row["conversations"][0]["value"].split("Text: ", 1)[1] for row in rows]
    assert [one.text for one in asked] == texts
    for way, reply_to in WAYS.items():
        chance = random.Random(f"{name} {way}")
        replies = [reply_to(answer, text, chance) for answer, text in zip(answers, texts, strict=True)]
        found = score(map(answered, asked, replies))[name]
        for protocol, breaks in (("released", True), ("released_unbroken", False)):
            figures = found["protocols"][protocol]
            counted = (figures["precision"], figures["recall"], figures["f1"])
            expected = published(replies, answers, breaks)
            assert counted == pytest.approx(expected, abs=1e-9, rel=0), (way, protocol)
        if way == "perfect":
            assert found["f1"] == found["protocols"]["partial"]["f1"] == 1
            assert found["protocols"]["released"]["broken"] == 0
        if way == "empty":
            assert found["protocols"]["released"]["f1"] == 0 == found["broken"]
        if way == "noisy":
            assert 0.3 < found["f1"] == found["protocols"]["released"]["f1"] < 0.9
        if way == "malformed":  # the released count takes what comes before a break, ours shows the broken
            assert found["broken"] > len(rows) / 4
            assert found["protocols"]["released"]["broken"] == found["broken"]
            values = {found["protocols"][each]["f1"] for each in ("strict", "released", "released_unbroken")}
            assert len(values) == 3


def test_on_the_published_test_files(shared_data):
    files = sorted(shared_data("universal_ner_official").glob("*.json.gz"))
    assert len(files) == 3
    for path in files:
        check(path.name.split(".")[0], path, json.loads(gzip.decompress(path.read_bytes())))


def test_on_a_file_whose_gold_has_brackets(tmp_path):
    rows = []
    for number in range(40):
        for name, gold in (("person", ["Ann", "the Bo"]), ("work", ["Song [Live]", "Hymn"]), ("city", [])):
            turns = [
                f"Text: {number} Ann sang Song [Live] and Hymn to the Bo",
                "I've read this text.",
                f"What describes {name} in the text?",
                json.dumps(gold),
            ]
            turned = zip(("human", "gpt") * 2, turns, strict=True)
            rows.append({"conversations": [{"from": who, "value": turn} for who, turn in turned]})
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    asked = [one for chunk in cut("b", str(path), 9, None) for one in from_table(chunk.table, Question)]
    answers = [row["conversations"][3]["value"] for row in rows]
    found = score(map(answered, asked, answers))["b"]["protocols"]
    # Perfect answers: the broken lists of both sides are as good as none, the rest is right.
    assert (found["released"]["tp"], found["released_unbroken"]["tp"], found["strict"]["tp"]) == (
        80,
        160,
        160,
    )
    assert published(answers, answers)[2] == pytest.approx(found["released"]["f1"], abs=1e-9)


def test_a_reply_over_several_types_counts_as_a_list_for_each():
    shared = '{"person": ["Ann"], "city": ["Rome"]}'
    rows = [
        Prediction(
            dataset="d",
            passage_id="1",
            text="Ann left Rome",
            type=name,
            reply=shared,
            predicted=(gold,),
            gold=(gold,),
            gold_spans=(),
            outcome="ok",
        )
        for name, gold in (("person", "Ann"), ("city", "Rome"))
    ]
    found = score(rows)["d"]["protocols"]
    assert found["released"]["f1"] == found["strict"]["f1"] == 1
