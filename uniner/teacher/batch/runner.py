"""Run batches: the requests without a reply go to the server in files and are answered within 24 hours.

A batch has whole chunks where they fit. Its record, with the id of its uploaded file, is written to
`<stage>/batches/` before the batch is created (and so paid for): after a crash between the two, the server's
list of batches tells whether it was. Replies go to the reply cache, where the stage finds them; rejections go
to the record. When the run is stopped the batches continue at the server, and the same command fetches their
replies.

A 4xx about a passage is that passage's outcome, as online. Requests that a batch leaves unanswered (it
expired, or the server failed) go into another batch; after three errors of the server a request has the
outcome failed. A batch without any reply ends the run. Its record says what a batch cost: by the replies'
usage, and at most for a reply without one or an error that may have been billed.
"""

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from openai.types import Batch

from uniner.errors import Stopped, UserError
from uniner.teacher.batch.client import BatchClient, BatchRefusedError
from uniner.teacher.batch.files import BatchAnswers, BatchFileLimits, RequestFile
from uniner.teacher.batch.pending_requests import PendingRequests
from uniner.teacher.batch.records import NEVER_CREATED, BatchRecord, BatchRecords, rejections_in
from uniner.teacher.completion import Rejection
from uniner.teacher.openai_client import OpenAIServer
from uniner.teacher.request_form import RequestForm

log = logging.getLogger(__name__)

POLL_S = 30.0
_ENDED = {"completed", "failed", "expired", "cancelled"}


def answer_in_batches(
    pending: PendingRequests,
    server: OpenAIServer,
    records: BatchRecords,
    chunks: Sequence[str],
    budget_usd: float | None,
    spent_usd: float,
) -> float:
    """Have every passage of the chunks answered (see `BatchRunner`). Returns the USD that the run has spent.

    Works in a thread: an exception that a signal handler raises in the main thread would, in an event loop's
    callback, be logged and forgotten.
    """
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def answer() -> float:
        task = asyncio.current_task()
        assert task
        running.set_result((asyncio.get_running_loop(), task))
        async with contextlib.aclosing(BatchClient(pending.teacher.model, server)) as client:
            return await BatchRunner(pending, client, records, budget_usd, spent_usd).answer(chunks)

    with ThreadPoolExecutor(1) as thread:
        spent = thread.submit(lambda: asyncio.run(answer()))
        try:
            return spent.result()
        except Stopped:
            if not spent.done():
                loop, task = running.result()
                loop.call_soon_threadsafe(task.cancel)
            raise


class BatchRunner:
    """Submits the requests of chunks in batches and saves the answers."""

    def __init__(
        self,
        pending: PendingRequests,
        client: BatchClient,
        records: BatchRecords,
        budget_usd: float | None = None,
        spent_usd: float = 0.0,
        limits: BatchFileLimits | None = None,
        poll_s: float | None = None,
    ):
        """`spent_usd` was spent before. A file is limited to what the budget certainly covers."""
        self._pending, self._client, self._records = pending, client, records
        self._budget, self._spent, self._limits = budget_usd, spent_usd, limits or BatchFileLimits()
        self._poll_s = POLL_S if poll_s is None else poll_s
        self._all: dict[str, BatchRecord] = {}
        self._states: dict[str, Batch] = {}
        self._form, self._refused_forms = client.form, set[RequestForm]()
        self._full = False
        self._last_progress = ""

    async def answer(self, chunks: Sequence[str]) -> float:
        """Have every passage answered or rejected. Returns the USD that the run has spent.

        Raises:
            UserError: an error about the server, the key or the model.
            Stopped: the budget is spent.
        """
        self._all = {record.name: record for record in await asyncio.to_thread(self._records.read)}
        await self._recover()
        submitted = {chunk for record in self._open() for chunk in record.chunks}
        queue = deque(chunk for chunk in chunks if chunk not in submitted)
        while queue or self._open():
            # The server validates one file at a time: where its queue is full, another would fail too.
            if queue and not self._full and not self._any_validating():
                await self._submit(queue)
            ended = [record for record in self._open() if await self._status(record) in _ENDED]
            for record in ended:
                queue.extend(await self._end(record))
            self._say_progress()
            if self._open() and not ended:
                await asyncio.sleep(self._poll_s)
        return self._spent

    def rejections(self) -> dict[str, Rejection]:
        """Return the requests, by key, that have no reply."""
        return rejections_in(self._all.values())

    async def _recover(self) -> None:
        """Find out whether batches without an id were created before a crash."""
        for record in self._open():
            if record.batch is None:
                batch = await self._client.find(record.file, self._missing_hint(record))
                ended = None if batch else NEVER_CREATED
                await self._write(replace(record, batch=batch.id if batch else None, ended=ended))

    async def _submit(self, queue: deque[str]) -> None:
        file = await asyncio.to_thread(self._fill, queue)
        if not len(file):
            if queue:
                self._require_affordable()
            return
        number = max((record.number for record in self._all.values()), default=0) + 1
        file_id = await self._client.upload(f"uniner-{self._pending.run}-{number:05d}.jsonl", file.data())
        record = BatchRecord(
            number=number,
            suffix=uuid.uuid4().hex[:12],
            chunks=file.chunks,
            requests=len(file),
            usd_at_most=file.usd,
            file=file_id,
            form=asdict(self._form),
        )
        await self._write(record)
        try:
            batch = await self._client.create(file_id, {"uniner": self._records.address(record)[-512:]})
        except BatchRefusedError:
            await self._write(replace(record, ended=NEVER_CREATED))
            raise
        self._states[record.name] = batch
        await self._write(replace(record, batch=batch.id))
        log.info(f"annotate: batch {batch.id} submitted, {len(file):,} requests, answered within 24 h")

    def _fill(self, queue: deque[str]) -> RequestFile:
        limits = replace(self._limits, usd=min(self._limits.usd, self._affordable()))
        file = RequestFile(self._pending.teacher, limits, self._form)
        for pending in self._pending.unanswered(list(queue), self.rejections()):
            if pending.requests and not file.add(pending.chunk, pending.requests):
                break
            queue.popleft()
        return file

    def _affordable(self) -> float:
        reserved = sum(record.usd_at_most for record in self._open())
        return float("inf") if self._budget is None else self._budget - self._spent - reserved

    def _require_affordable(self) -> None:
        if self._open():
            self._full = True  # open batches may cost less than is reserved for them
            return
        raise Stopped(
            f"teacher: {self._spent:.6g} USD are spent, and the next request may cost more than is left of "
            f"run.budget_usd, which is {self._budget:g}: raise it"
        )

    async def _status(self, record: BatchRecord) -> str:
        assert record.batch, "a record without a batch was recovered or ended"
        self._states[record.name] = await self._client.status(record.batch, self._missing_hint(record))
        return self._states[record.name].status

    async def _end(self, record: BatchRecord) -> list[str]:
        """Save an ended batch's answers. Returns its chunks that still have unanswered requests."""
        # Batches that were sent before a refusal changed the form are judged by the form they have.
        sent = RequestForm(**record.form) if record.form else self._client.form
        batch, answers = self._states[record.name], BatchAnswers(sent=sent)
        self._require_output(record, batch)
        self._full = False
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                data = await self._client.download(file, self._missing_hint(record))
                await asyncio.to_thread(answers.read, data, f"batch {batch.id}, file {file}")
        usd = await asyncio.to_thread(self._pending.save, record.chunks, answers)
        self._spent += usd
        refused = {key: [answer.outcome, answer.reason] for key, answer in answers.rejections.items()}
        useless = not answers.replies and not refused and not self._failed_before(record, answers)
        broken = {} if useless else answers.errors
        await self._write(replace(record, ended=batch.status, usd=usd, refused=refused, broken=broken))
        if answers.form and (sent != self._form or answers.form not in self._refused_forms):
            self._take_form(sent, answers.form)
        elif useless:
            self._handle_useless(record, batch, answers)
        return await asyncio.to_thread(self._unanswered, record.chunks)

    def _require_output(self, record: BatchRecord, batch: Batch) -> None:
        """Refuse to end a batch whose answered requests have no file (yet): they would be asked again."""
        answered = batch.request_counts.completed if batch.request_counts else 0
        if answered and not batch.output_file_id:
            raise UserError(
                f"annotate: batch {batch.id} is {batch.status} with {answered:,} requests answered, but the "
                "server names no file of its replies; run the same command again later, or "
                f"delete {self._records.address(record)} to ask and pay for its requests again"
            )

    def _take_form(self, sent: RequestForm, other: RequestForm) -> None:
        """Send requests in another form from now on, unless that was changed since the refused batch."""
        self._refused_forms.add(sent)
        if self._form == sent:
            log.warning(f"annotate: {self._pending.teacher.model} {sent.change(other)}")
            self._form = other

    def _failed_before(self, record: BatchRecord, answers: BatchAnswers) -> bool:
        """Tell whether all of a batch's requests also failed in earlier batches, where others had replies."""
        before = {key for other in self._all.values() for key in (*other.broken, *other.forgotten)}
        return len(answers.errors) == record.requests and answers.errors.keys() <= before

    def _handle_useless(self, record: BatchRecord, batch: Batch, answers: BatchAnswers) -> None:
        """Where a batch without answers met the account's full queue, wait or use smaller files.

        Raises:
            UserError: in all other cases.
        """
        problems = (batch.errors.data or []) if batch.errors else []
        if any(problem.code == "token_limit_exceeded" for problem in problems):
            if self._open():
                self._full = True
                return
            if record.requests > 1:
                self._limits = replace(self._limits, requests=record.requests // 2)
                smaller = f"trying files of {self._limits.requests:,} requests"
                log.info(f"annotate: {problems[0].message}; {smaller}")
                return
        reasons = [f"{problem.code}: {problem.message} (line {problem.line})" for problem in problems]
        reasons += answers.errors.values()
        reason = " ".join((reasons or ["the server gave no reason"])[0].split())[:300]
        raise UserError(
            f"annotate: batch {batch.id} of {record.requests:,} requests is {batch.status} and brought no "
            f"reply: {reason}; correct that, and the same command asks again"
        )

    def _unanswered(self, chunks: Sequence[str]) -> list[str]:
        pending = self._pending.unanswered(chunks, self.rejections())
        return [requests.chunk for requests in pending if requests.requests]

    def _open(self) -> list[BatchRecord]:
        return [record for record in self._all.values() if record.ended is None]

    def _open_states(self) -> list[Batch]:
        return [self._states[record.name] for record in self._open() if record.name in self._states]

    def _any_validating(self) -> bool:
        return any(batch.status == "validating" for batch in self._open_states())

    async def _write(self, record: BatchRecord) -> None:
        await asyncio.to_thread(self._records.write, record)
        self._all[record.name] = record

    def _missing_hint(self, record: BatchRecord) -> str:
        return (
            f"batch {record.batch or f'of {record.file}'} or its files do not exist there (any more); if "
            f"you changed the server or the key, change it back, else delete {self._records.address(record)} "
            "to ask and pay for its requests again"
        )

    def _say_progress(self) -> None:
        counts = [batch.request_counts for batch in self._open_states() if batch.request_counts]
        completed, failed, total = (
            sum(getattr(count, name) for count in counts) for name in ("completed", "failed", "total")
        )
        progress = (
            f"annotate: batches: {len(self._open())} in progress, {len(self._all) - len(self._open())} done; "
            f"{completed:,} of {total:,} requests answered, {failed:,} failed; {self._spent:.2f} USD"
        )
        if self._all and progress != self._last_progress:
            log.info(progress)
            self._last_progress = progress
