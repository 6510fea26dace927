"""The systems that evaluate.systems names: their folders, models, checks and identities. No Ray."""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from uniner.config.schema import EngineSection, Evaluate, Student
from uniner.config.systems import (
    AnySystem,
    BertSystem,
    ChatSystem,
    EncoderSystem,
    GlinerSystem,
    TemplateSystem,
)
from uniner.errors import UserError
from uniner.gold.catalogue import tag_column
from uniner.gold.reader import verify_gold
from uniner.inference.encoder_settings import require_room_for_types
from uniner.inference.fp8_gate import answer_identity, fp8_suffix, without_fp8
from uniner.storage.folder import Folder
from uniner.storage.manifest import Identity
from uniner.storage.model_folders import (
    ENCODER_CONFIG,
    ENCODER_THRESHOLD,
    FACTS,
    OWN_STAGES,
    StudentFacts,
    find_student_facts,
    is_encoder,
    model_address,
    model_digest,
    own_model,
    released_template,
    require_model,
)
from uniner.teacher.settings import check_budget, check_teacher, teacher_identity
from uniner.templates import DEFAULT_GROUP_TYPES, Template, default_group_types, make_template

_LONGEST_NAME = 120
OWN_MODELS = ("base", "student", "encoder")
"""The models of the run itself, as evaluate.systems names them."""


@dataclass(frozen=True, kw_only=True)
class SystemSpec:
    """A system to evaluate, with everything that decides its answers.

    name: its folder below evaluate's. model: the address of its model, or a chat model's name on its server.
    engine and student: the sections, the engine as this system uses it. seed: run.seed, for training.
    """

    name: str
    settings: AnySystem
    model: str
    engine: EngineSection
    student: Student
    seed: int

    @property
    def own_stage(self) -> str:
        """The stage of this run that trains it; "" for a model that is not trained in this run."""
        return next((stage for name, stage in OWN_STAGES.items() if _is_own(self.settings, name)), "")

    @property
    def awaits_training(self) -> bool:
        """Whether it is a model that this run trains, not trained yet."""
        return bool(self.own_stage) and not Folder(self.model).exists(FACTS)

    def facts(self) -> StudentFacts | None:
        """Return what it was trained on; None if it is not a student of ours."""
        trained = isinstance(self.settings, TemplateSystem | EncoderSystem)
        return find_student_facts(self.model) if trained else None

    def threshold(self) -> float:
        """Return the lowest score of an encoder's mentions: by the config, its folder, or as in GLiNER."""
        assert isinstance(self.settings, EncoderSystem)
        facts = self.facts()
        known = facts.threshold if facts else None
        stated = known if self.settings.threshold is None else self.settings.threshold
        return ENCODER_THRESHOLD if stated is None else stated

    def template(self) -> Template:
        """Return the template by which a model is asked."""
        return make_template(*self._template())

    def _template(self) -> tuple[str, int]:
        assert isinstance(self.settings, TemplateSystem)
        facts = find_student_facts(self.model)
        known = facts.template if facts else released_template(self.model) or self.student.template
        name = self.settings.template or known
        of_model = facts.group_types if facts and facts.template == name else self.student.group_types
        return name, self.settings.group_types or of_model or default_group_types(name)

    def check(self, gold: Collection[str], asked: Iterable[Collection[str]] = ()) -> None:
        """Find the model, or the key of its server, before Ray starts.

        gold: the names in evaluate.gold. asked: the types of each of these data sets.

        Raises:
            UserError: where either is missing, or settings contradict each other.
        """
        settings, section = self.settings, f"evaluate.system.{self.name}"
        if isinstance(settings, ChatSystem):
            check_teacher(settings.teacher, f"{section}.teacher")
            check_budget(settings.teacher, settings.budget_usd, f"{section}.budget_usd", f"{section}.teacher")
            return
        if isinstance(settings, GlinerSystem) and settings.pip and settings.python:
            raise UserError(f"{section}: pip and python exclude each other; remove one of them")
        if isinstance(settings, BertSystem):
            self._check_training(settings, gold)
        if isinstance(settings, TemplateSystem) and is_encoder(self.model):
            raise UserError(
                f"{section}: {self.model} is an encoder in GLiNER's format, which no template asks; set "
                'kind = "encoder"'
            )
        of_gliner = isinstance(settings, EncoderSystem | GlinerSystem)
        require_model(self.model, ENCODER_CONFIG if of_gliner else "config.json", "evaluate.systems")
        if isinstance(settings, EncoderSystem):
            require_room_for_types(self.model, map(sorted, asked), settings.types_per_pass)

    def _check_training(self, settings: BertSystem, gold: Collection[str]) -> None:
        if not settings.train:
            raise UserError(
                f"evaluate.system.{self.name}.train is empty; name the train split of each data set, "
                'such as train = {conll03 = "data/conll03/train.txt"}'
            )
        if unknown := settings.train.keys() - set(gold):
            raise UserError(
                f"evaluate.system.{self.name}.train: evaluate.gold has no data set {min(unknown)}; add "
                "it there"
            )
        for dataset, url in settings.train.items():
            # Without ELSE-like types, which it does not learn.
            verify_gold(url, tag_column=tag_column(dataset))

    def identity(self) -> Identity:
        """Return what decides the answers, apart from the questions. A model counts by its content."""
        settings = self.settings.identity()
        if isinstance(self.settings, ChatSystem):
            system = {**settings, "teacher": teacher_identity(self.settings.teacher)}
            return Identity(stage="evaluate", settings={"system": system})
        system = {name: value for name, value in settings.items() if name not in ("model", "train")}
        engine = answer_identity(self.engine)
        if isinstance(self.settings, TemplateSystem):
            name, group_types = self._template()
            system |= {"template": name, "group_types": group_types if name in DEFAULT_GROUP_TYPES else None}
            system["max_tokens"] = self.student.max_tokens
        if isinstance(self.settings, BertSystem):
            system["seed"] = self.seed
        if isinstance(self.settings, BertSystem | GlinerSystem):
            engine = {}
        if isinstance(self.settings, EncoderSystem):
            system["threshold"] = self.threshold()
            engine = {"dtype": self.engine.dtype}
        return Identity(
            stage="evaluate",
            settings={"system": system, "engine": engine},
            parents={"model": model_digest(self.model)},
        )


def choose_systems(
    evaluate: Evaluate, engine: EngineSection, student: Student, run: Folder, seed: int
) -> dict[str, SystemSpec]:
    """Return the systems to evaluate by name. run: the run's folder.

    They use the engine without 8-bit computation; under an 8-bit engine, what tag could use is evaluated both
    ways.

    Raises:
        UserError: where two systems have the same folder, or a name is reserved.
    """
    names = [name if name in evaluate.system else _folder_name(name) for name in evaluate.systems]
    if len({*names, "gold"}) <= len(names):
        raise UserError(
            f"evaluate.systems: the names {', '.join(names)} must differ from each other and from 'gold'; "
            "rename a system, such as [evaluate.system.vicuna-7b]"
        )
    reserved = sorted({*OWN_MODELS} & evaluate.system.keys())
    if reserved:
        raise UserError(
            f"evaluate.system.{reserved[0]}: {', '.join(OWN_MODELS)} name the run's own models; choose "
            "another name"
        )
    systems: dict[str, SystemSpec] = {}
    for name, reference in zip(names, evaluate.systems, strict=True):
        settings = evaluate.system.get(reference) or _settings_of(reference)
        system = SystemSpec(
            name=name,
            settings=settings,
            model=_model_of(settings, student, run),
            engine=without_fp8(engine),
            student=student,
            seed=seed,
        )
        systems[name] = system
        if fp8_suffix(engine) and _may_tag(system):
            name += fp8_suffix(engine)
            systems[name] = replace(system, name=name, engine=engine)
    return systems


def _folder_name(system: str) -> str:
    """Return a folder name for a model's address: no characters that it may not have, and not too long."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "--", system.split("://")[-1]).strip("-.")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 17]}-{hashlib.sha256(system.encode()).hexdigest()[:16]}"


def _settings_of(model: str) -> AnySystem:
    """Return the settings of a model that evaluate.systems names by itself: its folder says what it is."""
    if model == "encoder" or (model not in OWN_MODELS and is_encoder(model)):
        return EncoderSystem(kind="encoder", model=model)
    return TemplateSystem(kind="template", model=model)


def _model_of(settings: AnySystem, student: Student, run: Folder) -> str:
    if isinstance(settings, ChatSystem):
        return settings.teacher.model
    for name in OWN_STAGES:
        if _is_own(settings, name):
            return own_model(run, name).url
    return model_address(student.base if _is_own(settings, "base") else settings.model)


def _is_own(settings: AnySystem, name: str) -> bool:
    kind = EncoderSystem if name == "encoder" else TemplateSystem
    return isinstance(settings, kind) and settings.model == name


def _may_tag(system: SystemSpec) -> bool:
    """Tell whether tag could use a system: any that is asked as a student is, but the run's own base."""
    return isinstance(system.settings, TemplateSystem) and not _is_own(system.settings, "base")
