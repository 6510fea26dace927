"""The client of a teacher that runs in a vLLM engine of this process. No Ray, no config.

The messages become token ids by the model's own chat template. All passages share the beginning of the
prompt, which the engine computes once. The prompt is checked before the model is loaded, and the first
passage without a cached reply loads the model: a run whose replies are all cached loads nothing.
"""

import functools
import re
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from uniner.errors import UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.runtime.gate import Gate
from uniner.runtime.rate_limits import Reservation
from uniner.storage.model_folders import local_model
from uniner.teacher.completion import ChatRequest, Rejection, Teacher, TeacherReply

_CUT = "\ue0f7"
"""A private character that no model's template has: where a passage's text is divided."""


def teacher_engine(teacher: Teacher, model: str, settings: EngineSettings) -> Engine:
    """Return the engine of a model (folder, s3:// address or hub name).

    Raises:
        UserError: where the model cannot take the teacher's prompt.
    """
    engine = Engine(
        local_model(model),
        replace(settings, max_answer_tokens=teacher.max_reply_tokens),
        with_schemas=teacher.reply_format == "json_schema",
        lazy=True,
    )
    try:
        prompt = _token_ids(engine, teacher.request(""))
    except (ValueError, TemplateError) as error:
        if not getattr(engine.tokenizer, "chat_template", None):
            raise UserError(
                f"{model}: its tokenizer has no chat template; name a model that follows instructions, or "
                "put its chat_template.jinja into the folder"
            ) from None
        raise UserError(
            f"{model}: its chat template refuses the prompt ({error}); name one without a System line in "
            "annotate.prompt"
        ) from None
    if len(prompt) >= engine.max_prompt_tokens:
        raise UserError(
            f"{model}: the prompt alone has {len(prompt)} tokens, the limit is {engine.max_prompt_tokens}; "
            "raise teacher.max_prompt_tokens, or lower annotate.max_reply_tokens if the model takes no more"
        )
    return engine


class VllmClient:
    """An actor's client of the engine that it runs itself."""

    def __init__(self, teacher: Teacher, engine: Engine, gate: Gate):
        self._teacher, self._engine, self._gate = teacher, engine, gate

    async def close(self) -> None:
        """Do nothing: the engine ends with the actor's process."""

    async def ask(self, request: ChatRequest) -> tuple[TeacherReply, Reservation] | Rejection:
        """Ask once. The caller settles the reservation that comes with the reply.

        Raises:
            Stopped: the budget is spent.
        """
        schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
        async with self._engine.admitted(1):
            # Rendered only now, so that a chunk's passages are not all in memory as token ids.
            prompt, limit = _token_ids(self._engine, request), self._engine.max_prompt_tokens
            if len(prompt) > limit:
                reason = f"not sent: the prompt has {len(prompt)} tokens, the limit is {limit}"
                return Rejection(outcome="rejected", reason=reason, attempts=0)
            tokens = (len(prompt), request["max_tokens"])
            reservation = Reservation(tokens=sum(tokens), usd=self._teacher.usd(*tokens))
            await self._gate.enter(reservation)
            try:
                (answer,) = await self._engine.ask([prompt], request["temperature"], schema)
            except BaseException:
                self._gate.settle(reservation)
                raise
        reply = TeacherReply(
            text=answer.text,
            finish_reason=answer.finish,
            refusal="",
            tokens_in=len(prompt),
            tokens_out=answer.tokens,
            attempts=1,
        )
        return reply, reservation


def _token_ids(engine: Engine, request: ChatRequest) -> list[int]:
    """Return a request's messages by the model's chat template, with the generation prompt.

    Only the template writes control tokens: one that a passage names is plain text.
    """
    return render_chat(engine.tokenizer, request["messages"])


def render_chat(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Return chat messages as token ids. tokenizer: of transformers, with a chat template."""
    cut = [{**message, "content": _cut(tokenizer, message["content"])} for message in messages]
    if cut == messages:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    text = tokenizer.apply_chat_template(cut, add_generation_prompt=True, tokenize=False)
    pieces = text.split(_CUT)
    return [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False).input_ids]


def _cut(tokenizer: Any, text: str) -> str:
    """Cut each name of an added token in a text after its first character, so that it is not read as one."""
    names = _added_tokens(tokenizer)
    if not names.search(text):
        return text
    text = text.replace(_CUT, "")
    while names.search(text):  # a cut name may leave a shorter one
        text = names.sub(lambda name: name[0][0] + _CUT + name[0][1:], text)
    return text


@functools.lru_cache(4)
def _added_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern of the names of a tokenizer's special and other added tokens, the longest first."""
    names = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    longest_first = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
