"""The client of a server's Batch API, on the openai client.

Once a server has answered, a lost connection or a 5xx is retried for up to an hour before it ends the run.
Uploads, status queries and downloads may be repeated. Creating a batch costs money, so it is repeated only
where the server's list has no batch of the same file.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import openai
from openai import AsyncOpenAI
from openai.types import Batch
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from uniner.errors import UserError
from uniner.teacher.batch.files import ENDPOINT
from uniner.teacher.openai_client import OpenAIServer, explain, is_transient, seconds_before_retry

_RETRY_SECONDS = 3600.0
_LATE_S = 20.0
"""For how long a batch may be created after the connection that asked for it was lost."""
_TIMEOUT_S = 600.0  # enough to upload a file of 100 MB
Result = TypeVar("Result")


class BatchRefusedError(UserError):
    """The server refused to create a batch: none exists, and nothing is paid."""


class BatchClient:
    """Uploads files, creates batches and looks at them. form: of the requests in the files.

    Every method raises UserError for an error about the server, the key or the model.
    """

    def __init__(self, model: str, server: OpenAIServer):
        self._model, self._server = model, replace(server, timeout_s=_TIMEOUT_S)
        self.form = server.form
        # The openai client's own retries would pay for a batch twice.
        self._client = AsyncOpenAI(
            api_key=server.api_key, base_url=server.base_url, max_retries=0, timeout=_TIMEOUT_S
        )
        self._has_answered = False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def upload(self, name: str, data: bytes) -> str:
        """Upload a file of requests. Returns its id. This costs nothing yet."""
        file = await self._call(
            lambda _: self._client.files.create(file=(name, data), purpose="batch"),
            hint="this server has no Batch API; set teacher.kind=openai",
        )
        return file.id

    async def create(self, file: str, metadata: dict[str, str]) -> Batch:
        """Create the batch of an uploaded file: its requests cost money from now on.

        Raises:
            BatchRefusedError: where no batch was created.
        """

        async def create(attempt: int) -> Batch:
            existing = await self._find_late(file) if attempt > 1 else None
            try:
                return existing or await self._client.batches.create(
                    input_file_id=file, endpoint=ENDPOINT, completion_window="24h", metadata=metadata
                )
            except openai.APIStatusError as error:
                if is_transient(error) or error.status_code >= 500:
                    raise
                raise BatchRefusedError(self._explain(error)) from error

        return await self._call(create)

    async def find(self, file: str, hint: str) -> Batch | None:
        """Return the batch of an uploaded file; None where it was not created.

        Raises:
            UserError: with the hint, where the server does not know the file: another server or account does.
        """
        batch = await self._call(lambda _: self._find_late(file))
        if batch is None:
            await self._call(lambda _: self._client.files.retrieve(file), hint)
        return batch

    async def status(self, batch: str, hint: str) -> Batch:
        """Return a batch's current state. `hint`: what to do where the server does not know it."""
        return await self._call(lambda _: self._client.batches.retrieve(batch), hint)

    async def download(self, file: str, hint: str) -> bytes:
        """Return the content of an output or error file."""
        content = await self._call(lambda _: self._client.files.content(file), hint)
        return content.content

    async def _find_late(self, file: str) -> Batch | None:
        """Look for the batch of a file for a while: the server may still be creating it."""
        deadline = time.monotonic() + _LATE_S
        while (batch := await self._find(file)) is None and time.monotonic() < deadline:
            await asyncio.sleep(_LATE_S / 10)
        return batch

    async def _find(self, file: str) -> Batch | None:
        async for batch in self._client.batches.list(limit=100):
            if batch.input_file_id == file:
                return batch
        return None

    async def _call(self, call: Callable[[int], Awaitable[Result]], hint: str = "") -> Result:
        retrying = AsyncRetrying(
            stop=self._give_up,
            wait=seconds_before_retry,
            retry=retry_if_exception(is_transient),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    result = await call(attempt.retry_state.attempt_number)
        except openai.NotFoundError as error:
            message = self._explain(error)
            raise UserError(f"{message}; {hint}" if hint else message) from error
        except openai.OpenAIError as error:
            raise UserError(self._explain(error)) from error
        self._has_answered = True
        return result

    def _explain(self, error: Exception) -> str:
        return explain(error, self._model, self._server, str(self._client.base_url))

    def _give_up(self, state: RetryCallState) -> bool:
        patient = self._has_answered and (state.seconds_since_start or 0.0) < _RETRY_SECONDS
        return state.attempt_number > self._server.retries and not patient
