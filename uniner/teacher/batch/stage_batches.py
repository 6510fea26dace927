"""A stage's requests answered in batches: what is missing is submitted, and the replies go to the cache."""

from collections.abc import Collection

from uniner.errors import UserError
from uniner.runtime import chunk_pipeline
from uniner.runtime.spending import SpendingFile
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.manifest import Identity, differences
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.batch.pending_requests import PendingRequests, TextChunks
from uniner.teacher.batch.records import BatchRecords
from uniner.teacher.batch.runner import answer_in_batches
from uniner.teacher.completion import Teacher
from uniner.teacher.openai_client import OpenAIServer
from uniner.teacher.reply_cache import ReplyCache, run_id


def require_no_batches(folder: StageFolder) -> None:
    """Check that no batch is in progress, for a teacher that is asked online.

    Raises:
        UserError: naming the batch, which is paid for.
    """
    with explained(folder.url):
        BatchRecords(folder).require_none_in_progress()


def require_batches_of(folder: StageFolder, identity: Identity, with_parents: bool = True) -> None:
    """Refuse other settings or input while batches are in progress: their paid replies would be lost.

    Raises:
        UserError: naming a batch's record and what differs.
    """
    with explained(folder.url):
        in_progress = BatchRecords(folder).in_progress()
    begun = folder.read_identity() if in_progress else None
    if begun is None or any(not differences(begun, earlier) for earlier in identity.earlier):
        return
    if differing := differences(begun, identity, with_parents):
        raise UserError(
            f"{BatchRecords(folder).address(in_progress[0])}: the batch is paid for and was submitted with "
            f"other settings: {differing[0]}; set that back to fetch its replies, or take another run.name"
        )


def answer_stage_in_batches(
    folder: StageFolder,
    teacher: Teacher,
    server: OpenAIServer | None,
    *,
    texts: TextChunks,
    chunks: Collection[str],
    cache: Folder | None,
    budget_usd: float | None,
    elsewhere_usd: float,
) -> None:
    """Have the requests of a stage's missing chunks answered by batches, and their replies kept in the cache.

    server: None where the teacher is asked online: then only what earlier batches say of failed rows is
    forgotten. texts: what the chunks ask about. chunks: all keys. elsewhere_usd: what other stages spent of
    the budget.
    """
    records = BatchRecords(folder)
    if server is None and not records.read():
        return
    failed = chunk_pipeline.chunks_to_make_anew(folder)
    if failed:
        records.forget_errors()  # batches ask again about their rows
    if server is None:
        return
    assert cache, "only a recording has no cache"
    run = run_id(folder)
    index = ReplyCache.of(cache, teacher).read_index(run)
    pending = PendingRequests(
        teacher=teacher, parent=texts, cache=ReplyCache.of(cache, teacher, index), run=run
    )
    with explained(folder.url):
        ended = sum(record.usd for record in records.read())
        # Where spending.json was deleted, its replies still tell what they cost.
        spent = max(SpendingFile(folder).read() + ended, teacher.usd(*index.paid))
        missing = sorted(set(chunks) - (folder.chunk_keys() - failed))
        answer_in_batches(pending, server, records, missing, budget_usd, elsewhere_usd + spent)
