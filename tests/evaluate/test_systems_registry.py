"""How a system is asked: by its own facts, as a released model is known to be, or as the config says."""

import json

import pytest

from uniner.config.schema import EngineSection, Evaluate, Student
from uniner.evaluate.systems_registry import choose_systems
from uniner.storage.folder import Folder


@pytest.mark.parametrize(
    ("model", "facts", "template"),
    [
        ("Universal-NER/UniNER-7B-type", None, "type"),
        ("Universal-NER/UniNER-7B-definition", None, "definition"),
        ("{tmp}/UniNER-7B-all", None, "type"),
        ("{tmp}/others", None, "grouped"),
        ("{tmp}/ours", {"template": "all_in_one", "max_tokens": 64, "base": "b", "types": []}, "all_in_one"),
    ],
)
def test_a_model_is_asked_by_the_template_it_was_trained_with(tmp_path, model, facts, template):
    model = model.replace("{tmp}", str(tmp_path))
    if model.startswith("/"):
        Folder(model).write_json("config.json", {})
    if facts:
        Folder(model).write_json("uniner.json", facts)
    student = Student(base="base", template="grouped", group_types=7)
    systems = choose_systems(Evaluate(systems=[model]), EngineSection(), student, Folder(str(tmp_path)), 0)
    (system,) = systems.values()
    settings = system.identity().settings["system"]
    assert settings["template"] == template
    assert settings["group_types"] == (7 if template == "grouped" else None)


def test_under_8_bits_all_that_tag_could_use_is_evaluated_both_ways(tmp_path):
    names = ["base", "student", "Universal-NER/UniNER-7B-type"]
    engine = EngineSection(quantization="fp8")
    systems = choose_systems(Evaluate(systems=names), engine, Student(base="b"), Folder(str(tmp_path)), 0)
    assert json.dumps(list(systems)) == json.dumps(
        [
            "base",
            "student",
            "student-fp8",
            "Universal-NER--UniNER-7B-type",
            "Universal-NER--UniNER-7B-type-fp8",
        ]
    )
