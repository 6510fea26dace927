"""The gate for computing in 8 bits, in an engine or in training: how far it may lower a student's F1.

Fewer bits are faster and change the answers a little. How much that costs depends on the student. So evaluate
scores the student with such an engine and with a plain one, and a student trained in 8 bits beside one that
was not; tag checks how far F1 falls.
"""

from statistics import fmean
from typing import Any

from uniner.config.schema import EngineSection
from uniner.errors import UserError
from uniner.storage.filesystem import explained
from uniner.storage.model_folders import find_student_facts, model_address, model_digest
from uniner.storage.stage_folder import StageFolder


def without_fp8(engine: EngineSection) -> EngineSection:
    """Return the same engine without 8 bits."""
    return engine.model_copy(update={"quantization": None, "kv_cache_dtype": None})


def fp8_suffix(engine: EngineSection) -> str:
    """Return what is appended to a system's name when this engine answers for it; "" for a plain engine."""
    return ("-fp8" if engine.quantization else "") + ("-fp8kv" if engine.kv_cache_dtype else "")


def answer_identity(engine: EngineSection) -> dict[str, Any]:
    """Return the settings that decide evaluate's answers: all but the retry, which only tag has."""
    settings = {**engine.identity(), "retry_answer_tokens": None}
    return {name: value for name, value in settings.items() if value is not None}


def require_f1(evaluate: StageFolder, student: str, engine: EngineSection) -> None:
    """Check that this engine may answer for a student, named by its digest. A plain engine always may.

    Raises:
        UserError: evaluate has not scored the student both with this engine and with a plain one, or F1 falls
            by more than engine.max_f1_loss.
    """
    if not fp8_suffix(engine):
        return
    name = f"an engine of 8 bits ({fp8_suffix(engine).lstrip('-')})"
    with explained(evaluate.url):
        plain, fp8 = (_f1(evaluate, student, settings) for settings in (without_fp8(engine), engine))
    means = _means(plain, fp8)
    if means is None:
        raise UserError(
            f"tag: {name} needs the student's F1 with and without 8 bits, and {evaluate.url} does not have "
            "both; run evaluate with the same [engine], gold data in evaluate.gold and the student in "
            "evaluate.systems"
        )
    before, after = means
    if before - after > engine.max_f1_loss:
        raise UserError(
            f"tag: with {name} F1 falls from {before:.4f} to {after:.4f}, by more than engine.max_f1_loss "
            f"({engine.max_f1_loss:g}); remove engine.quantization or engine.kv_cache_dtype, or raise "
            "engine.max_f1_loss"
        )


def require_f1_of_training(
    evaluate: StageFolder, student: str, reference: str | None, engine: EngineSection
) -> None:
    """Check that a student may tag. One that was not trained in 8 bits always may.

    student, reference: addresses; the reference is a student trained without them.

    Raises:
        UserError: evaluate has not scored both, or the student's F1 is below the reference's by more than
            engine.max_f1_loss, or the reference was trained in 8 bits too.
    """
    facts = find_student_facts(student)
    if not facts or not facts.float8:
        return
    if reference is None:
        raise UserError(
            f"tag: {student} was trained with train.float8; name a student trained without it, such as "
            "tag.float8_reference=runs/plain/train/student, and score both (evaluate.systems)"
        )
    address = model_address(reference)
    known = find_student_facts(address)
    if known and known.float8:
        raise UserError(
            f"tag.float8_reference = {reference}: it was trained with train.float8 too; name a student "
            "trained without it"
        )
    plain_engine = without_fp8(engine)
    with explained(evaluate.url):
        plain, fp8 = (_f1(evaluate, model_digest(name), plain_engine) for name in (address, student))
    means = _means(plain, fp8)
    if means is None:
        raise UserError(
            f"tag: a student trained with train.float8 needs its F1 and that of {reference}, and "
            f"{evaluate.url} does not have both; run evaluate with gold data in evaluate.gold and both in "
            "evaluate.systems"
        )
    before, after = means
    if before - after > engine.max_f1_loss:
        raise UserError(
            f"tag: trained with train.float8 the student has F1 {after:.4f}, and {reference} {before:.4f}: "
            f"lower by more than engine.max_f1_loss ({engine.max_f1_loss:g}); train without it, or raise "
            "engine.max_f1_loss"
        )


def _means(plain: dict[str, float], fp8: dict[str, float]) -> tuple[float, float] | None:
    """Return the mean F1 of each over the data sets that both have; None where there are none."""
    datasets = plain.keys() & fp8.keys()
    if not datasets:
        return None
    return fmean(plain[name] for name in datasets), fmean(fp8[name] for name in datasets)


def _f1(evaluate: StageFolder, student: str, engine: EngineSection) -> dict[str, float]:
    """Return a student's F1 with an engine by data set; empty where evaluate has not scored it."""
    manifest = evaluate.manifest()
    for system, scores in (manifest.results["scores"] if manifest else {}).items():
        answered = (evaluate / system).manifest()
        if answered and answered.identity.parents.get("model") == student:
            settings = answered.identity.settings.get("engine") or {}
            settings = {name: value for name, value in settings.items() if value is not None}
            if settings == answer_identity(engine):
                return {dataset: score["f1"] for dataset, score in scores.items()}
    return {}
