"""The entities of a text that can be displayed together."""

from uniner.display import TaggedText, displayed_entities
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
