"""The annotate stage: an actor pool that asks the teacher, over the passages' chunks."""

import contextlib
import functools
from typing import Any

from uniner.annotate.annotator import Annotator
from uniner.config.schema import Config
from uniner.errors import Planned, UserError
from uniner.runtime import chunk_pipeline
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import run_folder
from uniner.teacher import estimate, prompts, replay_server
from uniner.teacher import settings as asking
from uniner.teacher.batch import submission
from uniner.teacher.batch.pending_requests import Questions
from uniner.teacher.batch.records import Records, rejections
from uniner.teacher.openai_client import Teacher
from uniner.teacher.pools import pool
from uniner.teacher.reply_cache import ReplyCache

# A plan reads so many chunks at the most, and scales up.
_PLAN_CHUNKS = 100


def check(config: Config) -> None:
    """Find, before Ray starts, the recording or the key, and compare with what the run began with.

    Raises:
        Planned: where only the plan is asked for and the passages are there.
    """
    settings = config.annotate
    asking.check(settings)
    if settings.recording:
        replay_server.load(settings.recording)
        if not asking.prompt_of(config).user.endswith(prompts.PASSAGE_MARK + prompts.PASSAGE):
            raise UserError(
                f"{settings.prompt}: a recording is looked up by passage, so the prompt must end with an "
                f"empty line and 'Passage: {prompts.PASSAGE}'"
            )
    chunk_pipeline.check_plan(_folder(config), _plan(config))
    if not settings.batch and not settings.plan:
        with explained(_folder(config).url):
            Records(_folder(config)).require_none_under_way()
    if settings.plan and _parent(config).manifest() is not None:
        _tell_plan(config)


def run(config: Config) -> dict[str, Any]:
    """Annotate the run's passages. Returns the manifest.

    Raises:
        Stopped: where the budget is spent.
        Planned: where only the plan is asked for.
    """
    settings, folder, parent = config.annotate, _folder(config), _parent(config)
    if settings.plan:
        _tell_plan(config)
    with contextlib.ExitStack() as open_servers:
        base_url, key = settings.base_url, asking.api_key(settings)
        if settings.recording:
            server = replay_server.RecordedTeacher(replay_server.load(settings.recording))
            base_url, key = open_servers.enter_context(server).base_url, "recorded"
        begun_with, teacher = _plan(config, parent.digest()), asking.teacher_of(config, base_url)
        if settings.batch and folder.manifest() is None:
            folder.begin(begun_with)  # what it was begun with is compared before anything is paid
            _ask_in_batches(config, teacher, key)
        make = functools.partial(Annotator, every_occurrence=settings.located == "all")
        rejected = rejections(Records(folder).read())
        spent = asking.spent_on_generating(config)
        return chunk_pipeline.run_stage(
            "annotate",
            folder,
            begun_with,
            parent,
            pool=pool(config, folder, teacher, key, make, chunk_pipeline.chunks_of(parent), rejected, spent),
            max_bad_share=settings.max_bad_share,
        )


def _ask_in_batches(config: Config, teacher: Teacher, key: str | None) -> None:
    """Have what the chunks lack answered by batches: what comes then finds it in the cache."""
    settings, parent, folder, kept = (
        config.annotate,
        _parent(config),
        _folder(config),
        asking.cache_of(config),
    )
    assert kept, "only a recording goes without a cache"
    paid_by = asking.run_id(folder)
    index = asking.index_of(kept, teacher, paid_by)
    questions = Questions(teacher, parent, ReplyCache(kept, teacher.request(""), index), paid_by)
    spent = asking.spent_on_generating(config) + teacher.usd(*index.tokens_paid)
    with explained(folder.url):
        todo = sorted(chunk_pipeline.chunks_of(parent).keys() - folder.chunk_keys())
        submission.ask(questions, key, Records(folder), todo, settings.budget_usd, spent)


def _tell_plan(config: Config) -> None:
    """Print the plan, from a sample of the chunks where there are many, and end the job."""
    settings, parent, folder = config.annotate, _parent(config), _folder(config)
    teacher, chunks = asking.teacher_of(config, settings.base_url), chunk_pipeline.chunks_of(parent)
    with explained(folder.url):
        todo = sorted(chunks.keys() - folder.chunk_keys())
    left = sum(chunks[key] for key in todo)
    some = todo[:: -(-len(todo) // _PLAN_CHUNKS)] if todo else []
    texts = [text for key in some for text in parent.read_chunk(key).column("text").to_pylist()]
    unknown = asking.unpaid(config, teacher, texts)
    asked = estimate.estimate(teacher, unknown).scaled(left / len(texts) if texts else 0)
    total = sum(chunks.values())
    sample = texts[0] if texts else prompts.PASSAGE
    told = asking.told_plan(config, teacher, asked, total, total - left, sample, settings.batch)
    print(told, flush=True)
    raise Planned


def _parent(config: Config) -> Folder:
    return run_folder(config.run) / "ingest"


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "annotate"


def _plan(config: Config, parent: str | None = None) -> dict[str, Any]:
    settings = config.annotate
    return {
        "stage": "annotate",
        "config": {
            "template": config.student.template,
            "prompt": asking.prompt_of(config).digest() if settings.prompt else None,
            "annotate": settings.identity() | {"model": asking.model_name(settings)},
            **({"teacher": config.teacher.identity()} if settings.served else {}),
        },
        "parents": {"ingest": parent},
    }
