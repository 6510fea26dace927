"""The stage train-encoder: conversations to the encoder, by Ray Train.

It has a folder of its own beside the generative student's, so that it can be added to a finished run. torch
is imported only once the config is checked.
"""

import logging
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from uniner.errors import UserError
from uniner.runtime import chunk_pipeline
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import is_remote
from uniner.storage.folder import Folder
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.model_folders import (
    find_student_facts,
    model_address,
    model_digest,
    read_text_encoder,
    require_model,
    student_facts,
)
from uniner.train.stage import remove_checkpoints, run_workers

if TYPE_CHECKING:
    from uniner.train.encoder.worker import EncoderFigures, EncoderJob

SECTIONS = ("student", "encoder", "train")
"""Of train, the estimate takes the price of a GPU and its speed."""

log = logging.getLogger(__name__)


def check(context: StageContext) -> None:
    """Check the base and the settings, and compare them with those the stage began with."""
    if context.sections.encoder.base is None:
        return
    _check_job(context)
    context.folder.check_identity(_identity(context, parents={}))


def _check_job(context: StageContext) -> None:
    """Check the settings and the base, for a run and for an estimate."""
    section = context.sections.encoder
    assert section.base, "checked"
    if section.shard_workers and section.workers % section.shard_workers:
        raise UserError(
            f"encoder.shard_workers = {section.shard_workers} must divide encoder.workers = {section.workers}"
        )
    choosing = {"encoder.patience": section.patience, "encoder.export = best": section.export == "best"}
    if not section.eval_passages and any(choosing.values()):
        named = " and ".join(setting for setting, chosen in choosing.items() if chosen)
        raise UserError(
            f"encoder.eval_passages = 0 measures no F1, which {named} goes by; set "
            "encoder.eval_passages=500, or encoder.export=last and no encoder.patience"
        )
    if _digest_of_trained(context) is None:
        require_model(section.base, setting="encoder.base")
        if not is_remote(section.base):  # a remote model would be copied here whole
            read_text_encoder(section.base, model_address(section.base))


def estimate(context: StageContext) -> str:
    """Return what training would take: steps, tokens, memory, time and price, from the conversations."""
    from uniner.train.encoder.estimate import estimate_job

    train = context.sections.train
    if context.sections.encoder.base is None:
        raise UserError("encoder.base is not set; set it, such as encoder.base=answerdotai/ModernBERT-base")
    _check_job(context)
    (context.run_folder / "build").require_manifest()
    return estimate_job(encoder_job(context), train.share_of_peak, train.usd_per_gpu_hour).text()


def parents(context: StageContext) -> list[str]:
    """Return build, whose conversations are trained on."""
    return ["build"] if context.sections.encoder.base else []


def run(context: StageContext) -> Manifest | None:
    """Train the encoder and export it to `<run>/train-encoder/encoder/`. Returns the manifest; None without
    encoder.base."""
    section, folder, build = context.sections.encoder, context.folder, context.run_folder / "build"
    if section.base is None:
        log.info("train-encoder: skipped, encoder.base is not set")
        return None
    started = time.monotonic()
    identity = _identity(context, {"build": build.digest()})
    if manifest := folder.begin(identity):
        remove_checkpoints(folder)
        return chunk_pipeline.log_complete("train-encoder", manifest, "passages", folder)
    figures = _train(context)
    manifest = replace(
        Manifest.of(
            identity,
            [],
            time.monotonic() - started,
            content=dict(student_facts((folder / "encoder").url).files),
        ),
        rows=figures.passages,
        figures={name: value for name, value in asdict(figures).items() if value is not None},
    )
    folder.write_manifest(manifest)
    remove_checkpoints(folder)
    measured = "" if figures.validation_f1 is None else f", validation F1 {figures.validation_f1:.3f}"
    log.info(
        f"train-encoder: {figures.steps:,} steps over {figures.passages:,} passages, loss "
        f"{figures.first_loss:.4f} to {figures.last_loss:.4f}{measured} (step {figures.exported_step:,}), "
        f"{figures.tokens_per_s:,.0f} tokens/s, in {manifest.seconds:,.0f} s; output in {folder.url}"
    )
    if figures.validation_f1 == 0:
        log.warning(
            "train-encoder: the encoder finds no entity of the validation passages; train it longer "
            "(encoder.epochs), at another rate (encoder.learning_rate), or from a pretrained base "
            "(encoder.base=answerdotai/ModernBERT-base)"
        )
    return manifest


def _train(context: StageContext) -> "EncoderFigures":
    from uniner.train.encoder import worker

    job, section = encoder_job(context), context.sections.encoder
    return run_workers("train-encoder", worker.train, job, context.folder, section)


def encoder_job(context: StageContext) -> "EncoderJob":
    """Return the workers' job."""
    from uniner.train.encoder.worker import EncoderJob

    section = context.sections.encoder
    assert section.base, "checked"
    return EncoderJob(
        student=context.sections.student,
        encoder=section,
        seed=context.seed,
        run=context.run_folder,
        base_address=model_address(section.base),
    )


def _identity(context: StageContext, parents: dict[str, str | None]) -> Identity:
    section, student = context.sections.encoder, context.sections.student
    settings = section.identity()
    base = settings.pop("base")  # by its content: its folder may be moved, or deleted once it is trained
    template = student.template_identity()
    return Identity(
        stage="train-encoder",
        settings={"run": {"seed": context.seed}, "student": template, "encoder": settings},
        inputs={"encoder.base": _digest_of_trained(context) or model_digest(base)},
        parents=parents,
    )


def _digest_of_trained(context: StageContext) -> str | None:
    """Return the digest that the base had, where the encoder is trained from it and it is gone; else None."""
    base, folder = context.sections.encoder.base, context.folder
    manifest = folder.manifest()
    if base is None or manifest is None or Folder(base).exists("config.json"):
        return None
    facts = find_student_facts((folder / "encoder").url)
    return manifest.identity.inputs["encoder.base"] if facts and facts.base == base else None
