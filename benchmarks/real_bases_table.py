"""The tables of `benchmarks.real_bases_gpu`, from the results and the answers in its folder."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.cascade import Scores, after_prefilter, f1_cell, f1_text, mean_f1
from benchmarks.real_bases import DATASETS
from benchmarks.real_bases_job import ANSWERS, CHOSEN_ON, COLUMNS, SEEDS, Job, result_file
from uniner.evaluate.leaderboard import LeaderboardCell
from uniner.evaluate.scoring import DatasetScores, score
from uniner.metrics.cascade import CascadePoint, cascade_points, choose_threshold
from uniner.metrics.matching import strict
from uniner.metrics.protocols import ScoredAnswer
from uniner.records import Prediction, from_table

MAX_RECALL_LOSS = 0.01
"""Share of the student's right answers that the cascade may lose."""


def tables(folder: Path, jobs: Sequence[Job]) -> list[str]:
    """Return the rates that were tried, F1 by system and arm, and what the encoder does as a prefilter."""
    results = {
        job: json.loads(result_file(folder, job.name).read_text())
        for job in jobs
        if result_file(folder, job.name).exists()
    }
    scores: dict[tuple[str, str], list[Scores]] = {}
    for job, result in results.items():
        if job.rate is None:
            stored = result["scores"].items()
            of_job = {name: DatasetScores.from_json(each) for name, each in stored}
            scores.setdefault((job.system, job.arm), []).append(of_job)
    both = [
        (_answers(folder, student), _answers(folder, encoder))
        for student, encoder in (
            (Job("student", seed=seed), Job("encoder", seed=seed)) for seed in range(SEEDS)
        )
        if student in results and encoder in results
    ]
    points = [points_of(*answers) for answers in both]
    for answers, of_seed in zip(both, points, strict=True):
        threshold = choose_threshold(of_seed, MAX_RECALL_LOSS)
        scores.setdefault(("cascade", CHOSEN_ON), []).append(_cascade(*answers, threshold))
    return [*rate_lines(results), "", *score_lines(scores), "", *cascade_lines(points)]


def _answers(folder: Path, job: Job) -> list[Prediction]:
    return list(from_table(pq.read_table(result_file(folder, job.name).with_suffix(ANSWERS)), Prediction))


def _cascade(student: Sequence[Prediction], encoder: Sequence[Prediction], threshold: float) -> Scores:
    """Return the scores of a student that is asked what the encoder scores at the threshold or above."""
    best = (float(answer.reply or 0.0) for answer in encoder)
    return score(after_prefilter(*pair, threshold) for pair in zip(student, best, strict=True))


def points_of(student: Sequence[Prediction], encoder: Sequence[Prediction]) -> list[CascadePoint]:
    """Return what each threshold of the encoder does to a student's answers to the same questions.

    Of the gold data sets: those on which the encoder's own threshold was chosen are left out.
    """
    pairs = [pair for pair in zip(student, encoder, strict=True) if pair[0].dataset in DATASETS]
    answers = [ScoredAnswer(answer) for answer, _ in pairs]
    found = [strict(answer.predicted_set, answer.gold_set) for answer in answers]
    best = [float(answer.reply or 0.0) for _, answer in pairs]
    return cascade_points(best, *np.array([(each.tp, each.fp, each.fn) for each in found]).T)


def cascade_lines(points: Sequence[Sequence[CascadePoint]]) -> list[str]:
    """Return the lines of the table of thresholds, in Markdown: means over the seeds, F1 of all questions."""
    lines = ["| threshold | questions saved | right answers lost | F1 |", "|---:|---:|---:|---:|"]
    for of_seeds in zip(*points, strict=True):
        saved, lost, f1 = (
            100 * statistics.fmean(getattr(point, name) for point in of_seeds)
            for name in ("saved", "recall_lost", "f1")
        )
        lines.append(f"| {of_seeds[0].threshold:g} | {saved:.1f} % | {lost:.1f} % | {f1:.1f} |")
    return lines


def rate_lines(results: Mapping[Job, Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of learning rates, in Markdown."""
    lines = ["| system | learning rate | validation | held-out |", "|---|---:|---:|---:|"]
    for job, result in results.items():
        if job.rate is not None:
            cells = [f"{100 * result['scores'][name]['f1']:.1f}" for name in COLUMNS[:2]]
            lines.append(f"| {job.system} | {job.rate:g} | {' | '.join(cells)} |")
    return lines


def score_lines(scores: Mapping[tuple[str, str], Sequence[Scores]]) -> list[str]:
    """Return the lines of the table of F1, in Markdown, with 95 % intervals; of several seeds their range.

    scores: by system and arm those of each seed. The mean is that of the gold data sets.
    """
    lines = [
        f"| system | arm | seeds | {' | '.join(COLUMNS)} | mean |",
        "|---|---|" + "---:|" * (len(COLUMNS) + 2),
    ]
    for (system, arm), seeds in scores.items():
        cells = [
            _spread([f1_cell(of_seed[name]) for of_seed in seeds if name in of_seed]) for name in COLUMNS
        ]
        cells.append(_spread([mean_f1({name: of_seed[name] for name in DATASETS}) for of_seed in seeds]))
        lines.append(f"| {system} | {arm} | {len(seeds)} | {' | '.join(cells)} |")
    return lines


def _spread(seeds: Sequence[LeaderboardCell]) -> str:
    if len(seeds) < 2:
        return f1_text(seeds[0]) if seeds else ""
    f1 = [each.f1 for each in seeds]
    return f"{statistics.fmean(f1):.1f} ({min(f1):.1f} to {max(f1):.1f})"
