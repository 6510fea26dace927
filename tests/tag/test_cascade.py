"""A student behind an encoder is asked only what the encoder finds likely; every passage keeps its row."""

import asyncio

import pytest

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.metrics.cascade import cascade_points
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.stage_folder import Chunk
from uniner.tag import stage, student
from uniner.tag.tagger import EntityRules, Tagger
from uniner.tag.types import TypeSelection

TEXTS = ["Ann lives in Tarn.", "Nobody is here.", "Tarn is old."]


class Asker:
    """Finds the capitalised words of a text, of every type that it is asked for."""

    def __init__(self):
        self.asked = []

    async def ask(self, passage, types):
        self.asked.append((passage, list(types)))
        words = [word.strip(".") for word in passage.split() if word.istitle()]
        answers = tuple(TypeAnswer(name, "ok", dict.fromkeys(words, 0.9)) for name in types)
        return PassageAnswers(answers, {"questions": len(types)})


class Encoder:
    async def ask_all(self, questions):
        scores = {
            "Ann lives in Tarn.": (0.9, 0.02),
            "Nobody is here.": (0.001, 0.0),
            "Tarn is old.": (0.2, 0.6),
        }
        return [
            PassageAnswers(
                tuple(
                    TypeAnswer(name, "ok", {}, f"{score:.4f}")
                    for name, score in zip(types, scores[passage], strict=True)
                ),
                {"prompt_tokens": 10},
            )
            for passage, types in questions
        ]


def test_only_likely_types_are_asked_for():
    passages = [
        Passage(
            passage_id=str(number), doc_id=str(number), passage_index=0, char_start=0, char_end=len(text),
            text=text, n_tokens=4, source="",
        )
        for number, text in enumerate(TEXTS)
    ]  # fmt: skip
    asker = Asker()
    tagger = Tagger(asker, TypeSelection(("person", "city")), EntityRules()).behind(Encoder(), 0.1)
    chunk = asyncio.run(tagger(Chunk("k", to_table(passages, PASSAGE))))
    assert sorted(asker.asked) == [(TEXTS[0], ["person"]), (TEXTS[1], []), (TEXTS[2], ["person", "city"])]
    rows = from_table(chunk.table, TaggedPassage)
    assert [row.passage_id for row in rows] == ["0", "1", "2"]
    assert [{(entity.text, entity.type) for entity in row.entities} for row in rows] == [
        {("Ann", "person"), ("Tarn", "person")},
        set(),
        {("Tarn", "person"), ("Tarn", "city")},
    ]
    assert {row.outcome for row in rows} == {"ok"} and not any(row.failed_types for row in rows)
    figures = chunk.figures
    assert (figures["types_asked"], figures["types_saved"], figures["prefilter_tokens"]) == (3, 3, 30)
    assert figures["questions"] == 3


def config_of(tmp_path, *, evaluate=None, **tag):
    return Config.model_validate(
        {
            "evaluate": {"systems": ["student", "encoder"], **(evaluate or {})},
            "run": {"root": str(tmp_path), "name": "r"},
            "student": {"base": "b"},
            "tag": {"types": ["a"], **tag},
        }
    )


def test_the_threshold_is_what_evaluate_measured_for_these_models(tmp_path, stage_context, monkeypatch):
    monkeypatch.setattr(student, "model_digest", lambda address: address.rsplit("/", 1)[-1])
    context = stage_context(stage, config_of(tmp_path, prefilter="encoder", prefilter_max_recall_loss=0.2))
    with pytest.raises(UserError, match="evaluate has not measured"):
        student.prefilter_threshold(context)
    points = [vars(point) for point in cascade_points([0.9, 0.05], [4, 1], [0, 0], [0, 0])]
    folder = context.run_folder / "evaluate"
    identity = Identity(stage="evaluate", settings={})
    folder.begin(identity)
    measured = {"student": "student", "encoder": "encoder", "points": points}
    folder.write_manifest(Manifest.of(identity, [], 1.0, results={"cascade": measured}))
    assert student.prefilter_threshold(context) == 0.5  # loses a fifth of the right answers
    strict = stage_context(stage, config_of(tmp_path, prefilter="encoder"))
    assert student.prefilter_threshold(strict) == 0.03
    given = stage_context(stage, config_of(tmp_path, prefilter="encoder", prefilter_threshold=0.2))
    assert student.prefilter_threshold(given) == 0.2
    nothing = {**measured, "points": [vars(point) for point in cascade_points([0.9], [0], [1], [1])]}
    folder.write_manifest(Manifest.of(identity, [], 1.0, results={"cascade": nothing}))
    with pytest.raises(UserError, match="no right answer on evaluate's gold data"):
        student.prefilter_threshold(context)
    folder.write_manifest(
        Manifest.of(identity, [], 1.0, results={"cascade": {**measured, "encoder": "another"}})
    )
    with pytest.raises(UserError, match="evaluate has not measured"):
        student.prefilter_threshold(context)


@pytest.mark.parametrize(
    ("evaluate", "first"),
    [
        ({}, False),
        ({"gold": {"a": "b.jsonl"}}, True),
        ({"group": "zero-shot-7", "data": "d"}, True),
        ({"group": "zero-shot-7", "data": "d", "systems": ["student"]}, False),
    ],
)
def test_evaluate_comes_first_where_it_will_measure_the_threshold(tmp_path, stage_context, evaluate, first):
    context = stage_context(stage, config_of(tmp_path, evaluate=evaluate, prefilter="encoder"))
    assert student.evaluate_comes_first(context) is first


def test_a_threshold_of_0_asks_everything_and_one_without_a_prefilter_is_refused(tmp_path, stage_context):
    asker = Asker()
    tagger = Tagger(asker, TypeSelection(("person", "city")), EntityRules()).behind(Encoder(), 0.0)
    passage = Passage(
        passage_id="0", doc_id="0", passage_index=0, char_start=0, char_end=len(TEXTS[1]), text=TEXTS[1],
        n_tokens=4, source="",
    )  # fmt: skip
    asyncio.run(tagger(Chunk("k", to_table([passage], PASSAGE))))
    assert asker.asked == [(TEXTS[1], ["person", "city"])], "also the type with a score of 0.0000"
    lone = stage_context(stage, config_of(tmp_path, prefilter_threshold=0.5))
    with pytest.raises(UserError, match=r"set without a prefilter; set tag\.prefilter too"):
        stage.check(lone)
    with pytest.raises(ValueError, match="prefilter"):
        config_of(tmp_path, prefilter="")


def test_an_encoder_needs_no_prefilter(tmp_path, stage_context):
    context = stage_context(stage, config_of(tmp_path, prefilter="encoder", student="encoder"))
    with pytest.raises(UserError, match=r"tag\.student is an encoder"):
        stage.check(context)
    other = stage_context(stage, config_of(tmp_path, prefilter=str(tmp_path)))
    with pytest.raises(UserError, match="is not a model folder"):
        stage.check(other)
