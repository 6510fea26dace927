"""The Python door: arguments, the passages of a generative student, the table and the notebook's page."""

import re

import numpy as np
import pandas as pd
import pytest

import uniner
from tests.tag.test_interactive import Engine
from uniner.errors import UserError
from uniner.inference.questions import QuestionAsker
from uniner.records import TaggedEntity, TaggedPassage
from uniner.runtime import actor_workers
from uniner.runtime.held_worker import WorkerHere
from uniner.tag import student
from uniner.tag.tagged_texts import TaggedTexts


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            "Ann lives in Bonn.",
            r"texts must be a list of texts, such as \[.*\], not 'Ann lives in Bonn.' \(str\)",
        ),
        ({"a": "b"}, r"texts must be a list of texts, .* \(dict\)"),
        (None, r"texts must be a list of texts, .* not None \(NoneType\)"),
        ([], "texts is empty; give at least one text"),
        (["a", float("nan")], r"texts\[1\] is nan \(float\), not a text"),
        (pd.DataFrame({"text": ["a"]}), r"texts is a table \(DataFrame\); give a column of it, such as"),
        (np.array("a"), r"texts must be a list, such as \[.*, not array\('a'"),
        (["a\ud800"], r"texts\[0\] has half a character \(a surrogate\) at 1; decode"),
    ],
)
def test_wrong_texts_are_one_line(texts, message):
    with pytest.raises(uniner.UserError, match=message) as error:
        uniner.tag_texts(texts, "nowhere", ["person"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("student", "types", "settings", "message"),
    [
        (None, ["person"], None, r"student must be a folder or a hub name, .* not None \(NoneType\)"),
        ("", ["person"], None, "student must be a folder"),
        ("student", ["person"], None, "there is no folder student here; name a model's folder"),
        ("no/where/here", ["person"], None, "^student: no/where/here is not a model folder"),
        ("x", "person", None, r"types must be a list of types, such as types=\[.*not 'person' \(str\)"),
        ("x", [], None, "types is empty; name some"),
        ("x", ["person", 3], None, r"types\[1\] is 3 \(int\), not a type"),
        ("x", [" person"], None, r"types\[0\] is ' person' \(str\), not a type"),
        ("x", ["\u200b"], None, r"types\[0\] is '\\u200b' \(str\), not a type"),
        ("x", ["a\ud800"], None, r"types\[0\] is 'a\\ud800' \(str\), not a type"),
        ("a\nb", None, None, "student must be a folder or a hub name"),
        ("/", ["person"], None, "^student: / is not a model folder"),
        ("x", None, {"ingest.shards": ["a"]}, "ingest.shards decides nothing for texts in a list"),
        ("x", None, {"tag.entity_table": True}, "tag.entity_table is for runs, not for texts"),
        ("x", None, ["tag.min_score=1"], "settings must be a dictionary, such as"),
        ("x", None, {"tag.types": ["a"]}, "settings: tag.types is the argument types; give it there"),
        ("x", None, {"min_score": 0.5}, r"settings: 'min_score' is not a setting of \[student"),
        ("x", None, {"train.epochs": 2}, r"settings: 'train.epochs' is not a setting of \[student"),
        ("x", None, {"tag.min_scor": 0.5}, r"unknown setting tag.min_scor \(did you mean tag.min_score"),
        ("x", None, {"tag.min_score": 2}, r"tag.min_score = 2: must be less than or equal to 1"),
        ("x", None, {"tag.min_score": 1, "tag.min_score.a": 1}, "min_score is a value, not a section"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line(student, types, settings, message):
    with pytest.raises(UserError, match=message) as error:
        uniner.open_tagger(student, types, settings=settings)
    assert "\n" not in str(error.value)


def test_the_caller_s_settings_stay_as_they_are():
    given = {"person": 0.1}
    with pytest.raises(UserError, match="x/y"):
        uniner.open_tagger(
            "x/y/z", ["person"], settings={"tag.min_score_of_type": given, "tag.min_score_of_type.city": 0.9}
        )
    assert given == {"person": 0.1}


@pytest.fixture
def actors(monkeypatch):
    """The actors' settings, and a worker here in their place whose engine is a stand-in."""
    asked = []

    def start(name, make, **resources):
        asked.append(resources)
        return WorkerHere(make)

    def start_asker(model, template, settings):
        asked.append(settings)
        return QuestionAsker(Engine(model, settings, lazy=False), template)

    monkeypatch.setattr(actor_workers, "ActorWorkers", start)
    monkeypatch.setattr(student, "start_asker", start_asker)
    monkeypatch.setattr("uniner.tag.texts.uses_ray", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return asked


def test_a_long_text_is_cut_as_ingest_cuts_it_and_comes_back_whole(config, tmp_path, actors):
    config()  # makes the student
    long = "Ann went home. " + "Then it rained for a long while. " * 20 + "So Ann stayed."
    settings = {"ingest.max_tokens": 64, "engine.actors": 2, "engine.cpus": 3}
    with uniner.open_tagger(tmp_path / "student", ["person"], settings=settings) as tagger:
        tagged = tagger([long, "", "Nobody."])
    places = [(entity.start, entity.end) for entity in tagged[0].entities if entity.start >= 0]
    assert places == [match.span() for match in re.finditer("Ann", long)]
    assert "Bob" in {entity.text for entity in tagged[0].entities if entity.start < 0}
    assert [document.text for document in tagged] == [long, "", "Nobody."] and not tagged[1].entities
    engine, resources = sorted(actors, key=lambda each: isinstance(each, dict))
    assert resources == {"actors": 2, "cpus": 3, "gpus": 0}
    assert (engine.max_prompt_tokens, engine.dtype, engine.gpus) == (
        512,
        "float32",
        0,
    )  # 512: of its training


def test_a_type_that_the_student_did_not_learn_is_warned_of(config, tmp_path, actors, caplog):
    config()
    uniner.tag_texts(["Ann"], tmp_path / "student", ["persons"])
    assert "'persons' (nearest: 'person')" in caplog.text


def passage(doc_id, entities=(), outcome="ok", failed=(), start=0):
    return TaggedPassage(
        doc_id=doc_id,
        passage_id="0",
        char_start=start,
        entities=entities,
        outcome=outcome,
        failed_types=failed,
    )


def entity(text, kind, start, score=0.5):
    end = start + len(text) if start >= 0 else -1
    grounding = "exact" if start >= 0 else "ungrounded"
    return TaggedEntity(text=text, type=kind, start=start, end=end, score=score, grounding=grounding)


def test_the_table_has_a_row_per_entity():
    first = [
        passage("0", (entity("Ann", "person", 0, 0.75),)),
        passage("0", (entity("Rome", "city", -1),), start=9),
    ]
    tagged = TaggedTexts(
        ["Ann sits. Bob.", "", "Bo"],
        [*first, passage("2", (entity("Bo", "person", 0),), "too_long", ("city",))],
    )
    rows = [tuple(row.values()) for row in tagged.to_arrow().to_pylist()]
    assert rows == [
        (0, "person", "Ann", 0, 3, 0.75, "exact"),
        (0, "city", "Rome", -1, -1, 0.5, "ungrounded"),
        (2, "person", "Bo", 0, 2, 0.5, "exact"),
    ]
    names = ["doc_id", "type", "text", "start", "end", "score", "grounding"]
    assert tagged.to_arrow().column_names == names
    assert tagged.to_pandas().query("type == 'person'")["text"].tolist() == ["Ann", "Bo"]
    assert TaggedTexts([""], []).to_pandas().columns.tolist() == tagged.to_arrow().column_names
    assert repr(tagged) == "TaggedTexts(3 texts, 3 entities: person 2, city 1)"
    assert (tagged[2].outcome, tagged[2].failed_types) == ("too_long", ("city",))


def test_the_page_escapes_everything_and_marks_control_characters():
    text = "Ann <script>alert(1)</script>\x1b[2J &amp; Bo\u202e."
    entities = (entity("Ann", "<img src=x onerror=alert(2)>", 0), entity("<i>", "a\u202eb", -1))
    page = TaggedTexts([text], [passage("0", entities, "too_long", ("<u>",))])._repr_html_()
    assert re.findall(r"<(\w+)", page) == ["div", "style", "p", "mark", "small", "i", "i"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\ufffd[2J &amp;amp; Bo\ufffd." in page
    assert "not in the text: &lt;i&gt; [a\ufffdb]" in page and "too_long, from character 0: &lt;u&gt;" in page


def test_the_page_of_many_or_long_texts_is_short():
    long = "Ann " * 5_000
    tagged = TaggedTexts(
        [long, *["b"] * 99], [passage("0", (entity("Ann", "p", 4), entity("Ann", "p", 4_998)))]
    )
    page = tagged._repr_html_()
    assert page.count("<mark") == 1 and "... 20,000 characters" in page and "and 50 more" in page
    assert len(page) < 10_000
