"""The table of other words covers the catalogue's and the quickstart's types, and no words mean two types."""

import json

import pytest

from uniner.build.filters import plural_types
from uniner.errors import UserError
from uniner.gold.catalogue import catalogue
from uniner.gold.paraphrases import WAYS, known_paraphrases, paraphrased
from uniner.labels import is_else_type
from uniner.quickstart.corpus import types_of
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.type_replies import type_replies
from uniner.type_descriptions import TypeDescription

TYPES = {
    "bc5cdr": "chemical, disease",
    "conll03": "location, organization, person",
    "crossner_ai": "algorithm, conference, country, field, location, metrics, organization, person, product, "
    "programming language, researcher, task, university",
    "crossner_science": "academic journal, astronomical object, award, chemical compound, chemical element, "
    "country, discipline, enzyme, event, location, organization, person, protein, scientist, theory, "
    "university",
    "mit_movie": "actor, average ratings, character, director, genre, plot, rating, review, song, title, "
    "trailer, year",
    "quickstart": ", ".join(types_of(DOMAINS)),
}


def test_each_renamed_label_of_the_catalogue_has_two_synonyms_and_a_description():
    known = known_paraphrases()
    words = {word for dataset in catalogue().values() for word in dataset.labels.values()}
    named = {name for types in TYPES.values() for name in types.split(", ")}
    names = named | {word for word in words if not is_else_type(word)}
    assert {name for name in names if name not in known} == set()
    for name, entry in known.items():
        assert len(entry.synonyms) == 2 and entry.description, name
        assert name not in entry.synonyms and not plural_types({name, *entry.synonyms}), name


@pytest.mark.parametrize("dataset", TYPES)
def test_hardly_any_type_of_a_data_set_goes_without_other_words(dataset):
    types = TYPES[dataset].split(", ")
    ways = paraphrased(types, known_paraphrases())
    assert list(ways) == list(WAYS)
    for words in ways.values():
        assert len(words) >= len(types) - 1
        assert len({*words.values()}) == len(words) and not {*words.values()} & {*types}


def test_words_for_two_types_or_for_another_type_are_left_out():
    known = {
        "movie": TypeDescription(description="a work", synonyms=("film", "picture")),
        "image": TypeDescription(description="a work", synonyms=("photo", "picture")),
        "film": TypeDescription(synonyms=("movie",)),
        "Song": TypeDescription(),
    }
    assert paraphrased(["movie", "image", "film", "song", "other"], known) == {"synonym1": {"image": "photo"}}
    assert paraphrased(["Movie"], known)["description"] == {"Movie": "a work"}


def test_a_file_adds_to_the_table_and_comes_first(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"person": {"synonyms": ["soul"]}, "gizmo": {"description": "a thing"}}))
    known = known_paraphrases(str(path))
    assert known["person"].synonyms == ("soul",) and known["gizmo"].description == "a thing"
    assert known["city"] == known_paraphrases()["city"]
    path.write_text('{"gizmo": {"words": []}}')
    with pytest.raises(UserError, match="the entry of 'gizmo' is wrong"):
        known_paraphrases(str(path))
    with pytest.raises(UserError, match="no such file"):
        known_paraphrases(str(tmp_path / "none.json"))


def test_of_a_quickstart_type_s_synonyms_the_teacher_names_the_first_and_not_the_second():
    known = known_paraphrases()
    for question, reply in type_replies():
        name, said = question.removeprefix("Type: "), json.loads(reply)
        first, second = known[name].synonyms
        assert first in said["synonyms"] and second not in said["synonyms"], name
        assert known[name].description != said["description"], name
