"""The tag stage: the run's passages are the chunks; a pool of engines tags them."""

from functools import partial
from typing import Any

from uniner import work
from uniner.config import Config, Engine
from uniner.errors import UserError
from uniner.progress import say
from uniner.storage import Folder, run_folder
from uniner.student import FACTS, model_address, model_fingerprint, student_facts
from uniner.tag.asker import start
from uniner.tag.tagger import Tagger
from uniner.templates import Template, template


def check(config: Config) -> None:
    """Make sure, before Ray starts, that the student that is there can be asked this way."""
    if config.tag.student or (_own(config) / "student").exists(FACTS):
        facts = student_facts(_student(config))
        work.check_plan(_folder(config), _plan(config, facts, parents={}))


def run(config: Config) -> dict[str, Any]:
    """Tag the passages. Returns the manifest."""
    student, passages = _student(config), run_folder(config.run) / "ingest"
    if not config.tag.student:
        _own(config).require_manifest()
    facts = student_facts(student)
    types = _types(config, facts)
    if not types:
        raise UserError(f"tag: {student} names no types of its own; set tag.types")
    if not config.tag.types:
        say(f"tag: no tag.types, asking the student's {len(types)} most frequent: {', '.join(types)}")
    parents = {"ingest": passages.digest(), "student": model_fingerprint(student)}
    return work.run_stage(
        "tag",
        _folder(config),
        _plan(config, facts, parents),
        passages,
        pool=pool(
            partial(
                make_tagger,
                student,
                asked_by(config, facts),
                types,
                every_occurrence=config.tag.located == "all",
                settings=engine_settings(config.engine, config.student.max_tokens),
            ),
            config.engine,
        ),
        max_bad_share=config.engine.max_bad_share,
    )


def make_tagger(
    model: str, template: Template, types: list[str], every_occurrence: bool, settings: dict[str, Any]
) -> Tagger:
    """Start an engine in this process and return the worker that asks it."""
    return Tagger(start(model, template, **settings), types, every_occurrence)


def asked_by(config: Config, facts: dict[str, Any] | None) -> Template:
    """Return the template that a model is asked by: a student's own, by its facts, or the config's."""
    told = facts or config.student.model_dump()
    return template(told["template"], told["group_types"])


def engine_settings(engine: Engine, max_tokens: int) -> dict[str, Any]:
    """Return the plain values that `tag.engine.Engine` is made of."""
    names = {"actors", "chunks_in_flight", "max_bad_share"}
    return {"max_tokens": max_tokens, **engine.model_dump(exclude=names)}


def pool(make: Any, engine: Engine) -> work.Pool:
    """Return the actor pool of a worker that holds an engine."""
    return work.Pool(make, engine.actors, engine.cpus, engine.gpus, engine.chunks_in_flight)


def _own(config: Config) -> Folder:
    return run_folder(config.run) / "train"


def _student(config: Config) -> str:
    return model_address(config.tag.student) if config.tag.student else (_own(config) / "student").url


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "tag"


def _types(config: Config, facts: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(config.tag.types or facts["types"]))


def _plan(config: Config, facts: dict[str, Any], parents: dict[str, str]) -> dict[str, Any]:
    """Return what decides the entities. The student stands by its content: its folder may be moved."""
    return {
        "stage": "tag",
        "config": {
            "template": facts["template"],
            "max_tokens": config.student.max_tokens,
            "engine": config.engine.identity(),
            "tag": {"types": _types(config, facts), "located": config.tag.located},
        },
        "parents": parents,
    }
