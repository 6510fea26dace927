"""Which types are asked for: named, of a file, the student's own, a source's; errors name what is wrong."""

import pytest

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.tag.types import Types, choose, read_types, require_sources

LEARNT = ["person", "city", "drug"]


def test_types_are_those_named_of_the_file_and_the_most_frequent_learnt_each_once():
    assert choose([], [], None, {}, LEARNT).everywhere == ("person", "city", "drug")
    assert choose(["b", "a", "b"], [], None, {}, LEARNT).everywhere == ("b", "a")
    assert choose(["drug"], ["x", "drug"], 2, {}, LEARNT).everywhere == ("drug", "x", "person", "city")
    assert len(choose([], [f"type {n}" for n in range(700)], None, {}, []).everywhere) == 700


def test_a_source_may_have_other_types_or_none():
    types = choose(["person"], [], None, {"code": [], "law": ["court", "judge", "court"]}, LEARNT)
    assert [types.of(source) for source in ("law", "code", "news")] == [("court", "judge"), (), ("person",)]


def test_what_cannot_be_asked_is_said():
    with pytest.raises(UserError, match=r"tag\.top_types = 4: the student names 3 types of its own"):
        choose([], [], 4, {}, LEARNT)
    with pytest.raises(UserError, match=r"names no types of its own; set tag\.types or tag\.types_file"):
        choose([], [], None, {"a": ["x"]}, [])


def test_a_file_has_a_type_a_line_and_comments(tmp_path):
    path = tmp_path / "types.txt"
    path.write_bytes(
        "\ufeff# what we want\r\nperson\r\n\r\n  C# program  # not music\nÜberschrift\n#x\n".encode()
    )
    assert read_types(str(path)) == ["person", "C# program", "Überschrift"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"person\n# only this\n person # again\n", r"line 3: 'person' stands in line 1 already"),
        (b"# nothing\n\n", "names no type; write one a line"),
        (b"\xff\n", "line 1: is no UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "types.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_types(str(path))


def test_a_source_that_the_corpus_has_not_is_named_and_no_more_is_read_than_needed():
    def chunks():
        yield {"news", "law"}
        yield {"code"}
        raise AssertionError("read too far")

    require_sources({"code": (), "law": ()}, chunks())
    require_sources({}, chunks())
    with pytest.raises(UserError, match="no passage is of the source 'laws'; the sources are '', 'law'"):
        require_sources(["law", "laws"], [{"law"}, {""}])


def test_a_type_with_nothing_in_it_is_refused(make_engine_config):
    for tag in (
        {"types": [" "]},
        {"types": ["a\nb"]},
        {"types_of_source": {"x": ["city "]}},
        {"top_types": 0},
    ):
        with pytest.raises(ValueError, match="tag"):
            make_engine_config("r", "b", tag=tag)
    config = make_engine_config("r", "b", tag={"types": ["a", "named entity"]})
    assert isinstance(config, Config) and Types(tuple(config.tag.types)).of("any") == ("a", "named entity")
