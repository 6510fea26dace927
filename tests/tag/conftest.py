"""What tests of tagging share."""

import json
import shutil

import pytest

from uniner.config.schema import Config


@pytest.fixture
def config(tmp_path, base):
    """Return a function that makes a config of a run whose student is ready."""
    shutil.copytree(base, tmp_path / "student")
    facts = {"template": "type", "group_types": 5, "max_tokens": 512, "base": "", "types": ["person", "city"]}
    (tmp_path / "student" / "uniner.json").write_text(json.dumps(facts))

    def make(**sections):
        return Config.model_validate(
            {
                "run": {"root": str(tmp_path / "runs"), "name": "r"},
                "student": {"base": str(base), "max_tokens": 512},
                "ingest": {"shards": ["unused.jsonl"], "max_tokens": 64},
                "engine": {"gpus": 0, "dtype": "float32", **sections.pop("engine", {})},
                "tag": {"student": str(tmp_path / "student"), **sections},
            }
        )

    return make
