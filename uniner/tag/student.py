"""What tags: this run's student, its encoder, or a model that others trained; how it is asked and run."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from uniner.config.schema import Tag
from uniner.errors import UserError
from uniner.inference.engine import EngineSettings
from uniner.inference.fp8_gate import require_f1, require_f1_of_training
from uniner.inference.questions import start_asker
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import absolute
from uniner.storage.folder import Folder
from uniner.storage.model_folders import (
    ENCODER,
    FACTS,
    StudentFacts,
    calibration_of,
    facts_or,
    find_student_facts,
    is_encoder,
    model_address,
    model_digest,
    student_facts,
)
from uniner.tag.tagger import EncoderWorker, EntityRules, PassageTagger, Tagger
from uniner.tag.types import TypeSelection, read_types, select_types
from uniner.templates import Template, make_template

_OWN = {"student": ("train", "student"), "encoder": ("train-encoder", "encoder")}
"""This run's models by their names in tag.student: their stage and their folder in it."""
_ENCODER_THRESHOLD = 0.5  # GLiNER's
_CALIBRATED_FROM = 0.05  # raw scores below are not worth calibrating: the overlap rules come later


def is_own(context: StageContext) -> bool:
    """Tell whether a model of this run tags."""
    return context.sections.tag.student in _OWN


def student_address(context: StageContext) -> str:
    """Return the address of what tags."""
    named = context.sections.tag.student
    if named not in _OWN:
        return model_address(named)
    stage, folder = _OWN[named]
    return (context.run_folder / stage / folder).url


def student_exists(context: StageContext) -> bool:
    """Tell whether what tags is there; this run's may still be trained."""
    return not is_own(context) or Folder(student_address(context)).exists(FACTS)


def require_trained(context: StageContext) -> None:
    """Check that this run's model is trained, where it is that which tags."""
    if is_own(context):
        (context.run_folder / _OWN[context.sections.tag.student][0]).require_manifest()


def tags_by_encoder(context: StageContext) -> bool:
    """Tell whether what tags is an encoder."""
    named = context.sections.tag.student
    return named == "encoder" or (named != "student" and is_encoder(student_address(context)))


def read_facts(context: StageContext) -> StudentFacts:
    """Return how what tags is asked. A model that others trained has no facts: the config says it."""
    address, section = student_address(context), context.sections.student
    if is_own(context):
        return student_facts(address)
    if tags_by_encoder(context):
        return find_student_facts(address) or StudentFacts(
            template=ENCODER, max_tokens=0, base=address, types=()
        )
    return facts_or(address, section.template, section.group_types, section.max_tokens)


def selected_types(tag: Tag, facts: StudentFacts) -> TypeSelection:
    """Return the types to ask for."""
    file = read_types(absolute(tag.types_file)) if tag.types_file else []
    return select_types(tag.types, file, tag.top_types, tag.types_of_source, facts.types)


def require_f1_of_8_bits(context: StageContext, student: str) -> None:
    """Check what 8 bits cost in F1, of the engine and of the student's training."""
    if tags_by_encoder(context):
        return
    evaluate, engine = context.run_folder / "evaluate", context.sections.engine
    require_f1(evaluate, model_digest(student), engine)
    require_f1_of_training(evaluate, student, context.sections.tag.float8_reference, engine)


def entity_rules(context: StageContext, facts: StudentFacts) -> EntityRules:
    """Return which entities are kept. What is not set depends on the kind of model."""
    tag, by_encoder = context.sections.tag, facts.template == ENCODER
    calibrated = calibration_of(student_address(context), tag.calibration) if tag.calibration else None
    lowest = 0.0
    if by_encoder:
        known = None if calibrated else facts.threshold
        lowest = _ENCODER_THRESHOLD if known is None else known
    return EntityRules(
        occurrences=tag.occurrences,
        min_score=lowest if tag.min_score is None else tag.min_score,
        keep_ungrounded=tag.ungrounded == "keep",
        overlaps=tag.overlaps or ("flat" if by_encoder else "keep"),
        min_score_of_type=tag.min_score_of_type,
        calibration=calibrated,
    )


def rules_identity(rules: EntityRules) -> dict[str, Any]:
    """Return what of the rules decides the entities, in the words of runs from before there were more."""
    stated = asdict(rules)
    overlaps, of_type = stated.pop("overlaps"), stated.pop("min_score_of_type")
    stated["flat"] = overlaps == "flat"
    if overlaps in ("longest", "nested"):
        stated["overlaps"] = overlaps
    return {**stated, **({"min_score_of_type": of_type} if of_type else {})}


def asking_identity(context: StageContext, facts: StudentFacts) -> dict[str, Any]:
    """Return what of the settings decides the answers, besides the model and the types."""
    engine = context.sections.engine
    if facts.template == ENCODER:
        return {"encoder": {"dtype": engine.dtype, "types_per_pass": context.sections.tag.types_per_pass}}
    return {
        "student": {"template": facts.template, "max_tokens": context.sections.student.max_tokens},
        "engine": engine.identity(),
    }


def worker_of(
    context: StageContext, facts: StudentFacts, types: TypeSelection, rules: EntityRules
) -> tuple[Callable[[], Tagger], int]:
    """Return what starts the model and its worker in an actor, and the number of questions a passage."""
    student = student_address(context)
    if facts.template == ENCODER:
        return partial(make_encoder_worker, encoder_starter(context, rules), types, rules), 1
    template = make_template(facts.template, facts.group_types)
    make = partial(make_tagger, student, template, types, rules, engine_settings(context))
    return make, len(template.groups(types.everywhere))


def make_tagger(
    model: str, template: Template, types: TypeSelection, rules: EntityRules, settings: EngineSettings
) -> Tagger:
    """Start an engine in this process and return the worker that asks it."""
    return Tagger(start_asker(model, template, settings), types, rules)


def encoder_starter(context: StageContext, rules: EntityRules) -> Callable[[], PassageTagger]:
    """Return what loads the encoder in a process."""
    from uniner.inference.encoder import EncoderSettings, start_encoder

    engine = context.sections.engine
    settings = EncoderSettings(
        threshold=_CALIBRATED_FROM if rules.calibration else rules.min_score,
        threshold_of_type={} if rules.calibration else dict(rules.min_score_of_type),
        types_per_pass=context.sections.tag.types_per_pass,
        batch_tokens=engine.max_num_batched_tokens,
        on_gpu=engine.gpus > 0,
        dtype=engine.dtype,
        threads=max(1, int(engine.cpus)),
    )
    return partial(start_encoder, student_address(context), settings)


def make_encoder_worker(
    start: Callable[[], PassageTagger], types: TypeSelection, rules: EntityRules
) -> Tagger:
    """Load an encoder in this process and return the worker that tags with it."""
    return EncoderWorker(start(), types, rules)


def engine_settings(context: StageContext) -> EngineSettings:
    """Return the settings of the engine that a generative student runs in."""
    max_prompt_tokens = context.sections.student.max_tokens
    return EngineSettings.of(context.sections.engine, max_prompt_tokens=max_prompt_tokens)


def check_encoder_settings(context: StageContext) -> None:
    """Refuse settings of engines that an encoder does not have."""
    engine = context.sections.engine
    if not tags_by_encoder(context):
        return
    if engine.quantization or engine.kv_cache_dtype:
        raise UserError(
            "engine.quantization and engine.kv_cache_dtype are vLLM's; an encoder has neither: remove them, "
            "and set engine.dtype=float16 for half of float32's memory"
        )
    if engine.gpus > 1:
        raise UserError(f"engine.gpus = {engine.gpus:g}: an encoder runs on one GPU; set engine.gpus=1")
