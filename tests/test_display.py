"""The entities of a text that can be displayed together; a terminal gets no control characters."""

import unicodedata

from uniner.display import TaggedText, displayed_entities, terminal_text, type_colours, visible
from uniner.records import TaggedEntity


def test_overlapping_and_ungrounded_entities_are_not_displayed():
    entities = (
        TaggedEntity(text="New York", type="city", start=100, end=108, score=1.0, grounding="exact"),
        TaggedEntity(text="York", type="city", start=104, end=108, score=1.0, grounding="exact"),
        TaggedEntity(text="Rome", type="city", start=-1, end=-1, score=1.0, grounding="ungrounded"),
    )
    (entity,) = displayed_entities(entities, 100)
    assert (entity.text, entity.start, entity.end) == ("New York", 0, 8)
    pieces = TaggedText(text="New York!", source="", entities=(entity,)).pieces
    assert pieces == [("New York", entity), ("!", None)]


def test_a_terminal_gets_no_control_characters_and_no_marks_of_direction():
    hostile = "a\x1b[2Jb\x07c\x9bd\u202ee\u2066f\u200fg\rh\x7fi"
    entity = TaggedEntity(text="a\x1b", type="t\x1b]0;x\x07", start=0, end=2, score=1.0, grounding="exact")
    tagged = TaggedText(text=hostile, source="s\x1bc", entities=(entity,))
    shown = terminal_text(tagged, type_colours([tagged])).plain
    assert not [letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cf")]
    assert shown.replace("\ufffd", "?") == "s?c: a? [t?]0;x?][2Jb?c?d?e?f?g?h?i"
    assert "".join(piece for piece, _ in tagged.pieces) == hostile  # the offsets are the text's own
    assert visible("two\n\tlines, Zo\u00eb \U0001f600") == "two\n\tlines, Zo\u00eb \U0001f600"


def test_of_entities_that_overlap_the_surest_is_displayed_whatever_their_order():
    def entity(start: int, end: int, score: float, grounding: str = "exact") -> TaggedEntity:
        return TaggedEntity(text="x", type="t", start=start, end=end, score=score, grounding=grounding)

    entities = [entity(0, 8, 0.4), entity(2, 5, 0.9), entity(4, 12, 0.6)]
    for order in (entities, entities[::-1]):
        assert [(each.start, each.end) for each in displayed_entities(order)] == [(2, 5)]
    rule = entity(7, 12, 1.0, "rule")
    assert displayed_entities([entity(6, 9, 1.0), entity(0, 5, 0.1), rule])[-1] == rule
