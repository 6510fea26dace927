"""The settings of a teacher: the section `[teacher]`, and `teacher` of evaluate's chat systems.

`kind` says how the model is reached: `openai` (a server, online), `batch` (a server's Batch API), `vllm` (an
open model in the job's own actors) or `recording` (recorded replies, for tests and the quickstart). Only the
model decides what comes out, so a run may switch between `openai` and `batch`.
"""

from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator

from uniner.config.base import NOT_IDENTITY, NUMBER, Count, NotNegative, Positive, Section, Serving

_EXAMPLE = "http://127.0.0.1:8000/v1"
_OWN_FIELDS = {
    "model": "teacher.model sets it",
    "messages": "the stage's prompt sets them",
    "temperature": "the stage's temperature sets it",
    "response_format": "annotate.reply_format sets it",
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "the stage's max_reply_tokens sets it"),
    **dict.fromkeys(("n", "best_of"), "one reply is read, and each is paid for"),
    **dict.fromkeys(("stream", "stream_options"), "replies are read whole"),
}
"""Fields of a request that `extra_body` may not have."""


class HttpTeacher(Section):
    """A model behind an HTTP server: limits and prices."""

    actors: Count = Field(1, json_schema_extra=NOT_IDENTITY)
    """Most actors that send requests."""
    in_flight: Count = Field(64, json_schema_extra=NOT_IDENTITY)
    """Requests in flight per actor."""
    timeout_s: Positive = Field(60.0, json_schema_extra=NOT_IDENTITY)
    """Seconds until a request is given up and tried again."""
    retries: Annotated[int, NUMBER, Field(ge=0)] = Field(6, json_schema_extra=NOT_IDENTITY)
    """Further tries, with back-off, after 408, 409, 429, 5xx, a time-out, a lost connection or an unreadable
    body."""
    requests_per_minute: Positive | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Most requests per minute of all actors together, retries included. Unset: no limit."""
    tokens_per_minute: Positive | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Most tokens per minute of all actors together, prompts and replies. Unset: no limit."""
    usd_per_million_in: NotNegative = Field(0.0, json_schema_extra=NOT_IDENTITY)
    """Price of a million prompt tokens."""
    usd_per_million_out: NotNegative = Field(0.0, json_schema_extra=NOT_IDENTITY)
    """Price of a million reply tokens."""
    stop_grace_s: NotNegative = Field(30.0, json_schema_extra=NOT_IDENTITY)
    """Seconds that requests in flight get to come back when the run is stopped; their replies are kept. A
    second signal ends the run at once."""
    cache: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Folder of the reply cache, shared by all runs that name it. Unset: reply-cache under run.root; for a
    recording, whose replies cost nothing: none."""


class ServerTeacher(HttpTeacher):
    """A model on an OpenAI-compatible server."""

    model: str = "gpt-3.5-turbo"
    """The model's name on the server (paper: gpt-3.5-turbo-0301)."""
    base_url: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Address of the server, such as "http://127.0.0.1:8000/v1". Unset: OpenAI."""
    api_key_env: str = Field("OPENAI_API_KEY", json_schema_extra=NOT_IDENTITY)
    """Name of the environment variable that holds the server's key."""
    extra_body: dict[str, Any] = {}
    """More fields of each request, such as {reasoning_effort = "low"} or {chat_template_kwargs =
    {enable_thinking = false}}. They decide the replies."""
    reply_limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", json_schema_extra=NOT_IDENTITY
    )
    """The request's field for the longest reply. Where a server refuses it, the other one is used."""
    send_temperature: bool = Field(True, json_schema_extra=NOT_IDENTITY)
    """Send the stage's temperature. Where a model refuses one, it is left out, and a line says so."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the replies; extra_body only where it is set, as older runs have
        none."""
        identity = super().identity()
        return identity if self.extra_body else {k: v for k, v in identity.items() if k != "extra_body"}

    @field_validator("base_url")
    @classmethod
    def _is_plain_address(cls, base_url: str | None) -> str | None:
        address = urlsplit(base_url or _EXAMPLE)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f'must be an address such as "{_EXAMPLE}"')
        if address.username is not None or address.query or address.fragment:
            raise ValueError(
                f'must be an address without user, password or query, such as "{_EXAMPLE}"; the key comes '
                "from the environment variable that api_key_env names"
            )
        return base_url

    @field_validator("extra_body")
    @classmethod
    def _adds_fields(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        for name in extra_body:
            if name in _OWN_FIELDS:
                raise ValueError(
                    f"{name} is not allowed here ({_OWN_FIELDS[name]}); add other fields of the request, "
                    'such as {reasoning_effort = "low"}'
                )
        return extra_body


class OpenAITeacher(ServerTeacher):
    """A model on an OpenAI-compatible server, asked online."""

    kind: Literal["openai"] = Field("openai", json_schema_extra=NOT_IDENTITY)
    """`openai`."""


class BatchTeacher(ServerTeacher):
    """A model on an OpenAI-compatible server, asked through its Batch API.

    Each batch is answered within 24 hours. A stop leaves the batches running, and the same command collects
    them. `generate` and evaluate's chat systems ask online all the same.
    """

    kind: Literal["batch"] = Field("batch", json_schema_extra=NOT_IDENTITY)
    """`batch`."""
    batch_price_share: Annotated[float, NUMBER, Field(gt=0, le=1)] = Field(
        0.5, json_schema_extra=NOT_IDENTITY
    )
    """What a token costs in a batch, as a share of the two prices, which are those of requests online."""


class VllmTeacher(Serving):
    """An open model that each actor loads into a vLLM engine of its own: no server, no price per token."""

    kind: Literal["vllm"] = Field("vllm", json_schema_extra=NOT_IDENTITY)
    """`vllm`."""
    model: str
    """Hugging Face folder (local or s3://) or hub name; its tokenizer needs a chat template."""
    actors: Count = Field(1, json_schema_extra=NOT_IDENTITY)
    """Most engines at once, one per actor."""
    max_prompt_tokens: Count = 2048
    """Longest prompt. A passage with a longer one is not asked about and gets the outcome `rejected`. With
    max_reply_tokens it makes the engine's window, unless the model's own is shorter."""
    cache: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Folder of the reply cache, shared by all runs that name it. Unset: reply-cache under run.root."""


class RecordingTeacher(HttpTeacher):
    """Recorded replies, served over HTTP by the driver."""

    kind: Literal["recording"] = Field("recording", json_schema_extra=NOT_IDENTITY)
    """`recording`."""
    path: str = Field(json_schema_extra=NOT_IDENTITY)
    """JSON lines of {"passage", "reply"}, also .gz."""
    model: str = "recorded-teacher"
    """The name that annotations give as their teacher."""


AnyTeacher = OpenAITeacher | BatchTeacher | VllmTeacher | RecordingTeacher


def _kind(settings: Any) -> str:
    return settings.get("kind", "openai") if isinstance(settings, dict) else settings.kind


Teacher = Annotated[
    Annotated[OpenAITeacher, Tag("openai")]
    | Annotated[BatchTeacher, Tag("batch")]
    | Annotated[VllmTeacher, Tag("vllm")]
    | Annotated[RecordingTeacher, Tag("recording")],
    Discriminator(_kind),
]
"""A teacher's settings by `kind`; without one, `openai`."""
TEACHERS: dict[str, type[Section]] = {
    teacher.model_fields["kind"].default: teacher for teacher in get_args(AnyTeacher)
}
"""The settings of each kind."""
