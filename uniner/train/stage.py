"""The train stage: conversations to the student, by Ray Train.

`worker.py` has the work of each training process. torch is imported only once the config is checked.
"""

import dataclasses
import importlib.util
import time
from typing import TYPE_CHECKING, Any

from uniner.config.schema import Config, Student, Train
from uniner.errors import Planned, UserError
from uniner.progress import say
from uniner.runtime import chunk_pipeline, trainer
from uniner.storage.filesystem import explained
from uniner.storage.model_folders import model_address, require_model
from uniner.storage.stage_folder import Folder, run_folder
from uniner.templates import template
from uniner.train import CHECKPOINTS

if TYPE_CHECKING:
    from uniner.train.export import TrainFigures
    from uniner.train.prepare import TrainJob


def check(config: Config) -> None:
    """Check the settings before Ray starts.

    Raises:
        UserError: the base model is missing, settings contradict each other, or they differ from those the
            stage began with.
        Planned: only the estimate is asked for and the conversations exist.
    """
    _check_settings(config.train, config.student.max_tokens)
    require_model(config.student.base)
    chunk_pipeline.check_plan(_folder(config), {"stage": "train", "config": _identity(config)})
    if config.train.plan and (run_folder(config.run) / "build").manifest() is not None:
        _print_estimate(config)


def _check_settings(train: Train, max_tokens: int) -> None:
    if train.pack_tokens is not None and train.pack_tokens < max_tokens:
        raise UserError(f"train.pack_tokens = {train.pack_tokens} is below student.max_tokens = {max_tokens}")
    fixed = train.fewest_workers if train.fewest_workers == train.most_workers else 0
    if train.shard_workers and (not fixed or fixed % train.shard_workers):
        raise UserError(
            f"train.shard_workers = {train.shard_workers} must divide train.workers = {train.workers}, "
            "a fixed number"
        )
    if train.attention == "flex_attention" and not train.use_gpu:
        raise UserError(
            "train.attention = flex_attention trains only on GPUs; set train.attention=auto on CPU"
        )
    if train.lora_bits and not train.lora_rank:
        raise UserError("train.lora_bits needs adapters; set train.lora_rank too, such as train.lora_rank=16")
    if train.lora_bits:
        _require_library("bitsandbytes", f"train.lora_bits = {train.lora_bits}")
    if train.tracker:
        _require_library(train.tracker, f"train.tracker = {train.tracker}")


def _require_library(name: str, setting: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{setting} needs the library {name}: pip install {name}, on every node")


def run(config: Config) -> dict[str, Any]:
    """Train the student and export it to `<run>/train/student/`. Returns the manifest.

    Raises:
        Planned: only the estimate is asked for.
    """
    if config.train.plan:
        _print_estimate(config)
    started = time.monotonic()
    train, folder = config.train, _folder(config)
    build = run_folder(config.run) / "build"
    plan = {"stage": "train", "config": _identity(config), "parents": {"build": build.digest()}}
    if folder.begin(plan):
        _remove_checkpoints(folder)  # a run may end between writing the manifest and removing them
        return chunk_pipeline.already_done("train", folder, "conversations")
    trainer.require_workers("train", train.workers, train.use_gpu)
    figures = _train(config, folder)
    checked = {"check": _check_export(config, folder, build)} if train.check_export else {}
    from uniner.train.loop import as_figures

    manifest = folder.finish(
        plan,
        [],
        rows=figures.conversations,
        figures=as_figures(figures),
        seconds=round(time.monotonic() - started, 1),
        **checked,
    )
    _remove_checkpoints(folder)
    _say_done(figures, manifest["seconds"])
    return manifest


def _remove_checkpoints(folder: Folder) -> None:
    for name in (CHECKPOINTS, trainer.RAY_FOLDER):
        with explained(folder.url):
            if (folder / name).tree():
                (folder / name).remove_all()


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "train"


def _identity(config: Config) -> dict[str, Any]:
    return {
        "seed": config.run.seed,
        "student": config.student.identity(),
        "train": config.train.identity(),
    }


def train_job(student: Student, train: Train, seed: int, run: Folder) -> "TrainJob":
    """Return the settings of a run as plain values, for the workers. run: the run's folder."""
    from uniner.train.prepare import TrainJob

    settings = {**train.model_dump(), **student.model_dump()}
    names = {field.name for field in dataclasses.fields(TrainJob)}
    return TrainJob(
        **{name: value for name, value in settings.items() if name in names},
        base_address=model_address(student.base),
        build_url=(run / "build").url,
        folder_url=(run / "train").url,
        seed=seed,
        fewest_workers=train.fewest_workers,
        most_workers=train.most_workers,
        tracked={"base": student.base, "seed": seed, **train.identity()},
    )


def _job(config: Config) -> "TrainJob":
    return train_job(config.student, config.train, config.run.seed, run_folder(config.run))


def _print_estimate(config: Config) -> None:
    from uniner.train.prepare import estimate_job

    print(estimate_job(_job(config)).text(), flush=True)
    raise Planned


def _train(config: Config, folder: Folder) -> "TrainFigures":
    from uniner.train import worker

    result = trainer.run_training(
        worker.train,
        _job(config),
        folder=folder,
        workers=config.train.workers,
        use_gpu=config.train.use_gpu,
        max_failures=config.train.failures,
        progress="train",
    )
    if result.error:
        raise UserError(result.error)
    return result.figures


def _check_export(config: Config, folder: Folder, build: Folder) -> dict[str, Any]:
    """Ask the exported student a question in vLLM. Returns the passage and the replies."""
    from uniner.tag.stage import engine_settings
    from uniner.train import export_check

    student = (folder / "student").url
    form = template(config.student.template, config.student.group_types)
    passage, types = export_check.first_question(build, form)
    engine = config.engine if config.train.use_gpu else config.engine.model_copy(update={"gpus": 0})
    answered = trainer.run_in_own_process(
        export_check.ask,
        student,
        form,
        passage,
        types,
        engine_settings(engine, config.student.max_tokens),
        cpus=engine.cpus,
        gpus=engine.gpus,
        crashed=export_check.failed(student, "its process died; see the lines above"),
    )
    reply = answered["replies"][0]
    say(f"train: vLLM loads the student; asked for {reply['type']}, it answers {reply['text'][:80]!r}")
    return answered


def _say_done(figures: "TrainFigures", seconds: float) -> None:
    measured = "" if figures.validation_loss is None else f", validation {figures.validation_loss:.4f}"
    if figures.validation_f1 is not None:
        questions = f"{figures.validation_questions:,} validation questions"
        measured += f" and F1 {figures.validation_f1:.3f} on {questions}"
    say(
        f"train: {figures.steps:,} steps over {figures.conversations:,} conversations, "
        f"loss {figures.first_loss:.4f} to {figures.last_loss:.4f}{measured}, "
        f"{figures.tokens_per_s:,.0f} tokens/s, in {seconds:,.0f} s"
    )
