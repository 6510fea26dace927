"""The teacher through the Batch API: what the chunks lack is asked in files and answered within 24 hours.

A batch is of whole chunks, where they fit. Its record, with the id of its uploaded file, stands in
`<stage>/batches/` before it is created (and so paid for): after a crash between the two the server's list of
batches tells whether it was. Replies go to the reply cache, where the stage finds them; what was refused
stands in the record. Stopped at any point, the batches go on at the server, and the same command fetches
what they bring.

A 4xx about a passage is its outcome, as online. What a batch leaves unanswered (it expired, the server
failed) is asked again in another one; what the server failed to answer three times has the outcome failed. A
batch that brings nothing at all ends the run.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from openai.types import Batch

from uniner.errors import Stopped, UserError
from uniner.progress import say
from uniner.teacher.batch.files import Answers, RequestFile, Room
from uniner.teacher.batch.pending_requests import Questions
from uniner.teacher.batch.records import NEVER_CREATED, Record, Records, rejections
from uniner.teacher.batch.server import BatchServer, RefusedError
from uniner.teacher.completion import Rejection

POLL_S = 30.0
_ENDED = {"completed", "failed", "expired", "cancelled"}


def ask(
    questions: Questions,
    api_key: str | None,
    records: Records,
    chunks: Sequence[str],
    budget_usd: float | None,
    spent_usd: float,
) -> float:
    """Have every passage of the chunks answered by batches, see `Batches`. Returns what the run has spent.

    In a thread: what a signal raises in the main one would, in a loop's callback, be logged and forgotten.
    """
    asking: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def answer() -> float:
        task = asyncio.current_task()
        assert task
        asking.set_result((asyncio.get_running_loop(), task))
        async with contextlib.aclosing(BatchServer(questions.teacher, api_key)) as server:
            return await Batches(questions, server, records, budget_usd, spent_usd).answer(chunks)

    with ThreadPoolExecutor(1) as thread:
        answered = thread.submit(lambda: asyncio.run(answer()))
        try:
            return answered.result()
        except Stopped:
            if not answered.done():
                loop, task = asking.result()
                loop.call_soon_threadsafe(task.cancel)
            raise


class Batches:
    """Has the passages of chunks answered by batches."""

    def __init__(
        self,
        questions: Questions,
        server: BatchServer,
        records: Records,
        budget_usd: float | None = None,
        spent_usd: float = 0.0,
        room: Room | None = None,
        poll_s: float | None = None,
    ):
        """`spent_usd` is what the run spent before; files go as far as the budget certainly reaches."""
        self._questions, self._server, self._records = questions, server, records
        self._budget, self._spent, self._room = budget_usd, spent_usd, room or Room()
        self._poll_s = POLL_S if poll_s is None else poll_s
        self._all: dict[int, Record] = {}
        self._last: dict[int, Batch] = {}
        self._full = False
        self._told = ""

    async def answer(self, chunks: Sequence[str]) -> float:
        """Have every passage answered or rejected. Returns the US dollars that the run has spent.

        Raises:
            UserError: what is wrong with the server, the key or the model.
            Stopped: the budget is spent.
        """
        self._all = {record.number: record for record in await asyncio.to_thread(self._records.read)}
        await self._recover()
        under_way = {chunk for record in self._open() for chunk in record.chunks}
        queue = deque(chunk for chunk in chunks if chunk not in under_way)
        while queue or self._open():
            # One file is checked by the server at a time: where its queue is full, no other need be tried.
            if queue and not self._full and not self._in("validating"):
                await self._submit(queue)
            ended = [record for record in self._open() if await self._look(record) in _ENDED]
            for record in ended:
                queue.extend(await self._end(record))
            self._tell()
            if self._open() and not ended:
                await asyncio.sleep(self._poll_s)
        return self._spent

    def rejections(self) -> dict[str, Rejection]:
        """Return the passages, by the keys of their requests, that have no reply."""
        return rejections(self._all.values())

    async def _recover(self) -> None:
        for record in self._open():
            if record.batch is None:
                found = await self._server.find(record.file)
                ended = None if found else NEVER_CREATED
                await self._note(replace(record, batch=found.id if found else None, ended=ended))

    async def _submit(self, queue: deque[str]) -> None:
        file = await asyncio.to_thread(self._fill, queue)
        if not len(file):
            if queue:
                self._require_affordable()
            return
        number = max(self._all, default=0) + 1
        uploaded = await self._server.upload(f"uniner-{self._questions.run}-{number:05d}.jsonl", file.data())
        record = Record(number, file.chunks, len(file), file.usd, uploaded)
        await self._note(record)
        try:
            batch = await self._server.create(uploaded, {"uniner": self._records.address(record)[-512:]})
        except RefusedError:
            await self._note(replace(record, ended=NEVER_CREATED))
            raise
        self._last[number] = batch
        await self._note(replace(record, batch=batch.id))
        say(f"annotate: batch {batch.id} submitted, {len(file):,} requests, answered within 24 h")

    def _fill(self, queue: deque[str]) -> RequestFile:
        room = replace(self._room, usd=min(self._room.usd, self._affordable()))
        file = RequestFile(self._questions.teacher, room)
        for chunk, missing in self._questions.unanswered(list(queue), self.rejections()):
            if missing and not file.add(chunk, missing):
                break
            queue.popleft()
        return file

    def _affordable(self) -> float:
        held = sum(record.usd_at_most for record in self._open())
        return float("inf") if self._budget is None else self._budget - self._spent - held

    def _require_affordable(self) -> None:
        if self._open():
            self._full = True  # less may be spent than is held for what is under way
            return
        raise Stopped(
            f"teacher: {self._spent:.6g} USD are spent, the next request may take more than is left of "
            f"annotate.budget_usd, which is {self._budget:g}: raise it"
        )

    async def _look(self, record: Record) -> str:
        assert record.batch, "a record without a batch was recovered or ended"
        self._last[record.number] = await self._server.look(record.batch, self._missing(record))
        return self._last[record.number].status

    async def _end(self, record: Record) -> list[str]:
        """Keep what an ended batch brought. Returns the chunks of which something is unanswered."""
        batch, answers = self._last[record.number], Answers()
        self._full = False
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                data = await self._server.download(file, self._missing(record))
                await asyncio.to_thread(answers.read, data, f"batch {batch.id}, file {file}")
        self._spent += await asyncio.to_thread(self._questions.keep, record.chunks, answers.replies)
        refused = {key: [one.outcome, one.said] for key, one in answers.refused.items()}
        barren = not answers.replies and not refused and not self._known_as_broken(record, answers)
        broken = {} if barren else answers.broken
        await self._note(replace(record, ended=batch.status, refused=refused, broken=broken))
        if barren:
            self._explain(record, batch, answers)
        return await asyncio.to_thread(self._unanswered, record.chunks)

    def _known_as_broken(self, record: Record, answers: Answers) -> bool:
        """Tell whether all of a batch's requests failed before too, when others had replies."""
        before = {key for other in self._all.values() for key in other.broken}
        return len(answers.broken) == record.requests and answers.broken.keys() <= before

    def _explain(self, record: Record, batch: Batch, answers: Answers) -> None:
        """Say why a batch brought nothing; where the account's queue was full, wait or take smaller files.

        Raises:
            UserError: in all other cases.
        """
        problems = (batch.errors.data or []) if batch.errors else []
        if any(problem.code == "token_limit_exceeded" for problem in problems):
            if self._open():
                self._full = True
                return
            if record.requests > 1:
                self._room = replace(self._room, requests=record.requests // 2)
                say(f"annotate: {problems[0].message}; trying files of {self._room.requests:,} requests")
                return
        words = [f"{one.code}: {one.message} (line {one.line})" for one in problems]
        words += list(dict.fromkeys(answers.broken.values()))
        said = " ".join((words or ["the server says no more"])[0].split())[:300]
        raise UserError(
            f"annotate: batch {batch.id} of {record.requests:,} requests is {batch.status} and brought no "
            f"reply: {said}; once that is put right the same command asks again"
        )

    def _unanswered(self, chunks: Sequence[str]) -> list[str]:
        found = self._questions.unanswered(chunks, self.rejections())
        return [chunk for chunk, missing in found if missing]

    def _open(self) -> list[Record]:
        return [record for record in self._all.values() if record.ended is None]

    def _in(self, status: str) -> bool:
        return any(self._last[record.number].status == status for record in self._looked_at())

    def _looked_at(self) -> list[Record]:
        return [record for record in self._open() if record.number in self._last]

    async def _note(self, record: Record) -> None:
        await asyncio.to_thread(self._records.write, record)
        self._all[record.number] = record

    def _missing(self, record: Record) -> str:
        return (
            f"batch {record.batch} or its files are not there (any more); with another server or key, go "
            f"back to it, else delete {self._records.address(record)} to ask and pay for its requests again"
        )

    def _tell(self) -> None:
        counts = [self._last[record.number].request_counts for record in self._looked_at()]
        completed, failed, total = (
            sum(getattr(count, name) for count in counts if count)
            for name in ("completed", "failed", "total")
        )
        told = (
            f"annotate: batches: {len(counts)} under way, {len(self._all) - len(self._open())} done; "
            f"{completed:,} of {total:,} requests answered, {failed:,} failed; {self._spent:.2f} USD"
        )
        if self._all and told != self._told:
            say(told)
            self._told = told
