"""The systems that evaluate.systems names: their folders, models, checks and identities. No Ray."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from uniner.config.schema import Annotate, Engine, Evaluate, Student
from uniner.config.systems import AnySystem, BertSystem, ChatSystem, GlinerSystem, TemplateSystem
from uniner.errors import UserError
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import FACTS, model_address, model_digest, require_model
from uniner.templates import Template, template

OWN_MODELS = ("base", "student")
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
    engine: Engine
    student: Student
    seed: int

    @property
    def is_own_student(self) -> bool:
        """Whether it is the student of this run."""
        return _is_own(self.settings, "student")

    @property
    def awaits_training(self) -> bool:
        """Whether it is this run's student, not trained yet."""
        return self.is_own_student and not Folder(self.model).exists(FACTS)

    def template(self) -> Template:
        """Return the template by which a model is asked."""
        return template(*self._template())

    def _template(self) -> tuple[str, int]:
        assert isinstance(self.settings, TemplateSystem)
        defaults = student_facts_or_none(self.model) or self.student.model_dump()
        group_types = self.settings.group_types or defaults.get("group_types", self.student.group_types)
        return self.settings.template or defaults["template"], group_types

    def check(self, gold: Collection[str]) -> None:
        """Find the model, or the key of its server, before Ray starts. gold: the names in evaluate.gold.

        Raises:
            UserError: where either is missing, or settings contradict each other.
        """
        from uniner.teacher.settings import api_key

        settings, section = self.settings, f"evaluate.system.{self.name}"
        if isinstance(settings, ChatSystem):
            if not api_key(annotate_settings(settings)):
                raise UserError(f"{section}: OPENAI_API_KEY is not set; export the key of the server")
            if (
                settings.budget_usd is not None
                and not settings.usd_per_million_in + settings.usd_per_million_out
            ):
                raise UserError(f"{section}.budget_usd needs prices; set usd_per_million_in and _out")
            return
        if isinstance(settings, GlinerSystem) and settings.pip and settings.python:
            raise UserError(f"{section}: pip and python exclude each other; remove one of them")
        if isinstance(settings, BertSystem):
            self._check_training(settings, gold)
        described_by = "gliner_config.json" if isinstance(settings, GlinerSystem) else "config.json"
        require_model(self.model, described_by)

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
        for url in settings.train.values():
            verify(url)  # without ELSE-like types, which it does not learn

    def identity(self) -> dict[str, Any]:
        """Return what decides the answers, apart from the questions. A model is identified by its content."""
        identity = {
            name: value for name, value in self.settings.identity().items() if name not in ("model", "train")
        }
        parents: dict[str, str] = {}
        if isinstance(self.settings, ChatSystem):
            identity["model"] = self.model
        else:
            parents["model"] = model_digest(self.model)
        if isinstance(self.settings, TemplateSystem):
            name, group_types = self._template()
            identity |= {"template": name, "group_types": group_types if name == "grouped" else None}
            identity["max_tokens"] = self.student.max_tokens
        if isinstance(self.settings, BertSystem):
            identity["seed"] = self.seed
        elif not isinstance(self.settings, (ChatSystem, GlinerSystem)):
            identity["engine"] = answering(self.engine)
        return {"stage": "evaluate", "config": identity, "parents": parents}


def choose_systems(
    evaluate: Evaluate, engine: Engine, student: Student, run: Folder, seed: int
) -> dict[str, SystemSpec]:
    """Return the systems to evaluate by name. run: the run's folder.

    They use the engine without 8-bit computation; under an 8-bit engine, students are evaluated both ways.

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
            f"evaluate.system.{reserved[0]}: base and student name the run's own models; choose another name"
        )
    systems: dict[str, SystemSpec] = {}
    for name, reference in zip(names, evaluate.systems, strict=True):
        settings = evaluate.system.get(reference) or TemplateSystem(kind="template", model=reference)
        system = SystemSpec(
            name=name,
            settings=settings,
            model=_model_of(settings, student, run),
            engine=plain(engine),
            student=student,
            seed=seed,
        )
        systems[name] = system
        if suffix(engine) and _is_student(system):
            name += suffix(engine)
            systems[name] = replace(system, name=name, engine=engine)
    return systems


def annotate_settings(system: ChatSystem) -> Annotate:
    """Return a chat model's settings as an annotate section: the teacher's client takes one."""
    return Annotate(**system.model_dump(exclude={"kind", "instruction"}))


def student_facts_or_none(model: str) -> dict[str, Any] | None:
    """Return the facts in a student's folder; None for any other model."""
    with explained(model):
        return Folder(model).read_json(FACTS)


def _folder_name(system: str) -> str:
    """Return a folder name for a model's address, without characters that a folder may not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "--", system.split("://")[-1]).strip("-.")


def _model_of(settings: AnySystem, student: Student, run: Folder) -> str:
    if isinstance(settings, ChatSystem):
        return settings.model
    if _is_own(settings, "student"):
        return (run / "train" / "student").url
    return model_address(student.base if _is_own(settings, "base") else settings.model)


def _is_own(settings: AnySystem, name: str) -> bool:
    return isinstance(settings, TemplateSystem) and settings.model == name


def _is_student(system: SystemSpec) -> bool:
    is_template = isinstance(system.settings, TemplateSystem)
    return system.is_own_student or (is_template and student_facts_or_none(system.model) is not None)
