"""What tags: this run's student, its encoder, or a model that others trained; how it is asked and run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from uniner.config.room import require_room_for_answers
from uniner.config.schema import Tag
from uniner.errors import UserError
from uniner.inference.encoder_settings import EncoderSettings, require_room_for_types, start_encoder
from uniner.inference.engine import EngineSettings
from uniner.inference.fp8_gate import require_f1, require_f1_of_training
from uniner.inference.questions import start_asker
from uniner.inference.type_names import NameEncoder, nearest_names
from uniner.labels import normalize_type, unknown_types, unknown_types_line
from uniner.metrics.cascade import CascadePoint, choose_threshold
from uniner.runtime.stage_context import StageContext
from uniner.storage.filesystem import absolute
from uniner.storage.folder import Folder
from uniner.storage.model_folders import (
    ENCODER,
    ENCODER_CONFIG,
    ENCODER_THRESHOLD,
    FACTS,
    OWN_STAGES,
    StudentFacts,
    calibration_of,
    facts_or,
    find_student_facts,
    is_encoder,
    model_address,
    model_digest,
    own_model,
    require_model,
    student_facts,
)
from uniner.tag.asked_words import lowest_scores, read_relatives, words_of_unknown
from uniner.tag.rule_file import RuleSet, read_rules, unused_labels_line
from uniner.tag.tagger import EncoderWorker, EntityRules, PassageTagger, Tagger
from uniner.tag.token_patterns import require_spacy
from uniner.tag.types import TypeSelection, read_types, select_types, unasked_types_line
from uniner.templates import Template, make_template

_HOW_ASKED = {
    "itself": "they are asked as themselves; tag.unknown_types=nearest or =both asks for the nearest",
    "nearest": "those with a nearest type are asked as it (tag.unknown_types)",
    "both": "those with a nearest type are asked as themselves and as it (tag.unknown_types)",
}
_CALIBRATED_FROM = 0.05  # raw scores below are not worth calibrating: the overlap rules come later


def is_own(context: StageContext) -> bool:
    """Tell whether a model of this run tags."""
    return context.sections.tag.student in OWN_STAGES


def student_address(context: StageContext) -> str:
    """Return the address of what tags."""
    return _address(context, context.sections.tag.student)


def _address(context: StageContext, name: str) -> str:
    return own_model(context.run_folder, name).url if name in OWN_STAGES else model_address(name)


def student_exists(context: StageContext) -> bool:
    """Tell whether what tags is there; this run's may still be trained."""
    return not is_own(context) or Folder(student_address(context)).exists(FACTS)


def require_trained(context: StageContext) -> None:
    """Check that this run's model is trained, where it is that which tags."""
    if is_own(context):
        (context.run_folder / OWN_STAGES[context.sections.tag.student]).require_manifest()


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
    return facts_or(address, section.template, section.types_per_question, section.max_tokens)


def selected_types(
    tag: Tag, facts: StudentFacts, relatives: Mapping[str, Sequence[str]] | None = None
) -> TypeSelection:
    """Return the types to ask for, and by which words. relatives: from `known_relatives`."""
    types = _selected_types(tag, facts.types, facts.template)
    words = words_of_unknown(types.all(), types.words, facts.types, relatives or {}, tag.unknown_types)
    return replace(types, words=words)


def unlearnt_line(
    tag: Tag, types: TypeSelection, facts: StudentFacts, relatives: Mapping[str, Sequence[str]]
) -> str:
    """Return a line on the types that the student has not learnt and how they are asked; "" without any."""
    line = unknown_types_line(types.everywhere, facts.types, relatives)
    return line and f"{line}; {_HOW_ASKED[tag.unknown_types]}"


def typed_types(
    tag: Tag, facts: StudentFacts, relatives: Mapping[str, Sequence[str]], types: Sequence[str]
) -> TypeSelection:
    """Return how types that somebody types in are asked: as a run asks those of tag.types."""
    others: dict[str, Any] = {"types_file": None, "top_types": None, "types_of_source": {}}
    return selected_types(tag.model_copy(update={"types": list(types), **others}), facts, relatives)


def known_relatives(context: StageContext, facts: StudentFacts) -> dict[str, list[str]]:
    """Return by type others that mean the same or nearly so, the nearest first.

    By this run's build, if a model of this run tags, and by tag.nearest_encoder.
    """
    tag = context.sections.tag
    relatives = read_relatives(context.run_folder / "build") if is_own(context) else {}
    if not tag.nearest_encoder:
        return relatives
    unknown = unknown_types(_selected_types(tag, facts.types, facts.template).all(), facts.types)
    if unknown:  # else no model is loaded
        encoder = NameEncoder(tag.nearest_encoder, "tag.nearest_encoder")
        for name, near in nearest_names(unknown, facts.types, encoder).items():
            relatives.setdefault(normalize_type(name), []).append(near)
    return relatives


def _selected_types(tag: Tag, learnt: Sequence[str], template: str) -> TypeSelection:
    file = read_types(absolute(tag.types_file)) if tag.types_file else []
    # A type of the template `definition` is a sentence, which may have a colon.
    described = template != "definition"
    return select_types(tag.types, file, tag.top_types, tag.types_of_source, learnt, descriptions=described)


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
        lowest = ENCODER_THRESHOLD if known is None else known
    return EntityRules(
        occurrences=tag.occurrences,
        min_score=lowest if tag.min_score is None else tag.min_score,
        keep_ungrounded=tag.ungrounded == "keep",
        overlaps=tag.overlaps or ("flat" if by_encoder else "keep"),
        min_score_of_type=tag.min_score_of_type,
        calibration=calibrated,
        patterns=pattern_rules(tag),
    )


def pattern_rules(tag: Tag) -> RuleSet:
    """Return the rules of tag.rules; none where it is not set.

    Raises:
        UserError: naming the lines that are wrong, or what to install for its token patterns.
    """
    if tag.rules is None:
        return RuleSet()
    rules = read_rules(absolute(tag.rules), tag.rules_language)
    if rules.needs_spacy:
        require_spacy(rules.language)
    return rules


def rules_identity(rules: EntityRules) -> dict[str, Any]:
    """Return what of the rules decides the entities, in the words of runs from before there were more."""
    stated = asdict(replace(rules, patterns=RuleSet()))
    del stated["patterns"]
    overlaps, of_type = stated.pop("overlaps"), stated.pop("min_score_of_type")
    stated["flat"] = overlaps == "flat"
    if overlaps in ("longest", "nested"):
        stated["overlaps"] = overlaps
    return {
        **stated,
        **({"min_score_of_type": of_type} if of_type else {}),
        **(rules.patterns.identity() if rules.patterns else {}),
    }


def asking_identity(context: StageContext, facts: StudentFacts) -> dict[str, Any]:
    """Return what of the settings decides the answers, besides the model and the types."""
    engine = context.sections.engine
    if facts.template == ENCODER:
        return {"encoder": {"dtype": engine.dtype, "types_per_pass": context.sections.tag.types_per_pass}}
    asking: dict[str, Any] = {
        "student": {"template": facts.template, "max_tokens": context.sections.student.max_tokens},
        "engine": engine.identity(),
    }
    if context.sections.tag.prefilter:
        passes = context.sections.tag.types_per_pass
        asking["prefilter"] = {
            "threshold": prefilter_threshold(context),
            **({"types_per_pass": passes} if passes else {}),
        }
    return asking


def worker_of(
    context: StageContext, facts: StudentFacts, types: TypeSelection, rules: EntityRules
) -> tuple[Callable[[], Tagger], int]:
    """Return what starts the model and its worker in an actor, and the number of questions a passage."""
    student = student_address(context)
    if facts.template == ENCODER:
        return partial(make_encoder_worker, encoder_starter(context, rules, types), types, rules), 1
    template = make_template(facts.template, facts.group_types)
    make = partial(make_tagger, student, template, types, rules, engine_settings(context))
    threshold = prefilter_threshold(context)
    if threshold is not None:
        passes = context.sections.tag.types_per_pass
        settings = EncoderSettings.of(context.sections.engine, threshold=threshold, types_per_pass=passes)
        start = partial(start_encoder, prefilter_address(context), settings)
        make = partial(make_cascade, make, start, threshold)
    return make, len(template.groups(types.words_for(types.everywhere)))


def make_tagger(
    model: str, template: Template, types: TypeSelection, rules: EntityRules, settings: EngineSettings
) -> Tagger:
    """Start an engine in this process and return the worker that asks it."""
    return Tagger(start_asker(model, template, settings), types, rules)


def encoder_starter(
    context: StageContext, rules: EntityRules, types: TypeSelection
) -> Callable[[], PassageTagger]:
    """Return what loads the encoder that tags in a process."""
    of_type = dict(rules.min_score_of_type)
    if types.words:  # the encoder knows the words alone; the rules then drop what is below its type's score
        of_type = lowest_scores(of_type, types.words, types.all(), rules.min_score)
    settings = EncoderSettings.of(
        context.sections.engine,
        threshold=_CALIBRATED_FROM if rules.calibration else rules.min_score,
        threshold_of_type={} if rules.calibration else of_type,
        types_per_pass=context.sections.tag.types_per_pass,
    )
    return partial(start_encoder, student_address(context), settings)


def make_cascade(make: Callable[[], Tagger], start: Callable[[], PassageTagger], threshold: float) -> Tagger:
    """Start a student and the encoder that chooses its questions, in this process."""
    return make().behind(start(), threshold)


def prefilter_address(context: StageContext) -> str:
    """Return the address of the encoder that reads the passages before the student."""
    named = context.sections.tag.prefilter
    assert named, "there is one"
    return _address(context, named)


def evaluate_comes_first(context: StageContext) -> bool:
    """Tell whether evaluate has yet to measure what decides the prefilter's threshold."""
    tag, evaluate = context.sections.tag, context.sections.evaluate
    if not tag.prefilter or tag.prefilter_threshold is not None or not (evaluate.gold or evaluate.group):
        return False
    will_measure = {"student", "encoder"} <= set(evaluate.systems) and tag.prefilter == "encoder"
    return will_measure and not (context.run_folder / "evaluate").manifest()


def prefilter_threshold(context: StageContext) -> float | None:
    """Return the score above which a type is asked for; None without a prefilter.

    Raises:
        UserError: it is not set, and evaluate has not measured what it would cost.
    """
    tag = context.sections.tag
    if tag.prefilter is None:
        return None
    if tag.prefilter_threshold is not None:
        return tag.prefilter_threshold
    manifest = (context.run_folder / "evaluate").manifest()
    measured = manifest.results.get("cascade") if manifest else None
    models = {"student": student_address(context), "encoder": prefilter_address(context)}
    if not measured or any(measured[name] != model_digest(address) for name, address in models.items()):
        raise UserError(
            "tag.prefilter: evaluate has not measured what this encoder costs this student; put both in "
            'evaluate.systems, such as ["student", "encoder"], with gold data, or set '
            "tag.prefilter_threshold, such as 0.01"
        )
    points = [CascadePoint(**point) for point in measured["points"]]
    if not any(point.f1 for point in points):
        raise UserError(
            "tag.prefilter: the student has no right answer on evaluate's gold data, so nothing says which "
            "threshold loses little; set tag.prefilter_threshold, such as 0.01"
        )
    return choose_threshold(points, tag.prefilter_max_recall_loss)


def make_encoder_worker(
    start: Callable[[], PassageTagger], types: TypeSelection, rules: EntityRules
) -> Tagger:
    """Load an encoder in this process and return the worker that tags with it."""
    return EncoderWorker(start(), types, rules)


def engine_settings(context: StageContext) -> EngineSettings:
    """Return the settings of the engine that a generative student runs in."""
    max_prompt_tokens = context.sections.student.max_tokens
    return EngineSettings.of(context.sections.engine, max_prompt_tokens=max_prompt_tokens)


def check_asking(context: StageContext) -> None:
    """Check what tags and what it is asked for, as far as both are there: for a run, a text and the page.

    Raises:
        UserError: naming the setting that is wrong.
    """
    tag, address = context.sections.tag, student_address(context)
    if tag.prefilter_threshold is not None and tag.prefilter is None:
        raise UserError(
            "tag.prefilter_threshold is set without a prefilter; set tag.prefilter too, such as encoder"
        )
    _check_encoder_settings(context)
    if tag.nearest_encoder:
        require_model(tag.nearest_encoder, setting="tag.nearest_encoder")
    if not is_own(context):
        by_encoder = tags_by_encoder(context)
        require_model(address, ENCODER_CONFIG if by_encoder else "config.json", "tag.student")
    if student_exists(context):
        section = context.sections.student
        require_room_for_answers(
            read_facts(context).template, section.max_tokens, context.sections.ingest.max_tokens
        )
    patterns = pattern_rules(tag)
    types = _known_types(context)
    if types is None:
        return
    line = unasked_types_line(tag.min_score_of_type, types) or unused_labels_line(patterns, types.all())
    if line and not _asks_learnt_types(tag):
        raise UserError(line)
    encoders = [address] if tags_by_encoder(context) else []
    if tag.prefilter:
        encoders.append(prefilter_address(context))
    for encoder in encoders:
        asked = [types.words_for(each) for each in (types.everywhere, *types.of_source.values())]
        require_room_for_types(encoder, asked, tag.types_per_pass)


def _known_types(context: StageContext) -> TypeSelection | None:
    """Return the types to ask for; None where they are the student's own and it is not trained."""
    tag = context.sections.tag
    if not _asks_learnt_types(tag):
        return _selected_types(tag, (), context.sections.student.template)
    if tag.types_file:
        read_types(absolute(tag.types_file))
    return selected_types(tag, read_facts(context)) if student_exists(context) else None


def _asks_learnt_types(tag: Tag) -> bool:
    return tag.top_types is not None or not (tag.types or tag.types_file)


def _check_encoder_settings(context: StageContext) -> None:
    """Refuse settings of engines that an encoder does not have."""
    engine = context.sections.engine
    tag = context.sections.tag
    if tag.prefilter and tag.prefilter != "encoder":
        require_model(model_address(tag.prefilter), ENCODER_CONFIG, "tag.prefilter")
    if not tags_by_encoder(context):
        return
    if tag.prefilter:
        raise UserError(
            "tag.prefilter chooses the questions of a generative student, and tag.student is an encoder; "
            "remove tag.prefilter, or set tag.student=student"
        )
    if engine.quantization or engine.kv_cache_dtype:
        raise UserError(
            "engine.quantization and engine.kv_cache_dtype are vLLM's; an encoder has neither: remove them, "
            "and set engine.dtype=float16 for half of float32's memory"
        )
    if engine.gpus > 1:
        raise UserError(f"engine.gpus = {engine.gpus:g}: an encoder runs on one GPU; set engine.gpus=1")
