"""What a passage costs by each template, counted from the rendering itself."""

from uniner.records import Passage, TaggedEntity, TaggedPassage
from uniner.tag.template_costs import COMPARED, TemplateCost, describe_templates, found_mentions, measure_cost
from uniner.templates import Renderer, make_template

TEXT = "Ann Lee left Bonn for Rome and came back with Bob."
PASSAGE = Passage(
    passage_id="d-0", doc_id="d", passage_index=0, char_start=6, char_end=6 + len(TEXT), text=TEXT,
    n_tokens=9, source="",
)  # fmt: skip
ENTITIES = [("Ann Lee", "person"), ("Bonn", "city"), ("Rome", "city"), ("nowhere", "city")]


def entity(text, name):
    start = TEXT.find(text)
    place = (-1, -1) if start < 0 else (6 + start, 6 + start + len(text))
    return TaggedEntity(text=text, type=name, start=place[0], end=place[1], score=1.0, grounding="exact")


def found():
    row = TaggedPassage(
        doc_id="d", passage_id="d-0", char_start=6, entities=tuple(entity(*each) for each in ENTITIES),
        outcome="ok", failed_types=(),
    )  # fmt: skip
    return found_mentions([PASSAGE], [row])


def test_a_cost_is_the_tokens_that_rendering_makes(tokenizer):
    renderer, types = Renderer(tokenizer), ["person", "city"]
    (mentions,) = found()
    assert mentions.spans == {"person": [(0, 7)], "city": [(13, 17), (22, 26)]}
    texts = {name: [TEXT[start:end] for start, end in mentions.spans[name]] for name in types}
    for name in COMPARED:
        template = make_template(name)
        pairs = template.render(TEXT, texts, mentions.spans)
        tokens = len(renderer.head(f"Text: {TEXT}")) + sum(
            len(renderer.question(question)) + len(renderer.answer(answer)) for question, answer in pairs
        )
        assert abs(measure_cost(renderer, name, [mentions], types).tokens(2) - tokens) < 0.01


def test_the_estimate_says_from_how_many_types_words_is_cheaper():
    def cost(question, group_types):
        return TemplateCost(head=100, question=question, name=2, mentions=10, group_types=group_types)

    text = describe_templates({"type": cost(20, 1), "grouped": cost(21, 5), "words": cost(101, 50)}, 3)
    assert "about 176 by type, 137 by grouped, 217 by words, prompt and answer, with 3 types" in text
    assert "cheaper than type from 6 types on and cheaper than grouped from 21 types on" in text
    assert "dearer than type" in describe_templates({"type": cost(2, 1), "words": cost(101, 50)}, 3)
