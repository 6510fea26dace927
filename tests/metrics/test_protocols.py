"""Protocol `released` reproduces the published scorer, on the published test files.

The published definition is implemented here once more: from the files' JSON, letter by letter through a
reply, with lists instead of sets, and with the published epsilons.
"""

import gzip
import json
import random
import string

import pytest

from uniner.evaluate.gold_questions import cut_questions
from uniner.evaluate.scoring import score
from uniner.records import Prediction, Question, from_table
from uniner.templates import SINGLE_TYPE

EPSILON = 1e-10


def words(mention):
    kept = "".join(letter for letter in mention.lower() if letter not in string.punctuation)
    # An article has no letter, digit or underscore on either side.
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
        mentions = json.loads(reply[: end + 1]) if end is not None else []
    except json.JSONDecodeError:
        return []
    if [mention for mention in mentions if not isinstance(mention, str)]:
        return []
    kept = []
    for mention in map(words, mentions):
        if mention not in kept:
            kept.append(mention)
    return kept


def published(replies, answers, breaks=True):
    correct = predicted = gold = 0
    for reply, answer in zip(replies, answers, strict=True):
        predicted_list, gold_list = listed(reply, breaks), listed(answer, breaks)
        correct += len([mention for mention in predicted_list if mention in gold_list])
        predicted += len(predicted_list)
        gold += len(gold_list)
    precision, recall = correct / (predicted + EPSILON), correct / (gold + EPSILON)
    return precision, recall, 2 * precision * recall / (precision + recall + EPSILON)


def answered(question, reply):
    parsed = SINGLE_TYPE.parse([question.type], reply, question.text)
    return Prediction(
        **vars(question),
        reply=reply,
        predicted=() if parsed is None else parsed.mentions[question.type],
        outcome="unparseable" if parsed is None else "ok",
    )


def noisy(answer, text, chance):
    mentions = [mention for mention in json.loads(answer) if chance.random() < 0.8]
    mentions = [f"The {mention.upper()}!" if chance.random() < 0.2 else mention for mention in mentions]
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
    """Compare both counts for all kinds of predictions."""
    asked = [
        question
        for chunk in cut_questions(name, str(path), 100, None)
        for question in from_table(chunk.table, Question)
    ]
    answers = [row["conversations"][3]["value"] for row in rows]
    texts = [row["conversations"][0]["value"].split("Text: ", 1)[1] for row in rows]
    assert [question.text for question in asked] == texts
    for way, reply_to in WAYS.items():
        chance = random.Random(f"{name} {way}")
        replies = [reply_to(answer, text, chance) for answer, text in zip(answers, texts, strict=True)]
        scores = score(map(answered, asked, replies))[name]
        for protocol, breaks in (("released", True), ("released_unbroken", False)):
            found = scores.protocols[protocol]
            counted = (found.precision, found.recall, found.f1)
            expected = published(replies, answers, breaks)
            assert counted == pytest.approx(expected, abs=1e-9, rel=0), (way, protocol)
        if way == "perfect":
            assert scores.f1 == scores.protocols["partial"].f1 == 1
            assert scores.protocols["released"].broken == 0
        if way == "empty":
            assert scores.protocols["released"].f1 == 0 == scores.broken
        if way == "noisy":
            assert 0.3 < scores.f1 == scores.protocols["released"].f1 < 0.9
        if way == "malformed":  # the released scorer reads up to the break, ours reports broken answers
            assert scores.broken > len(rows) / 4
            assert scores.protocols["released"].broken == scores.broken
            values = {scores.protocols[name].f1 for name in ("strict", "released", "released_unbroken")}
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
    asked = [
        one for chunk in cut_questions("b", str(path), 9, None) for one in from_table(chunk.table, Question)
    ]
    answers = [row["conversations"][3]["value"] for row in rows]
    protocols = score(map(answered, asked, answers))["b"].protocols
    # Perfect answers: the released scorer ignores lists with a bracket on both sides, the rest is right.
    counts = {name: protocols[name].tp for name in ("released", "released_unbroken", "strict")}
    assert counts == {"released": 80, "released_unbroken": 160, "strict": 160}
    assert published(answers, answers)[2] == pytest.approx(protocols["released"].f1, abs=1e-9)


def test_a_reply_over_several_types_counts_as_a_list_for_each():
    shared = '{"person": ["Ann"], "city": ["Rome"]}'
    questions = [
        Question(dataset="d", passage_id="1", text="Ann left Rome", type=name, gold=(gold,))
        for name, gold in (("person", "Ann"), ("city", "Rome"))
    ]
    rows = [
        Prediction(**vars(question), reply=shared, predicted=question.gold, outcome="ok")
        for question in questions
    ]
    protocols = score(rows)["d"].protocols
    assert protocols["released"].f1 == protocols["strict"].f1 == 1
