"""The train stage: conversations to the student, by Ray Train.

`worker.py` has the work of each training process. torch is imported only once the config is checked.
"""

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from uniner.config.schema import Encoder, Train
from uniner.errors import MissingLibraryError, UserError
from uniner.inference.engine import EngineSettings
from uniner.runtime import chunk_pipeline, trainer
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import explained, is_remote
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.model_folders import (
    load_tokenizer,
    model_address,
    model_digest,
    require_end_token,
    require_model,
    student_facts,
)
from uniner.storage.stage_folder import StageFolder
from uniner.templates import make_template
from uniner.train import CHECKPOINTS, OUT_OF_MEMORY, SAMPLES

if TYPE_CHECKING:
    from uniner.train.export import TrainFigures
    from uniner.train.export_check import ExportAnswer
    from uniner.train.prepare import TrainJob

SECTIONS = ("student", "train", "engine")
_ON_GPUS = ("flex_attention", "flash_attention_2", "flash_attention_3")
"""Kinds of attention that no CPU computes in training."""

log = logging.getLogger(__name__)


def check(context: StageContext) -> None:
    """Check the base model and the settings, and compare them with those the stage began with."""
    _check_job(context)
    context.folder.check_identity(_identity(context, parents={}))
    if missing := [*_missing_libraries(context.sections.train)]:
        raise MissingLibraryError(missing[0])


def parents(_context: StageContext) -> list[str]:
    """Return build, whose conversations are trained on."""
    return ["build"]


def run(context: StageContext) -> Manifest:
    """Train the student and export it to `<run>/train/student/`. Returns the manifest."""
    started = time.monotonic()
    train, folder, build = context.sections.train, context.folder, context.run_folder / "build"
    identity = _identity(context, {"build": build.digest()})
    if manifest := folder.begin(identity):
        remove_checkpoints(folder)  # a run may end between writing the manifest and removing them
        return chunk_pipeline.log_complete("train", manifest, "conversations", folder)
    figures = _train(context, identity)
    results = {"check": asdict(_check_export(context, build))} if train.check_export else {}
    from uniner.train.loop import as_figures

    manifest = replace(
        Manifest.of(
            identity,
            [],
            time.monotonic() - started,
            results=results,
            content=dict(student_facts((folder / "student").url).files),
        ),
        rows=figures.conversations,
        figures=as_figures(figures),
    )
    folder.write_manifest(manifest)
    remove_checkpoints(folder)
    _log_done(figures, manifest.seconds, folder)
    return manifest


def estimate(context: StageContext) -> str:
    """Return what training would take: tokens, steps, memory, time and price, from the conversations."""
    from uniner.train.prepare import estimate_job

    _check_job(context)
    (context.run_folder / "build").require_manifest()
    for line in _missing_libraries(context.sections.train):
        log.warning(f"{line}; this machine, which only estimates, lacks it")
    return estimate_job(train_job(context)).text()


def _check_job(context: StageContext) -> None:
    """Check the settings and the base model, for a run and for an estimate."""
    base = context.sections.student.base
    _check_settings(context.sections.train, context.sections.student.max_tokens)
    require_model(base, setting="student.base")
    if not is_remote(base):  # a remote model would be copied here whole
        require_end_token(f"student.base {base}", load_tokenizer(base))


def _check_settings(train: Train, max_tokens: int) -> None:
    if train.pack_tokens is not None and train.pack_tokens < max_tokens:
        raise UserError(
            f"train.pack_tokens = {train.pack_tokens} is below student.max_tokens = {max_tokens}, "
            f"so no row could hold the longest conversation; set train.pack_tokens={max_tokens} or more, "
            "or remove it"
        )
    fixed = train.fewest_workers if train.fewest_workers == train.most_workers else 0
    if train.shard_workers and (not fixed or fixed % train.shard_workers):
        raise UserError(
            f"train.shard_workers = {train.shard_workers} must divide train.workers = {train.workers}, "
            "a fixed number"
        )
    if train.attention in _ON_GPUS and not train.use_gpu:
        raise UserError(
            f"train.attention = {train.attention} trains only on GPUs; set train.attention=auto on CPU"
        )
    if train.lora_bits and not train.lora_rank:
        raise UserError("train.lora_bits needs adapters; set train.lora_rank too, such as train.lora_rank=16")
    if train.float8:
        _check_float8(train)


def _check_float8(train: Train) -> None:
    if not train.use_gpu:
        raise UserError("train.float8 trains only on GPUs; remove it, or set train.use_gpu=true")
    if train.dtype != "bfloat16":
        raise UserError(
            f"train.float8 rounds what is in bfloat16, not train.dtype = {train.dtype}; remove one"
        )
    if train.lora_rank:
        raise UserError(
            f"train.float8 is for training all weights, not adapters (train.lora_rank = {train.lora_rank}): "
            "their products are small, and the layers beside them are frozen; remove one of the two"
        )


def _missing_libraries(train: Train) -> Iterator[str]:
    """Yield a line for each library that the settings need and that is not installed here."""
    needed = {
        "torchao": train.float8 and "train.float8 = true",
        "bitsandbytes": train.lora_bits and f"train.lora_bits = {train.lora_bits}",
        train.tracker: train.tracker and f"train.tracker = {train.tracker}",
    }
    for name, setting in needed.items():
        if name and setting and importlib.util.find_spec(name) is None:
            yield f"{setting} needs the library {name}: pip install {name}, on every node"


def remove_checkpoints(folder: StageFolder) -> None:
    """Remove what a run needs only until its model is written."""
    with explained(folder.url):
        folder.remove([SAMPLES])
        for name in (CHECKPOINTS, trainer.RAY_FOLDER):
            if (folder / name).tree():
                (folder / name).remove_all()


def _identity(context: StageContext, parents: dict[str, str | None]) -> Identity:
    section, train = context.sections.student, context.sections.train.identity()
    student = section.identity()
    del student["base"], student["group_types"]  # the base counts by its content: its folder may be moved
    student |= section.template_identity()
    if not train["float8"]:
        del train["float8"]  # so that runs from before it go on
    if not train["lora_rank"]:
        train = {name: value for name, value in train.items() if not name.startswith("lora_")}
    return Identity(
        stage="train",
        settings={"run": {"seed": context.seed}, "student": student, "train": train},
        inputs={"student.base": model_digest(section.base)},
        parents=parents,
    )


def train_job(context: StageContext, identity: Identity | None = None) -> "TrainJob":
    """Return the workers' job; an estimate needs no identity."""
    from uniner.train.prepare import TrainJob

    student, run = context.sections.student, context.run_folder
    base_address = model_address(student.base)
    return TrainJob(
        student=student,
        train=context.sections.train,
        seed=context.seed,
        run=run,
        base_address=base_address,
        max_answer_tokens=context.sections.engine.max_answer_tokens,
        source=identity.digest() if identity else "",
    )


def _train(context: StageContext, identity: Identity) -> "TrainFigures":
    from uniner.train import worker

    job = train_job(context, identity)
    return run_workers("train", worker.train, job, context.folder, context.sections.train)


def run_workers(
    name: str, train: Callable[..., Any], job: Any, folder: StageFolder, section: Train | Encoder
) -> Any:
    """Run a training function on a section's workers. Returns the figures of its result.

    Raises:
        UserError: the error of the result.
    """
    with explained(folder.url):
        folder.remove([OUT_OF_MEMORY])  # an earlier driver's: its settings may have been others
    result = trainer.run_training(
        train,
        job,
        folder=folder,
        workers=section.workers,
        use_gpu=section.use_gpu,
        max_failures=section.max_failures,
        section="encoder" if isinstance(section, Encoder) else "train",
        progress=name,
    )
    if result.error:
        raise UserError(result.error)
    return result.figures


def _check_export(context: StageContext, build: StageFolder) -> "ExportAnswer":
    """Ask the exported student a question in vLLM."""
    from uniner.train import export_check

    section, student = context.sections.student, (context.folder / "student").url
    template = make_template(section.template, section.group_types)
    passage, types = export_check.first_question(build, template)
    engine = context.sections.engine
    if not context.sections.train.use_gpu:
        engine = engine.model_copy(update={"gpus": 0})
    answer = trainer.run_in_own_process(
        "train",
        export_check.ask,
        student,
        template,
        passage,
        types,
        EngineSettings.of(engine, max_prompt_tokens=section.max_tokens),
        cpus=engine.cpus,
        gpus=engine.gpus,
        crashed=export_check.failed(student, "its process died; see the lines above"),
    )
    first = answer.replies[0]
    log.info(f"train: vLLM loads the student; asked for {first.type}, it answers {first.text[:80]!r}")
    return answer


def _log_done(figures: "TrainFigures", seconds: float, folder: StageFolder) -> None:
    measured = "" if figures.validation_loss is None else f", validation {figures.validation_loss:.4f}"
    if figures.validation_f1 is not None:
        questions = f"{figures.validation_questions:,} validation questions"
        measured += f" and F1 {figures.validation_f1:.3f} on {questions}"
    log.info(
        f"train: {figures.steps:,} steps over {figures.conversations:,} conversations, "
        f"loss {figures.first_loss:.4f} to {figures.last_loss:.4f}{measured}, "
        f"{figures.tokens_per_s:,.0f} tokens/s, in {seconds:,.0f} s; output in {folder.url}"
    )
