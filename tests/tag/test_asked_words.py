"""Types with descriptions and types that were never learnt: what is asked, and that tables keep the names."""

import asyncio
import json

import numpy as np
import pytest

from uniner.errors import UserError
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage.folder import Folder
from uniner.storage.model_folders import StudentFacts
from uniner.storage.stage_folder import Chunk
from uniner.tag import stage
from uniner.tag.asked_words import lowest_scores, read_relatives
from uniner.tag.student import known_relatives, selected_types, unlearnt_line
from uniner.tag.tagger import EncoderWorker, EntityRules, Tagger
from uniner.tag.types import select_types

FACTS = StudentFacts(template="type", max_tokens=256, base="b", types=("movie", "person", "city"))
RELATIVES = {"film": ["poem", "movie"], "soul": ["person"]}


def types_of(tag, facts=FACTS, relatives=RELATIVES):
    return selected_types(tag, facts, relatives)


@pytest.fixture
def tag(config):
    return lambda **settings: config(**settings).tag


def test_a_type_with_a_description_is_asked_with_it_and_named_without(tag, tmp_path):
    file = tmp_path / "types.txt"
    file.write_text("city # a comment\nriver: flowing water.\n")
    types = types_of(
        tag(
            types=["person: a human being", "city"],
            types_file=str(file),
            types_of_source={"law": ["court: it rules"]},
        )
    )
    assert types.everywhere == ("person", "city", "river") and types.of("law") == ("court",)
    assert types.words_of("") == ("person (a human being)", "city", "river (flowing water)")
    assert types.words_of("law") == ("court (it rules)",)
    with pytest.raises(UserError, match="'person' has two descriptions, 'a' and 'b'; keep one"):
        types_of(tag(types=["person: a", "person: b"]))
    sentence = StudentFacts(template="definition", max_tokens=256, base="b", types=())
    assert types_of(tag(types=["person: a human being"]), sentence).words_of("") == ("person: a human being",)


@pytest.mark.parametrize(
    ("how", "asked"),
    [
        ("itself", ("film", "person (x)", "soul (y)", "zebra")),
        ("nearest", ("movie", "person (x)", "person", "zebra")),
        ("both", ("film", "movie", "person (x)", "soul (y)", "person", "zebra")),
    ],
)
def test_an_unknown_type_is_asked_as_itself_its_nearest_or_both(tag, how, asked):
    types = types_of(tag(types=["film", "person: x", "soul: y", "zebra"], unknown_types=how))
    assert types.words_of("") == asked
    unlearnt = StudentFacts(template="type", max_tokens=256, base="b", types=())
    assert types_of(tag(types=["film"], unknown_types=how), unlearnt).words_of("") == ("film",)


def test_how_an_unlearnt_type_is_asked_is_said(tag):
    settings = tag(types=["film", "city"], unknown_types="nearest")
    line = unlearnt_line(settings, types_of(settings), FACTS, RELATIVES)
    assert "'film' (nearest: 'movie')" in line and "those with a nearest type are asked as it" in line
    assert unlearnt_line(tag(types=["city"]), types_of(tag(types=["city"])), FACTS, RELATIVES) == ""


@pytest.mark.parametrize(
    "types",
    [["person", "Person"], ["film", "FILM: a moving picture"], ["song title", "song-title"],
     ["song title", "song\xa0title"], ["caf\u00e9", "cafe\u0301"]],
)  # fmt: skip
def test_types_that_differ_in_their_spelling_alone_are_an_error(tag, types):
    with pytest.raises(UserError, match="differ in their spelling alone, and both would be asked; keep one"):
        types_of(tag(types=types))
    with pytest.raises(UserError, match=r"tag\.types_of_source\.law: .* differ in their spelling alone"):
        types_of(tag(types_of_source={"law": types}))


@pytest.mark.parametrize("how", ["itself", "nearest", "both"])
@pytest.mark.parametrize("written", ["SONG TITLE", "song-title", "Song_Title", "song\xa0title"])
def test_a_type_in_another_spelling_is_asked_as_the_student_learnt_it(tag, how, written):
    facts = StudentFacts(template="type", max_tokens=256, base="b", types=("song title", "city", "C"))
    settings = tag(types=[written, "city", "C++"], unknown_types=how)
    types = types_of(settings, facts, {})
    assert types.everywhere == (written, "city", "C++")
    assert types.words_of("")[:2] == ("song title", "city")
    assert ("C++" in types.words_of("")) == (how != "nearest")
    assert "1 of 3 types" in unlearnt_line(settings, types, facts, {}), "only C++ is not learnt"
    described = types_of(tag(types=[f"{written}: of a song"], unknown_types=how), facts, {})
    assert described.words_of("") == ("song title (of a song)",)
    # The most frequent learnt types are not asked again under their own name.
    assert types_of(tag(types=[written], top_types=2), facts, {}).everywhere == (written, "city")


def test_the_page_asks_typed_types_as_a_run_does(stage_context, config, monkeypatch):
    served, found = {}, []
    monkeypatch.setattr(stage, "known_relatives", lambda *_: found.append(RELATIVES) or RELATIVES)
    monkeypatch.setattr(
        stage.interactive, "serve_page", lambda _, types, select, port: served.update(by=select)
    )
    context = stage_context(stage, config(types=["city"], unknown_types="both"))
    as_types, as_definitions = ("film", "movie", "person (x)"), ("film", "movie", "person: x", "person")
    for template, asked in (("type", as_types), ("definition", as_definitions)):
        facts = StudentFacts(template=template, max_tokens=256, base="b", types=FACTS.types)
        monkeypatch.setattr(stage, "read_facts", lambda context, facts=facts: facts)
        stage.serve_page(context, 7860)
        assert served["by"](["film", "person: x"]).words_of("") == asked
    assert len(found) == 2, "relatives are found once a page: it may load a model"


def test_relatives_are_the_synonyms_of_descriptions_and_types_that_share_mentions(
    tmp_path, config, stage_context
):
    build = Folder(str(tmp_path / "build"))
    assert read_relatives(build) == {}
    build.write("descriptions.json", b'{"movie": {"synonyms": ["film"]}}')
    pair = {"first": "film", "second": "show", "shared": 4, "share": 0.2, "expected": 0.1}
    build.write_json("near-synonyms.json", [pair])
    assert read_relatives(build) == {"film": ["movie", "show"], "movie": ["film"], "show": ["film"]}
    for wrong in ({"first": "film"}, ["film"], [{"first": "film", "second": 5}], "film"):
        build.write_json("near-synonyms.json", wrong)
        with pytest.raises(UserError, match=r"near-synonyms\.json: .* is not a pair of types, such as"):
            read_relatives(build)
    other = stage_context(stage, config(student="some/model"))
    assert known_relatives(other, FACTS) == {}


def test_a_type_that_was_not_learnt_is_related_to_the_one_whose_name_is_closest(
    monkeypatch, config, stage_context
):
    class NamesAlike:
        """In place of a trained text encoder."""

        def __init__(self, model, setting):
            assert (model, setting) == ("some/encoder", "tag.nearest_encoder")

        def vectors(self, names):
            alike = {"writer": 0, "person": 0, "movie": 1, "city": 2, "xyz": 3}
            return np.eye(4, dtype=np.float32)[[alike[name] for name in names]]

    monkeypatch.setattr("uniner.tag.student.NameEncoder", NamesAlike)
    asked = {"types": ["writer", "xyz", "city"], "unknown_types": "nearest"}
    context = stage_context(stage, config(student="some/model", nearest_encoder="some/encoder", **asked))
    relatives = known_relatives(context, FACTS)
    assert relatives == {"writer": ["person"]}
    assert types_of(context.sections.tag, relatives=relatives).words_of("") == ("person", "xyz", "city")


class Model:
    """Answers by words: the mentions and the score of each; other words have none."""

    def __init__(self, mentions, spans=False):
        self.mentions, self.spans, self.asked = mentions, spans, []

    async def ask(self, text, words):
        self.asked.append(tuple(words))
        return PassageAnswers(tuple(self._answer(text, word) for word in words), {"questions": len(words)})

    async def ask_all(self, questions):
        return [await self.ask(text, words) for text, words in questions]

    def _answer(self, text, word):
        found = self.mentions.get(word, {})
        if found is None:
            return TypeAnswer(word, "unparseable", {}, "?")
        if not self.spans:
            return TypeAnswer(word, "ok", found, json.dumps([*found]))
        places = tuple((text.index(mention), text.index(mention) + len(mention)) for mention in found)
        return TypeAnswer(word, "ok", found, "0.9", (), places, tuple(found.values()))


TEXT = "Heat, Alien and Ann."
PASSAGE_ROW = Passage(
    passage_id="p", doc_id="d", passage_index=0, char_start=0, char_end=len(TEXT), text=TEXT,
    n_tokens=5, source="",
)  # fmt: skip
SELECTION = select_types(["film", "person: a human being", "city"], [], None, {}, [])
BOTH = {**SELECTION.words, "film": ("film", "movie")}
MENTIONS = {
    "film": {"Heat": 0.5},
    "movie": {"Heat": 0.75, "Alien": 0.5},
    "person (a human being)": {"Ann": 0.9},
    "person": {"Heat": 1.0},
}


@pytest.mark.parametrize("by_encoder", [False, True])
def test_answers_to_several_words_are_merged_under_the_plain_name(by_encoder):
    model = Model(MENTIONS, spans=by_encoder)
    types = type(SELECTION)(SELECTION.everywhere, {}, BOTH)
    worker = (EncoderWorker if by_encoder else Tagger)(model, types, EntityRules())
    chunk = asyncio.run(worker(Chunk("c", to_table([PASSAGE_ROW], PASSAGE))))
    (row,) = from_table(chunk.table, TaggedPassage)
    assert [(entity.text, entity.type, entity.score) for entity in row.entities] == [
        ("Heat", "film", 0.75), ("Alien", "film", 0.5), ("Ann", "person", 0.9),
    ]  # fmt: skip
    assert model.asked == [("film", "movie", "person (a human being)", "city")]
    assert (row.outcome, row.failed_types) == ("ok", ())


def test_a_broken_answer_to_one_of_the_words_is_not_hidden():
    types = type(SELECTION)(SELECTION.everywhere, {}, BOTH)
    worker = Tagger(Model({**MENTIONS, "movie": None}), types, EntityRules())
    chunk = asyncio.run(worker(Chunk("c", to_table([PASSAGE_ROW], PASSAGE))))
    (row,) = from_table(chunk.table, TaggedPassage)
    assert (row.outcome, row.failed_types) == ("unparseable", ("film",))
    assert [(entity.text, entity.type) for entity in row.entities] == [("Heat", "film"), ("Ann", "person")]


def test_an_encoder_s_lowest_score_of_a_word_is_that_of_its_most_lenient_type():
    words = {"film": ("film", "movie"), "show": ("movie",), "person": ("person (x)",)}
    types = ("film", "show", "person", "city")
    of_type = {"film": 0.9, "show": 0.3, "person": 0.7, "city": 0.8}
    assert lowest_scores(of_type, words, types, 0.5) == {
        "film": 0.9, "movie": 0.3, "person (x)": 0.7, "city": 0.8,
    }  # fmt: skip
    assert lowest_scores({"film": 0.9}, words, types, 0.5) == {"film": 0.9}


def test_only_types_that_are_asked_otherwise_are_in_the_stage_s_identity(config, stage_context):
    def settings(**tag):
        context = stage_context(stage, config(**tag))
        types = selected_types(context.sections.tag, FACTS, RELATIVES)
        return stage._identity(context, FACTS, types, parents={}).settings["tag"]

    plain = settings(types=["film"])
    assert "asked_by" not in plain and plain == settings(types=["film"], unknown_types="itself")
    assert settings(types=["film"], unknown_types="nearest")["asked_by"] == {"film": ("movie",)}
    assert settings(types=["film: a work"])["types"] == ["film"]
    assert settings(types=["film: a work"]) != plain


def test_types_that_the_student_learnt_apart_are_asked_apart(tag):
    facts = StudentFacts(template="type", max_tokens=256, base="b", types=("date-time", "date time", "net"))
    assert types_of(tag(types=["date-time", "date time"]), facts, {}).words_of("") == (
        "date-time",
        "date time",
    )
    with pytest.raises(UserError, match="differ in their spelling alone"):
        types_of(tag(types=["date-time", "Date time"]), facts, {})
    assert types_of(tag(types=[".NET", "net"]), facts, {}).words_of("") == (".NET", "net")
