"""The Batch API of the teacher's server, through the openai client.

A server that has answered once is waited for: a lost connection or a 5xx may last up to an hour before it
ends the run. Uploading, looking and downloading may be repeated; creating a batch pays, so it is repeated
only where the server lists none of the same file.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import openai
from openai import AsyncOpenAI
from openai.types import Batch
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from uniner.errors import UserError
from uniner.teacher.batch.files import ENDPOINT
from uniner.teacher.openai_client import Teacher, explain, pause_before, transient

_PATIENCE_S = 3600.0
_TIMEOUT_S = 600.0  # a file of 100 MB takes its time
Result = TypeVar("Result")


class RefusedError(UserError):
    """The server refuses to create a batch: there is none, and nothing to pay."""


class BatchServer:
    """Uploads files, creates batches and looks at them.

    Every call raises UserError for what is wrong with the server, the key or the model.
    """

    def __init__(self, teacher: Teacher, api_key: str | None):
        self._teacher = replace(teacher, timeout_s=_TIMEOUT_S)
        # The client's own tries again would pay for a batch twice.
        self._client = AsyncOpenAI(
            api_key=api_key, base_url=teacher.base_url, max_retries=0, timeout=_TIMEOUT_S
        )
        self._answered = False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def upload(self, name: str, data: bytes) -> str:
        """Upload a file of requests. Returns its id; nothing is paid yet."""
        no_api = "this server has no Batch API; set annotate.batch=false"
        file = await self._call(
            lambda _: self._client.files.create(file=(name, data), purpose="batch"), missing=no_api
        )
        return file.id

    async def create(self, file: str, about: dict[str, str]) -> Batch:
        """Have a file's requests answered: from here on they are paid for. `about` is for people to read.

        Raises:
            RefusedError: where no batch was created.
        """

        async def create(attempt: int) -> Batch:
            standing = await self._find(file) if attempt > 1 else None
            try:
                return standing or await self._client.batches.create(
                    input_file_id=file, endpoint=ENDPOINT, completion_window="24h", metadata=about
                )
            except openai.APIStatusError as error:
                if transient(error) or error.status_code >= 500:
                    raise
                raise RefusedError(self._explain(error)) from error

        return await self._call(create)

    async def find(self, file: str) -> Batch | None:
        """Find the batch of an uploaded file, if it was created."""
        return await self._call(lambda _: self._find(file))

    async def look(self, batch: str, missing: str) -> Batch:
        """Return how a batch stands; `missing` says what to do where the server does not know it."""
        return await self._call(lambda _: self._client.batches.retrieve(batch), missing)

    async def download(self, file: str, missing: str) -> bytes:
        """Return an output or error file."""
        content = await self._call(lambda _: self._client.files.content(file), missing)
        return content.content

    async def _find(self, file: str) -> Batch | None:
        async for batch in self._client.batches.list(limit=100):
            if batch.input_file_id == file:
                return batch
        return None

    async def _call(self, once: Callable[[int], Awaitable[Result]], missing: str = "") -> Result:
        retrying = AsyncRetrying(
            stop=self._enough, wait=pause_before, retry=retry_if_exception(transient), reraise=True
        )
        try:
            async for attempt in retrying:
                with attempt:
                    result = await once(attempt.retry_state.attempt_number)
        except openai.NotFoundError as error:
            told = self._explain(error)
            raise UserError(f"{told}; {missing}" if missing else told) from error
        except openai.OpenAIError as error:
            raise UserError(self._explain(error)) from error
        self._answered = True
        return result

    def _explain(self, error: Exception) -> str:
        return explain(error, self._teacher, str(self._client.base_url))

    def _enough(self, state: RetryCallState) -> bool:
        patient = self._answered and (state.seconds_since_start or 0.0) < _PATIENCE_S
        return state.attempt_number > self._teacher.retries and not patient
