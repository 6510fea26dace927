"""Calibration: what is fitted, what is measured, and that it is measured on what was not fitted."""

import math
import random

import pytest

from uniner.errors import UserError
from uniner.metrics.calibration import assess, calibrated, expected_error, fit
from uniner.storage.model_folders import calibration_of, model_fingerprint, write_calibrations
from uniner.storage.stage_folder import Folder
from uniner.tag import stage


def drawn(slope: float, intercept: float, many: int, seed: int = 3):
    """Return scores and, of each, whether its mention is right, with the chance that the two numbers give."""
    chance = random.Random(seed)
    scores = [chance.random() for _ in range(many)]
    return scores, [chance.random() < calibrated(score, slope, intercept) for score in scores]


def test_the_two_numbers_are_found_again():
    slope, intercept = fit(*drawn(0.5, -1.0, 20_000))
    assert (slope, intercept) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1.0, abs=0.06))
    assert calibrated(0.3, 1.0, 0.0) == pytest.approx(0.3)
    assert 0 <= calibrated(0.0, 3.0, 0.0) < 1e-6 and calibrated(1.0, 3.0, 0.0) <= 1


@pytest.mark.parametrize(
    ("scores", "right", "share"),
    [([], [], 0.5), ([0.9], [True], 2 / 3), ([1.0] * 8, [True] * 8, 0.9), ([0.9, 0.1], [False, True], 0.5)],
)
def test_little_or_contradictory_data_gives_no_certainty(scores, right, share):
    slope, intercept = fit(scores, right)
    assert slope >= 0 and math.isfinite(intercept)
    assert calibrated(0.9, slope, intercept) == pytest.approx(share, abs=0.1)


def test_scores_that_part_right_from_wrong_have_an_end():
    slope, intercept = fit([0.1] * 50 + [0.9] * 50, [False] * 50 + [True] * 50)
    assert 0.9 < calibrated(0.9, slope, intercept) < 1 and math.isfinite(slope)


def test_the_error_is_the_distance_of_scores_from_the_share_that_is_right():
    assert expected_error([0.75] * 4, [True, True, True, False]) == 0
    assert expected_error([0.9] * 4, [True, False, False, False]) == pytest.approx(0.65)
    assert expected_error([0.2] * 10 + [0.8] * 10, [True] * 10 + [False] * 10) == pytest.approx(0.8)


def test_overconfident_scores_are_mended_and_the_error_is_of_mentions_that_were_not_seen():
    scores, right = drawn(0.5, -1.0, 2000)
    found = assess(scores, right, [f"p{number // 3}" for number in range(2000)])
    assert found["mentions"] == 2000
    assert found["expected_error"] > 0.15 > 0.05 > found["expected_error_calibrated"]
    # All of one passage: nothing is left to fit on, so nothing is claimed.
    alone = assess([0.9] * 50, [True] * 50, ["p"] * 50)
    assert alone["expected_error_calibrated"] is None and alone["expected_error"] == pytest.approx(0.1)
    assert assess([], [], []) is None


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
