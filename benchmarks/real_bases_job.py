"""A model of `benchmarks.real_bases_gpu`: train it and have it answer, in its own process, without Ray."""

import asyncio
import gc
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from benchmarks.table import say
from benchmarks.torch_engine import TorchEngine
from uniner.config.loader import load
from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.evaluate.gold_questions import prediction
from uniner.evaluate.scoring import score
from uniner.evaluate.systems.windows import WindowedSystem
from uniner.inference.encoder_settings import EncoderSettings, start_encoder
from uniner.inference.questions import QuestionAsker
from uniner.records import PREDICTION, Prediction, Question, from_table, to_table
from uniner.storage.manifest import merge
from uniner.storage.model_folders import ENCODER_THRESHOLD, find_student_facts, own_model
from uniner.storage.stage_folder import StageFolder, run_folder
from uniner.templates import make_template
from uniner.train import worker
from uniner.train.encoder import worker as encoder_worker
from uniner.train.encoder.worker import EncoderJob
from uniner.train.prepare import TrainJob

ARMS: dict[str, dict[str, str | float]] = {
    "none": {"build.negatives": "none"},
    "uniform": {"build.negatives": "uniform"},
    "frequency": {"build.negatives": "frequency"},
    "frequency-3": {"build.negatives": "frequency", "build.negatives_per_positive": 3.0},
    "grouped": {"student.template": "grouped"},
    "words": {"student.template": "words", "student.max_tokens": 2560},
}
"""Settings by arm."""
CONFIG, GOLD, RESULTS, STEPS, ANSWERS = "real-bases.toml", "gold", "results", "steps.json", ".parquet"
VALIDATION, HELD_OUT, CHOSEN_ON = "validation", "held_out", "frequency"
SEEDS = 3
RATES = {"student": (1e-4, 3e-4, 1e-3), "encoder": (5e-5, 1e-4, 2e-4, 5e-4)}
HEAD_FACTOR = 5.0
"""The rate of the encoder's new layers, over the one of its base."""
STUDENT_BASE, ENCODER_BASE = "smollm2-135m", "minilm"
COLUMNS = (VALIDATION, HELD_OUT, "crossner_ai", "crossner_literature", "crossner_music", "mit_movie")


@dataclass(frozen=True)
class Job:
    """A model to train and to score. rate: of learning; None is the chosen one."""

    system: str
    arm: str = CHOSEN_ON
    seed: int = 0
    rate: float | None = None

    @property
    def name(self) -> str:
        """Its name, which is that of its files."""
        tried = "" if self.rate is None else f"-at-{self.rate:g}"
        return f"{self.system}-{self.arm}-{self.seed}{tried}"


def run_job(folder: Path, job: Job, settings: Sequence[str] = ()) -> None:
    """Train and score one model. Its result is written once it is whole."""
    work = folder / "work" / job.name
    words = [str(folder / CONFIG), f"run.root={folder / 'work'}", f"run.name={job.name}"]
    words += [f"run.seed={job.seed}", f"student.base={folder / STUDENT_BASE}"]
    words += [f"encoder.base={folder / ENCODER_BASE}", *words_of_arm(job.arm), *words_of_rate(folder, job)]
    steps = json.loads((folder / STEPS).read_text()).get(job.arm)
    words += [f"train.max_steps={steps}"] if steps else []
    config = load([*words, *settings])
    shutil.copytree(folder / job.arm / "build", work / "build", dirs_exist_ok=True)
    started = time.monotonic()
    figures = _trained(folder, job, config)
    trained = time.monotonic()
    result: dict[str, Any] = {
        "rate": job.rate if job.rate is not None else _chosen_rate(folder, job.system),
        "training": figures,
        "scores": {},
        "answers": {},
        "seconds": {"training": round(trained - started, 1)},
    }
    predictions, result["answers"] = _predictions(folder, job, config)
    result["scores"] = {
        name: scored.without_examples().to_json() for name, scored in score(predictions).items()
    }
    result["seconds"]["answers"] = round(time.monotonic() - trained, 1)
    written = result_file(folder, job.name)
    pq.write_table(to_table(predictions, PREDICTION), written.with_suffix(ANSWERS), compression="zstd")
    written.with_suffix(".part").write_text(json.dumps(result, indent=1), encoding="utf-8")
    written.with_suffix(".part").rename(written)
    if job.system != "encoder":  # whose samples GLiNER's trainer gets
        shutil.rmtree(work)


def result_file(folder: Path, name: str) -> Path:
    """Return where a job's result is, or will be."""
    return folder / RESULTS / f"{name}.json"


def words_of_arm(arm: str) -> list[str]:
    """Return the settings of an arm as words of a command."""
    return [f"{name}={value}" for name, value in ARMS[arm].items()]


def words_of_rate(folder: Path, job: Job) -> list[str]:
    """Return the settings of a job's learning rate, the chosen one if it names none."""
    system = "encoder" if job.system == "gliner" else job.system
    rate = _chosen_rate(folder, system) if job.rate is None else job.rate
    if rate is None:
        return []
    words = [f"{'encoder' if system == 'encoder' else 'train'}.learning_rate={rate}"]
    return words + ([f"encoder.head_learning_rate={HEAD_FACTOR * rate}"] if system == "encoder" else [])


def tried_as(folder: Path, job: Job) -> Job | None:
    """Return the finished job that tried a rate and is this one, whose rate was chosen after it."""
    if job.rate is not None or job.seed or job.arm != CHOSEN_ON:
        return None
    rate = _chosen_rate(folder, job.system)
    return None if rate is None else Job(job.system, rate=rate)


def _chosen_rate(folder: Path, system: str) -> float | None:
    """Return the rate with the best F1 on the validation passages; None if none was tried."""
    found = {}
    for rate in RATES.get(system, ()):
        tried = result_file(folder, Job(system, rate=rate).name)
        if tried.exists():
            found[rate] = json.loads(tried.read_text())["scores"][VALIDATION]["f1"]
    return max(found, key=lambda rate: found[rate]) if found else None


class _Session:
    """A training process alone: nobody to report to, and no machine is taken away."""

    def preempted(self) -> bool:
        return False

    def report(self, step: int, steps: int, note: str) -> None: ...

    def say(self, line: str) -> None:
        say(line)

    def measure(self, figures: Mapping[str, float]) -> None: ...

    def checkpointed(self, seconds: float) -> None: ...


def _trained(folder: Path, job: Job, config: Config) -> dict[str, Any]:
    """Train by the stage's worker, in this process. Returns its figures."""
    run, on_gpu = run_folder(config.run.root, config.run.name), torch.cuda.is_available()
    if job.system == "base":
        return {}
    if job.system == "gliner":
        from benchmarks.gliner_peer import train_gliner

        same = Job("encoder", seed=job.seed)
        encoder = (tried_as(folder, same) or same).name
        steps = json.loads(result_file(folder, encoder).read_text())["training"]["steps"]
        ours = own_model(run_folder(config.run.root, encoder), "encoder").url
        shutil.copytree(ours, own_model(run, "encoder").url)
        _, threshold = train_gliner(config, steps, Path(run.url) / "gliner")
        return {"steps": steps, "threshold": threshold}
    dist.init_process_group("nccl" if on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    if job.system == "student":
        result: Any = worker.train(train_job(config, run, use_gpu=on_gpu), _Session())
    else:
        section = config.encoder.model_copy(update={"use_gpu": on_gpu})
        assert section.base
        of_encoder = EncoderJob(
            student=config.student, encoder=section, seed=config.run.seed, run=run, base_address=section.base
        )
        result = encoder_worker.train(of_encoder, _Session())
    dist.destroy_process_group()
    gc.collect()
    torch.cuda.empty_cache()
    if result.error:
        raise UserError(result.error)
    return dict(vars(result.figures))


def train_job(config: Config, run: StageFolder, *, use_gpu: bool) -> TrainJob:
    """Return the job of the training worker."""
    return TrainJob(
        student=config.student,
        train=config.train.model_copy(update={"use_gpu": use_gpu}),
        seed=config.run.seed,
        run=run,
        base_address=config.student.base,
        max_answer_tokens=config.engine.max_answer_tokens,
    )


def _predictions(folder: Path, job: Job, config: Config) -> tuple[list[Prediction], dict[str, float]]:
    """Have a model answer all questions, in the largest batches. Returns also the counts of the answers."""
    questions = [
        question
        for dataset in COLUMNS
        if (path := folder / GOLD / f"{dataset}.parquet").exists()
        for question in from_table(pq.read_table(path), Question)
    ]
    asked = [list(group) for _, group in itertools.groupby(questions, key=_passage)]
    answers = asyncio.run(
        _system(job, config).ask_all([(group[0].text, [each.type for each in group]) for group in asked])
    )
    replies = [reply for answer in answers for reply in answer.answers]
    found = [prediction(*pair) for pair in zip(questions, replies, strict=True)]
    return found, merge([each.figures for each in answers])


def _passage(question: Question) -> tuple[str, str, str]:
    return question.dataset, question.passage_id, question.text


def _system(job: Job, config: Config) -> Any:
    """Load a trained model, or the base."""
    run, on_gpu = run_folder(config.run.root, config.run.name), torch.cuda.is_available()
    if job.system in ("student", "base"):
        engine = TorchEngine(
            own_model(run, "student").url if job.system == "student" else config.student.base,
            max_prompt_tokens=config.student.max_tokens,
            max_answer_tokens=config.engine.max_answer_tokens,
            device=torch.device("cuda" if on_gpu else "cpu"),
        )
        template = make_template(config.student.template, config.student.group_types)
        return WindowedSystem(QuestionAsker(engine, template))
    model = own_model(run, "encoder").url
    facts = find_student_facts(model)
    threshold = facts.threshold if facts else None
    if job.system == "gliner":
        model = str(Path(run.url) / "gliner" / "model")
        threshold = json.loads((Path(run.url) / "gliner" / "threshold.json").read_text())
    kept = ENCODER_THRESHOLD if threshold is None else threshold
    return start_encoder(model, EncoderSettings(threshold=kept, on_gpu=on_gpu))


def run_logged(folder: Path, job: Job, settings: Sequence[str]) -> None:
    """Run a job in a process of its own; what it prints goes to its log file."""
    with log_file(folder, job).open("w") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    try:
        run_job(folder, job, settings)
    except UserError as error:
        sys.exit(str(error))


def log_file(folder: Path, job: Job) -> Path:
    """Return the file of what a job prints."""
    return folder / RESULTS / f"{job.name}.log"
