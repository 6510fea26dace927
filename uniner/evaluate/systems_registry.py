"""Which systems the section names, and what of each decides its answers. No Ray."""

import re
from typing import Any

from uniner.config.schema import Config
from uniner.config.systems import AnySystem, BertSystem, ChatSystem, GlinerSystem, TemplateSystem
from uniner.errors import UserError
from uniner.gold.reader import verify_gold
from uniner.inference.fp8_gate import answer_identity, fp8_suffix, without_fp8
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import FACTS, model_address, model_fingerprint, require_model
from uniner.storage.stage_folder import run_folder
from uniner.templates import Template, make_template

OWN = ("base", "student")
"""The models of the run itself, by the names that the section gives them."""


def chosen(config: Config) -> dict[str, tuple[AnySystem, Config]]:
    """Return the systems of the section, each by the name of its folder, and the config with its engine.

    That is a plain one; students that an engine of 8 bits is to ask are there both ways.

    Raises:
        UserError: where two have the same, or one that this stage needs itself.
    """
    settings = config.evaluate
    names = [name if name in settings.system else _folder_name(name) for name in settings.systems]
    if len({*names, "gold"}) <= len(names):
        raise UserError(f"evaluate.systems: {', '.join(names)} must differ, and none may be 'gold'")
    taken = sorted({*OWN} & settings.system.keys())
    if taken:
        raise UserError(f"evaluate.system.{taken[0]}: base and student are the run's own; take another name")
    found: dict[str, tuple[AnySystem, Config]] = {}
    for name, named in zip(names, settings.systems, strict=True):
        system = settings.system.get(named) or TemplateSystem(kind="template", model=named)
        found[name] = (system, config.model_copy(update={"engine": without_fp8(config.engine)}))
        if fp8_suffix(config.engine) and _is_student(config, system):
            found[f"{name}{fp8_suffix(config.engine)}"] = (system, config)
    return found


def _folder_name(system: str) -> str:
    """Return a system's folder: its name, or its address in letters that a folder may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "--", system.split("://")[-1]).strip("-.")


def is_own_student(system: AnySystem) -> bool:
    """Tell whether it is the student of this run."""
    return isinstance(system, TemplateSystem) and system.model == "student"


def _is_student(config: Config, system: AnySystem) -> bool:
    if is_own_student(system):
        return True
    return isinstance(system, TemplateSystem) and facts_of(config, system) is not None


def model_of(config: Config, system: AnySystem) -> str:
    """Return the address of a system's model; of a chat model its name."""
    if isinstance(system, ChatSystem):
        return system.model
    if is_own_student(system):
        return (run_folder(config.run) / "train" / "student").url
    own_base = isinstance(system, TemplateSystem) and system.model == "base"
    return model_address(config.student.base if own_base else system.model)


def is_to_be_trained(config: Config, system: AnySystem) -> bool:
    """Tell whether it is this run's student, which is not there yet."""
    return is_own_student(system) and not Folder(model_of(config, system)).exists(FACTS)


def check(config: Config, name: str, system: AnySystem) -> None:
    """Find a system's model, or the key of its server, before Ray starts."""
    from uniner.teacher.settings import api_key

    if isinstance(system, ChatSystem):
        where = f"evaluate.system.{name}"
        if not api_key(system.base_url):
            raise UserError(f"{where}: OPENAI_API_KEY is not set; export the server's key")
        if system.budget_usd is not None and not system.usd_per_million_in + system.usd_per_million_out:
            raise UserError(f"{where}.budget_usd: no price is set; set usd_per_million_in and _out")
        return
    if isinstance(system, GlinerSystem) and system.pip and system.python:
        raise UserError(f"evaluate.system.{name}: leave out pip, or python")
    if isinstance(system, BertSystem) and not system.train:
        raise UserError(f"evaluate.system.{name}.train names no data set; name those that it is trained on")
    if isinstance(system, BertSystem) and (unknown := system.train.keys() - config.evaluate.gold.keys()):
        raise UserError(
            f"evaluate.system.{name}.train: {min(unknown)} is no data set of evaluate.gold; name it there too"
        )
    for url in system.train.values() if isinstance(system, BertSystem) else ():
        verify_gold(url)  # of the types that say nothing it learns none
    described_by = "gliner_config.json" if isinstance(system, GlinerSystem) else "config.json"
    require_model(model_of(config, system), described_by)


def facts_of(config: Config, system: AnySystem) -> dict[str, Any] | None:
    """Return what a student says of itself; None of a model that is no student."""
    url = model_of(config, system)
    with explained(url):
        return Folder(url).read_json(FACTS)


def template_of(config: Config, system: TemplateSystem) -> Template:
    """Return the template by which a model is asked."""
    return make_template(*_template(config, system, facts_of(config, system)))


def _template(config: Config, system: TemplateSystem, facts: dict[str, Any] | None) -> tuple[str, int]:
    told = facts or config.student.model_dump()
    group_types = system.group_types or told.get("group_types", config.student.group_types)
    return system.template or told["template"], group_types


def plan_of(config: Config, system: AnySystem) -> dict[str, Any]:
    """Return what decides a system's answers, beside the questions. A model stands by its content."""
    said = {name: value for name, value in system.identity().items() if name not in ("model", "train")}
    parents: dict[str, str] = {}
    if isinstance(system, ChatSystem):
        said["model"] = system.model
    else:
        parents["model"] = model_fingerprint(model_of(config, system))
    if isinstance(system, TemplateSystem):
        name, group_types = _template(config, system, facts_of(config, system))
        said |= {"template": name, "group_types": group_types if name == "grouped" else None}
        said["max_tokens"] = config.student.max_tokens
    if isinstance(system, BertSystem):
        said["seed"] = config.run.seed
    elif not isinstance(system, (ChatSystem, GlinerSystem)):
        said["engine"] = answer_identity(config.engine)
    return {"stage": "evaluate", "config": said, "parents": parents}
