"""What a stage's identity holds: the settings that decide its output as the config stands, and no others."""

import importlib

import pytest

from uniner.config.schema import Config
from uniner.ingest.corpus import Corpus

GOLD = {"supervised": {"news": "news.jsonl"}}


@pytest.fixture
def identity(tmp_path, base, monkeypatch, stage_context):
    """Return a function that returns a stage's identity under these sections of the config."""
    (tmp_path / "news.jsonl").write_text('{"text": "Ann left.", "entities": []}\n')
    (tmp_path / "types.json").write_text('{"city": {"synonyms": ["town"]}}')
    (tmp_path / "prompt.txt").write_text("Find all. {passage}")
    monkeypatch.chdir(tmp_path)

    def make(stage, **sections):
        config = {
            "run": {"root": str(tmp_path / "runs"), "name": "r", **sections.pop("run", {})},
            "student": {"base": str(base), **sections.pop("student", {})},
            **sections,
        }
        module = importlib.import_module(f"uniner.{stage}.stage")
        context = stage_context(module, Config.model_validate(config))
        if stage == "ingest":
            return module._identity(context, Corpus(files=(), digests=()), parents={})
        return module._identity(context, parents={})

    return make


@pytest.mark.parametrize(
    ("stage", "before", "now"),
    [
        ("build", {}, {"build": {"labels": {"PER": "person"}}}),
        ("build", {}, {"build": {"supervised_examples": 5, "dataset_line": False}}),
        ("build", {}, {"build": {"train_json": True}}),
        ("build", {}, {"student": {"group_types": 3}}),
        (
            "build",
            {"build": {"teacher_weight": 0, **GOLD}},
            {"build": {"teacher_weight": 0, "drop_types": [], **GOLD}},
        ),
        (
            "build",
            {"build": {"negatives": "none"}},
            {"build": {"negatives": "none", "negatives_per_passage": 3}},
        ),
        ("build", {}, {"build": {"synonym_share": 0.1, "description_share": 0.9}}),
        ("build", {}, {"build": {"near_synonym_likeness": 0.9}}),
        ("build", {}, {"describe": {"prompt": "prompt.txt"}}),
        (
            "build",
            {"describe": {"types": 9}, "student": {"template": "grouped"}},
            {
                "describe": {"types": 9},
                "student": {"template": "grouped"},
                "build": {"description_share": 0.5},
            },
        ),
        ("annotate", {}, {"describe": {"types": 9}}),
        ("annotate", {}, {"student": {"template": "grouped"}}),
        (
            "annotate",
            {"annotate": {"prompt": "prompt.txt"}},
            {"annotate": {"prompt": "prompt.txt"}, "student": {"template": "definition"}},
        ),
        ("ingest", {}, {"run": {"seed": 7}}),
        ("ingest", {}, {"ingest": {"decontaminate_words": 5, "text_field": "body"}}),
        ("train", {}, {"train": {"lora_alpha": 8.0, "activation_checkpointing": "selective"}}),
        ("train", {}, {"student": {"group_types": 3}}),
        (
            "build",
            {"student": {"template": "grouped"}},
            {"student": {"template": "grouped", "group_types": 5}},
        ),
        ("train", {"student": {"template": "words"}}, {"student": {"template": "words", "group_types": 50}}),
    ],
)
def test_a_setting_that_decides_nothing_here_does_not_lock(identity, stage, before, now):
    assert identity(stage, **now) == identity(stage, **before)


@pytest.mark.parametrize(
    ("stage", "before", "now"),
    [
        ("build", {"build": GOLD}, {"build": {"labels": {"PER": "person"}, **GOLD}}),
        ("build", {}, {"build": {"drop_types": []}}),
        ("build", {}, {"build": {"negatives_per_passage": 3}}),
        (
            "build",
            {"student": {"template": "grouped"}},
            {"student": {"template": "grouped", "group_types": 3}},
        ),
        ("build", {"student": {"template": "words"}}, {"student": {"template": "words", "group_types": 3}}),
        ("train", {"student": {"template": "words"}}, {"student": {"template": "words", "group_types": 3}}),
        ("build", {"describe": {"types": 9}}, {"describe": {"types": 9}, "build": {"synonym_share": 0.1}}),
        (
            "build",
            {"describe": {"types": 9}},
            {"describe": {"types": 9}, "build": {"description_share": 0.1}},
        ),
        ("build", {}, {"build": {"type_descriptions_file": "types.json"}}),
        ("annotate", {}, {"student": {"template": "definition"}}),
        ("annotate", {}, {"annotate": {"prompt": "prompt.txt"}}),
        ("ingest", {"ingest": {"sample": 0.5}}, {"ingest": {"sample": 0.5}, "run": {"seed": 7}}),
        ("ingest", {"ingest": {"max_passages": 5}}, {"ingest": {"max_passages": 5}, "run": {"seed": 7}}),
        ("train", {"train": {"lora_rank": 4}}, {"train": {"lora_rank": 4, "lora_alpha": 8.0}}),
        ("train", {}, {"train": {"float8": True}}),
        ("train", {}, {"run": {"seed": 7}}),
    ],
)
def test_a_setting_that_decides_the_output_locks(identity, stage, before, now):
    assert identity(stage, **now) != identity(stage, **before)


def test_what_group_types_is_when_unset_counts_as_it_did_when_it_was_a_number(identity):
    grouped = identity("train", student={"template": "grouped"}).settings["student"]
    assert grouped == {"template": "grouped", "group_types": 5, "max_tokens": 1024}
    assert identity("train").settings["student"] == {"template": "type", "max_tokens": 1024}
