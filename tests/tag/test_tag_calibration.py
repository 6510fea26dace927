"""Calibration: stored with the student by evaluate, and used by tag."""

import pytest

from uniner.errors import UserError
from uniner.storage.model_folders import calibration_of, model_fingerprint, write_calibrations
from uniner.storage.stage_folder import Folder
from uniner.tag import stage


def test_a_student_carries_what_was_measured_of_it_and_stays_the_same(tmp_path):
    student = Folder(str(tmp_path))
    student.write("config.json", b"{}")
    before = model_fingerprint(student.url)
    with pytest.raises(UserError, match=r"not measured on .* 'news' \(evaluate has scored it on none\)"):
        calibration_of(student.url, "news")
    found = {"mentions": 9, "slope": 0.5, "intercept": -1.0}
    write_calibrations(student, {"news": {"calibration": found}, "empty": {"calibration": None}})
    write_calibrations(student, {"law": {"calibration": {**found, "slope": 0.75}}})  # news stays
    assert calibration_of(student.url, "news") == (0.5, -1.0)
    assert calibration_of(student.url, "law") == (0.75, -1.0)
    with pytest.raises(UserError, match=r"'empty' \(it is on law, news\); name it in evaluate\.gold"):
        calibration_of(student.url, "empty")
    assert model_fingerprint(student.url) == before


def test_tag_calibrates_by_a_data_set_s_name(tmp_path, base, make_engine_config):
    student = Folder(str(tmp_path / "r" / "train" / "student"))
    student.write_json(
        "uniner.json", {"template": "type", "group_types": 5, "max_tokens": 512, "types": ["a"]}
    )
    gold, tag = {"news": "unused.jsonl"}, {"calibration": "news"}
    config = make_engine_config(tmp_path, base, tag=tag)
    with pytest.raises(UserError, match="not measured on a gold data set 'news'"):
        stage.check(config)
    stage.check(make_engine_config(tmp_path, base, tag=tag, evaluate={"gold": gold}))  # evaluate comes before
    write_calibrations(student, {"news": {"calibration": {"slope": 0.5, "intercept": -1.0}}})
    stage.check(config)
    assert stage._rules(config).calibration == (0.5, -1.0)
    facts = student.read_json("uniner.json")
    plan = stage._plan(config, facts, stage._types(config, facts), parents={})
    assert plan["config"]["tag"]["calibration"] == (0.5, -1.0)
    Folder(str(tmp_path / "r" / "tag")).begin(plan)
    stage.check(config)
    write_calibrations(student, {"news": {"calibration": {"slope": 0.25, "intercept": -1.0}}})
    with pytest.raises(UserError, match=r"config\.tag\.calibration was \[0\.5, -1\.0\]"):
        stage.check(config)


def test_chunks_that_are_not_those_of_the_passages_are_no_output(tmp_path, make_engine_config, base):
    ingest, tag = Folder(str(tmp_path / "ingest")), Folder(str(tmp_path / "tag"))
    ingest.write_json("manifest.json", {"chunks": [{"key": "a", "rows": 3}, {"key": "b", "rows": 2}]})
    settings = make_engine_config(tmp_path, base).tag
    for rows in ({"a": 3, "b": 1}, {"a": 3}, {"a": 3, "b": 2, "c": 1}):
        with pytest.raises(RuntimeError, match=r"chunk [bc] has .* rows, its passages are"):
            stage._close(settings, tag, ingest, rows)
