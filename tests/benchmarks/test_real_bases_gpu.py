"""The tables of the real bases on a GPU, and which learning rate is taken."""

import json

from benchmarks.real_bases_gpu import phases
from benchmarks.real_bases_job import COLUMNS, RESULTS, Job, tried_as, words_of_rate
from benchmarks.real_bases_table import cascade_lines, points_of, rate_lines, score_lines
from uniner.evaluate.scoring import score
from uniner.records import Prediction


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


def answers(best_scores=None):
    """Ten questions of a data set: a student that answers "Ann" to all, or an encoder with these scores."""
    return [
        Prediction(
            dataset="mit_movie", passage_id=str(number), text="Ann left", type="person",
            reply="" if best_scores is None else str(best_scores[number]), predicted=("Ann",),
            gold=("Ann",) if number < 5 else (), gold_spans=(), outcome="ok",
        )
        for number in range(10)
    ]  # fmt: skip


def test_the_table_has_the_mean_of_the_gold_sets_and_the_range_of_the_seeds():
    (scored,) = score(answers()).values()  # five right, five wrong
    (all_right,) = score(answers()[:5]).values()
    one, other = (dict.fromkeys(COLUMNS, each) for each in (scored, all_right))
    lines = score_lines({("student", "frequency"): [one, other], ("base", "frequency"): [other]})
    assert lines[2] == f"| student | frequency | 2 |{' 83.3 (66.7 to 100.0) |' * 7}"
    assert lines[3] == f"| base | frequency | 1 |{' 100.0 [100.0, 100.0] |' * 7}"


def test_a_threshold_spares_the_student_what_the_encoder_finds_unlikely():
    unsure_of_the_absent = [0.9, 0.9, 0.9, 0.9, 0.2, 0.05, 0.05, 0.05, 0.05, 0.05]
    points = points_of(answers(), answers(unsure_of_the_absent))
    shown = {line.split(" | ")[0]: line for line in cascade_lines([points, points])[2:]}
    assert shown["| 0.1"] == "| 0.1 | 50.0 % | 0.0 % | 100.0 |"
    assert shown["| 0.3"] == "| 0.3 | 60.0 % | 20.0 % | 88.9 |"


def test_what_was_trained_with_the_chosen_rate_is_the_first_seed(tmp_path):
    (tmp_path / RESULTS).mkdir()
    assert tried_as(tmp_path, Job("student")) is None
    written = tmp_path / RESULTS / f"{Job('student', rate=1e-3).name}.json"
    written.write_text(json.dumps(result(0.5, 0.0, 0.0, 0.0, 0.0, 0.0)))
    assert tried_as(tmp_path, Job("student")) == Job("student", rate=1e-3)
    assert tried_as(tmp_path, Job("student", seed=1)) is tried_as(tmp_path, Job("student", "none")) is None


def test_the_table_of_rates_has_the_passages_they_are_chosen_on():
    results = {Job("student", rate=1e-3): result(0.25, 0.5, 0.0, 0.0, 0.0, 0.0), Job("student"): {}}
    assert rate_lines(results)[2:] == ["| student | 0.001 | 25.0 | 50.0 |"]


def test_rates_are_tried_before_they_are_needed():
    tried, chosen, others = phases()
    assert {job.rate is None for job in tried} == {False}
    assert {job.rate for job in (*chosen, *others)} == {None}
    names = [job.name for phase in phases() for job in phase]
    assert len(names) == len(set(names))
