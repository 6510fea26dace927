"""How a system is asked: by its own facts, as a released model is known to be, or as the config says."""

import json

import pytest

from uniner.config.schema import EngineSection, Evaluate, Student
from uniner.errors import UserError
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


@pytest.fixture
def choose(tmp_path):
    """Return a function that returns the systems that these settings of `evaluate` choose."""

    def choose(*names, engine=None, **system):
        evaluate, run = Evaluate(systems=[*names], system=system), Folder(f"{tmp_path}/runs/r")
        return choose_systems(evaluate, engine or EngineSection(), Student(base="b"), run, 0)

    return choose


def test_a_gliner_model_is_an_encoder_by_its_folder_or_its_hub_name(tmp_path, choose):
    Folder(f"{tmp_path}/other").write_json("gliner_config.json", {})
    named = {"kind": "encoder", "model": "encoder", "overlaps": "keep"}
    systems = choose(
        "encoder", f"{tmp_path}/other", "urchade/gliner_medium-v2.1", "Qwen/Qwen3-0.6B", "mine", mine=named
    )
    kinds = [system.settings.kind for system in systems.values()]
    assert kinds == ["encoder", "encoder", "encoder", "template", "encoder"]
    own = f"{tmp_path}/runs/r/train-encoder/encoder"
    assert [system.model for system in systems.values()] == [
        own, f"{tmp_path}/other", "urchade/gliner_medium-v2.1", "Qwen/Qwen3-0.6B", own
    ]  # fmt: skip
    assert [system.own_stage for system in systems.values()] == ["train-encoder", "", "", "", "train-encoder"]
    assert [system.awaits_training for system in systems.values()] == [True, False, False, False, True]


def test_an_encoder_s_answers_depend_on_its_content_and_settings_and_the_number_format(tmp_path, choose):
    encoder = Folder(f"{tmp_path}/runs/r/train-encoder/encoder")
    encoder.write_json("gliner_config.json", {})
    encoder.write_json("other.json", {})

    def identity(engine=None, **settings):
        system = {"kind": "encoder", "model": "encoder", **settings}
        return choose("mine", engine=engine, mine=system)["mine"].identity()

    plain = identity()
    assert plain.settings["system"]["threshold"] == 0.5  # GLiNER's
    assert plain == identity(engine=EngineSection(max_answer_tokens=7, gpus=0, max_num_batched_tokens=64))
    changed = [
        identity(threshold=0.3),
        identity(types_per_pass=3),
        identity(overlaps="keep"),
        identity(engine=EngineSection(dtype="float32")),
    ]
    facts = {"template": "encoder", "max_tokens": 9, "base": "b", "types": [], "threshold": 0.35}
    encoder.write_json("uniner.json", facts)
    changed.append(identity())
    assert changed[-1].settings["system"]["threshold"] == 0.35
    assert changed[-1].parents != plain.parents
    assert len({each.digest() for each in (plain, *changed)}) == 6
    assert identity(threshold=0.0).settings["system"]["threshold"] == 0.0


def test_under_8_bits_an_encoder_is_evaluated_once(choose):
    assert list(choose("encoder", engine=EngineSection(quantization="fp8"))) == ["encoder"]


def test_a_wrong_encoder_is_refused_with_what_to_do(tmp_path, choose):
    Folder(f"{tmp_path}/encoder").write_json("gliner_config.json", {})
    Folder(f"{tmp_path}/decoder").write_json("config.json", {})
    encoder, decoder = f"{tmp_path}/encoder", f"{tmp_path}/decoder"
    for settings, message in (
        (
            {"kind": "template", "model": encoder},
            r"evaluate\.system\.x: .*encoder is an encoder .*kind = \"enc",
        ),
        (
            {"kind": "encoder", "model": decoder},
            r"no gliner_config\.json\); name a GLiNER .* urchade/gliner_",
        ),
    ):
        with pytest.raises(UserError, match=message):
            choose("x", x=settings)["x"].check({"toy"})
    with pytest.raises(
        UserError, match=r"evaluate\.system\.encoder: base, student, encoder name the run's own"
    ):
        choose("base", encoder={"kind": "encoder", "model": encoder})
