"""The pool of a stage that asks the teacher about each row, online or in batches, within the run's budget."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from uniner.config.schema import Run
from uniner.config.teachers import AnyTeacher, BatchTeacher
from uniner.runtime.chunk_actor import Worker
from uniner.runtime.chunk_pipeline import Pool
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.batch.pending_requests import OnlyKeptReplies, TextChunks
from uniner.teacher.batch.records import BatchRecords, rejections_in
from uniner.teacher.batch.stage_batches import answer_stage_in_batches
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Teacher
from uniner.teacher.pools import teacher_pool
from uniner.teacher.settings import make_server, rate_limits, replay, reply_cache_folder, teacher_actors
from uniner.teacher.spent import spent_elsewhere, spent_in_batches


@contextlib.contextmanager
def stage_pool(
    folder: StageFolder,
    run: StageFolder,
    section: AnyTeacher,
    teacher: Teacher,
    make_worker: Callable[[CachedTeacher], Worker],
    *,
    settings: Run,
    texts: TextChunks,
    chunks: Mapping[str, int],
    complete: bool,
) -> Iterator[Pool]:
    """Yield the pool of a worker that asks the teacher about a stage's rows.

    With a teacher in batches their requests are answered first, and the pool only reads the replies. run: the
    run's folder, whose other stages share the budget of `settings`. texts: what the chunks ask about. chunks:
    keys and rows. complete: the stage is; then nothing is asked.
    """
    cache = reply_cache_folder(section, settings.root)
    with contextlib.ExitStack() as work:
        recording_url = work.enter_context(replay(section))
        elsewhere_usd = 0.0
        if not complete:
            elsewhere_usd = work.enter_context(spent_elsewhere(run, folder.name, settings.budget_usd))
            answer_stage_in_batches(
                folder,
                teacher,
                make_server(section) if isinstance(section, BatchTeacher) else None,
                texts=texts,
                chunks=chunks,
                cache=cache,
                budget_usd=settings.budget_usd,
                elsewhere_usd=elsewhere_usd,
            )
        actors = teacher_actors(section, teacher, chunks, recording_url=recording_url)
        if isinstance(section, BatchTeacher):  # it would pay the price of requests online
            actors = replace(actors, make_client=OnlyKeptReplies)
        yield work.enter_context(
            teacher_pool(
                folder,
                teacher,
                actors,
                make_worker,
                limits=rate_limits(section, settings.budget_usd),
                cache=cache,
                elsewhere_usd=elsewhere_usd,
                batches_usd=spent_in_batches(folder),
                rejected=rejections_in(BatchRecords(folder).read()),
            )
        )
