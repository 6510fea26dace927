"""Engines that compute in 8 bits, and what that costs a student in F1. No Ray.

Fewer bits make an engine faster and its answers a little others. How much worse hangs on the student: so
evaluate scores it with such an engine and with a plain one, and tag asks how far F1 falls.
"""

from statistics import fmean
from typing import Any

from uniner.config.schema import Engine
from uniner.errors import UserError
from uniner.storage.filesystem import explained
from uniner.storage.stage_folder import Folder


def plain(engine: Engine) -> Engine:
    """Return the same engine without 8 bits."""
    return engine.model_copy(update={"quantization": None, "kv_cache_dtype": None})


def suffix(engine: Engine) -> str:
    """Return what a system's name has more where this engine answers for it; "" of a plain one."""
    return ("-fp8" if engine.quantization else "") + ("-fp8kv" if engine.kv_cache_dtype else "")


def answering(engine: Engine) -> dict[str, Any]:
    """Return the settings that decide evaluate's answers: all but the second try, which is tag's alone."""
    settings = {**engine.identity(), "retry_answer_tokens": None}
    return {name: value for name, value in settings.items() if value is not None}


def require_f1(evaluate: Folder, student: str, engine: Engine) -> None:
    """Make sure that a student, by its fingerprint, may be asked by an engine: a plain one always.

    Raises:
        UserError: evaluate has not scored it with this engine and a plain one, or F1 falls too far.
    """
    if not suffix(engine):
        return
    named = f"an engine of 8 bits ({suffix(engine).lstrip('-')})"
    with explained(evaluate.url):
        without, with_it = (_f1(evaluate, student, each) for each in (plain(engine), engine))
    both = without.keys() & with_it.keys()
    if not both:
        raise UserError(
            f"tag: {named} needs the student's F1 with it and without, {evaluate.url} has not both; run "
            "evaluate with the same [engine], gold data in evaluate.gold and the student in evaluate.systems"
        )
    before, after = (fmean(found[dataset] for dataset in both) for found in (without, with_it))
    if before - after > engine.max_f1_loss:
        raise UserError(
            f"tag: with {named} F1 falls from {before:.4f} to {after:.4f}, by more than engine.max_f1_loss "
            f"({engine.max_f1_loss:g}); leave out engine.quantization or engine.kv_cache_dtype, or raise that"
        )


def _f1(evaluate: Folder, student: str, engine: Engine) -> dict[str, float]:
    """Return a student's F1 with an engine by data set, as far as it is known."""
    manifest = evaluate.manifest()
    for system, found in (manifest or {"scores": {}})["scores"].items():
        made = (evaluate / system).manifest() or {}
        if made.get("parents", {}).get("model") == student:
            asked = made.get("config", {}).get("engine") or {}
            if {name: value for name, value in asked.items() if value is not None} == answering(engine):
                return {dataset: one["f1"] for dataset, one in found.items()}
    return {}
