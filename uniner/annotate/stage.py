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
from uniner.teacher import prompts
from uniner.teacher import settings as teacher_settings
from uniner.teacher.batch.pending_requests import PendingRequests
from uniner.teacher.batch.records import BatchRecords, rejections_in
from uniner.teacher.batch.runner import answer_in_batches
from uniner.teacher.completion import Teacher
from uniner.teacher.estimate import estimate_requests
from uniner.teacher.pools import teacher_pool
from uniner.teacher.replay_server import ReplayServer, load_recording
from uniner.teacher.reply_cache import ReplyCache, run_id, unpaid_texts

# A plan reads so many chunks at the most, and scales up.
_PLAN_CHUNKS = 100


def check(config: Config) -> None:
    """Find, before Ray starts, the recording or the key, and compare with what the run began with.

    Raises:
        Planned: where only the plan is asked for and the passages are there.
    """
    settings = config.annotate
    teacher_settings.check(settings)
    if settings.recording:
        load_recording(settings.recording)
        if not teacher_settings.prompt_of(settings, config.student.template).user.endswith(
            prompts.PASSAGE_MARK + prompts.PASSAGE
        ):
            raise UserError(
                f"{settings.prompt}: a recording is looked up by passage, so the prompt must end with an "
                f"empty line and 'Passage: {prompts.PASSAGE}'"
            )
    chunk_pipeline.check_plan(_folder(config), _plan(config))
    if not settings.batch and not settings.plan:
        with explained(_folder(config).url):
            BatchRecords(_folder(config)).require_none_in_progress()
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
        recording_url = None
        if settings.recording:
            server = ReplayServer(load_recording(settings.recording))
            recording_url = open_servers.enter_context(server).base_url
        begun_with, teacher = _plan(config, parent.digest()), _teacher(config)
        if settings.batch and folder.manifest() is None:
            folder.begin(begun_with)  # what it was begun with is compared before anything is paid
            _ask_in_batches(config, teacher)
        make = functools.partial(Annotator, every_occurrence=settings.located == "all")
        chunks = chunk_pipeline.chunks_of(parent)
        actors = teacher_settings.actors_of(settings, config.teacher, teacher, chunks, recording_url)
        return chunk_pipeline.run_stage(
            "annotate",
            folder,
            begun_with,
            parent,
            pool=teacher_pool(
                folder,
                teacher,
                actors,
                make,
                limits=teacher_settings.limits_of(settings),
                cache=teacher_settings.annotation_cache(settings, config.run.root),
                spent_usd=_spent_on_generating(config),
                rejected=rejections_in(BatchRecords(folder).read()),
            ),
            max_bad_share=settings.max_bad_share,
        )


def _ask_in_batches(config: Config, teacher: Teacher) -> None:
    """Have the chunks' requests answered by batches: the stage then finds the replies in the cache."""
    settings, parent, folder = config.annotate, _parent(config), _folder(config)
    cache, run = teacher_settings.cache_folder(settings.cache, config.run.root), run_id(folder)
    index = ReplyCache(cache, teacher.request("")).read_index(run)
    pending = PendingRequests(
        teacher=teacher, parent=parent, cache=ReplyCache(cache, teacher.request(""), index), run=run
    )
    spent = _spent_on_generating(config) + teacher.usd(*index.paid)
    server = teacher_settings.server_of(settings)
    with explained(folder.url):
        todo = sorted(chunk_pipeline.chunks_of(parent).keys() - folder.chunk_keys())
        answer_in_batches(pending, server, BatchRecords(folder), todo, settings.budget_usd, spent)


def _spent_on_generating(config: Config) -> float:
    manifest = (run_folder(config.run) / "generate").manifest()
    return manifest["figures"]["cost_usd"] if manifest else 0.0


def _tell_plan(config: Config) -> None:
    """Print the plan, from a sample of the chunks where there are many, and end the job."""
    settings, parent, folder = config.annotate, _parent(config), _folder(config)
    teacher, chunks = _teacher(config), chunk_pipeline.chunks_of(parent)
    with explained(folder.url):
        todo = sorted(chunks.keys() - folder.chunk_keys())
    left = sum(chunks[key] for key in todo)
    some = todo[:: -(-len(todo) // _PLAN_CHUNKS)] if todo else []
    texts = [text for key in some for text in parent.read_chunk(key).column("text").to_pylist()]
    cache = teacher_settings.annotation_cache(settings, config.run.root)
    requests = estimate_requests(teacher, unpaid_texts(cache, teacher, texts))
    total = sum(chunks.values())
    requests = requests.scaled(left / len(texts) if texts else 0)
    sample = texts[0] if texts else prompts.PASSAGE
    estimate = teacher_settings.estimate_of(
        settings,
        config.teacher,
        teacher,
        requests,
        total=total,
        done=total - left,
        sample=sample,
        batch=settings.batch,
    )
    print(estimate.text(), flush=True)
    raise Planned


def _parent(config: Config) -> Folder:
    return run_folder(config.run) / "ingest"


def _folder(config: Config) -> Folder:
    return run_folder(config.run) / "annotate"


def _teacher(config: Config) -> Teacher:
    return teacher_settings.annotation_teacher(config.annotate, config.student.template)


def _plan(config: Config, parent: str | None = None) -> dict[str, Any]:
    settings = config.annotate
    return {
        "stage": "annotate",
        "config": {
            "template": config.student.template,
            "prompt": teacher_settings.prompt_of(settings, config.student.template).digest()
            if settings.prompt
            else None,
            "annotate": settings.identity() | {"model": teacher_settings.model_name(settings)},
            **({"teacher": config.teacher.identity()} if settings.served else {}),
        },
        "parents": {"ingest": parent},
    }
