"""The tables of the real bases on a GPU, and which learning rate is taken."""

import json

from benchmarks.real_bases_gpu import phases, rate_lines, score_lines
from benchmarks.real_bases_job import COLUMNS, RESULTS, Job, words_of_rate


def result(*f1):
    return {"scores": {name: {"f1": each} for name, each in zip(COLUMNS, f1, strict=True)}}


def test_the_rate_with_the_best_f1_on_validation_passages_is_taken(tmp_path):
    (tmp_path / RESULTS).mkdir()
    for rate, f1 in ((1e-4, 0.3), (3e-4, 0.5), (1e-3, 0.4)):
        written = tmp_path / RESULTS / f"{Job('student', rate=rate).name}.json"
        written.write_text(json.dumps(result(f1, 0.9 - f1, 0.0, 0.0, 0.0, 0.0)))
    assert words_of_rate(tmp_path, Job("student", "none", 2)) == ["train.learning_rate=0.0003"]
    assert words_of_rate(tmp_path, Job("student", rate=1e-3)) == ["train.learning_rate=0.001"]
    assert words_of_rate(tmp_path, Job("encoder")) == []  # none was tried


def test_the_rate_of_an_encoders_new_layers_is_higher(tmp_path):
    assert words_of_rate(tmp_path, Job("encoder", rate=1e-4)) == [
        "encoder.learning_rate=0.0001",
        "encoder.head_learning_rate=0.0005",
    ]


def test_the_table_has_the_mean_of_the_gold_sets_and_the_range_of_the_seeds():
    results = {
        Job("student", rate=1e-3): result(0.25, 0.5, 0.0, 0.0, 0.0, 0.0),
        Job("student", seed=0): result(0.5, 0.5, 0.1, 0.2, 0.3, 0.4),
        Job("student", seed=1): result(0.7, 0.5, 0.3, 0.2, 0.3, 0.4),
    }
    assert rate_lines(results)[2:] == ["| student | 0.001 | 25.0 | 50.0 |"]
    assert score_lines(results)[2:] == [
        "| student | frequency | 2 | 60.0 (50.0 to 70.0) | 50.0 (50.0 to 50.0) | 20.0 (10.0 to 30.0) | "
        "20.0 (20.0 to 20.0) | 30.0 (30.0 to 30.0) | 40.0 (40.0 to 40.0) | 27.5 (25.0 to 30.0) |"
    ]


def test_rates_are_tried_before_they_are_needed():
    tried, chosen, others = phases()
    assert {job.rate is None for job in tried} == {False}
    assert {job.rate for job in (*chosen, *others)} == {None}
    names = [job.name for phase in phases() for job in phase]
    assert len(names) == len(set(names))
