"""The types to ask for: named ones, a file's, the student's own, a source's; errors name the wrong value."""

import pytest

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.tag.types import TypeSelection, read_types, require_sources, select_types

LEARNT = ["person", "city", "drug"]


def test_named_types_the_files_and_the_most_frequent_learnt_ones_are_asked_once():
    assert select_types([], [], None, {}, LEARNT).everywhere == ("person", "city", "drug")
    assert select_types(["b", "a", "b"], [], None, {}, LEARNT).everywhere == ("b", "a")
    assert select_types(["drug"], ["x", "drug"], 2, {}, LEARNT).everywhere == ("drug", "x", "person", "city")
    assert len(select_types([], [f"type {n}" for n in range(700)], None, {}, []).everywhere) == 700


def test_a_source_may_have_other_types_or_none():
    types = select_types(["person"], [], None, {"code": [], "law": ["court", "judge", "court"]}, LEARNT)
    assert [types.of(source) for source in ("law", "code", "news")] == [("court", "judge"), (), ("person",)]


def test_too_few_types_are_an_error():
    with pytest.raises(UserError, match=r"tag\.top_types = 4, but the student lists only 3 types of its own"):
        select_types([], [], 4, {}, LEARNT)
    with pytest.raises(UserError, match=r"lists no types of its own; set tag\.types, .* or tag\.types_file"):
        select_types([], [], None, {"a": ["x"]}, [])


def test_a_file_has_one_type_in_each_line_and_comments(tmp_path):
    path = tmp_path / "types.txt"
    path.write_bytes(
        "\ufeff# what we want\r\nperson\r\n\r\n  C# program  # not music\nÜberschrift\n#x\n".encode()
    )
    assert read_types(str(path)) == ["person", "C# program", "Überschrift"]


def test_characters_without_width_around_a_type_are_no_part_of_it(tmp_path):
    path = tmp_path / "types.txt"
    path.write_text("\u200bperson\ufeff\n\u202dcity\u202c \nfarsi\u200cword\n", encoding="utf-8")
    assert read_types(str(path)) == ["person", "city", "farsi\u200cword"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"person\n# only this\n person # again\n", r"line 3: 'person' is already in line 1"),
        (b"# nothing\n\n", "names no type; write one type in each line"),
        (b"\xff\n", "line 1 is not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "types.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_types(str(path))


def test_a_missing_source_is_named_and_no_more_chunks_are_read_than_needed():
    def chunks():
        yield {"news", "law"}
        yield {"code"}
        raise AssertionError("read too far")

    require_sources({"code": (), "law": ()}, chunks())
    require_sources({}, chunks())
    with pytest.raises(UserError, match="no passage has the source 'laws'; the sources are '', 'law'"):
        require_sources(["law", "laws"], [{"law"}, {""}])


def test_an_empty_type_is_refused(make_engine_config):
    for tag in (
        {"types": [" "]},
        {"types": ["a\nb"]},
        {"types_of_source": {"x": ["city "]}},
        {"top_types": 0},
    ):
        with pytest.raises(ValueError, match="tag"):
            make_engine_config("r", "b", tag=tag)
    config = make_engine_config("r", "b", tag={"types": ["a", "named entity"]})
    assert isinstance(config, Config) and TypeSelection(tuple(config.tag.types)).of("any") == (
        "a",
        "named entity",
    )
