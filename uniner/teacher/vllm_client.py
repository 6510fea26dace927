"""Ask a teacher that a vLLM engine of this process serves, in place of a server over HTTP. No Ray, no config.

The messages become token ids by the model's own chat template; all passages share the prompt's beginning,
which the engine computes once. Engine and prompt length are known before the model is loaded, and loaded it
is by the first passage that is really asked about: a run whose replies are all kept loads nothing.
"""

from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from uniner.errors import UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.runtime.rate_limits import Gate, Want
from uniner.storage.model_folders import local_model
from uniner.teacher.completion import Rejection, Reply
from uniner.teacher.openai_client import Teacher


def engine_of(teacher: Teacher, model: str, settings: EngineSettings) -> Engine:
    """Return the engine of a model (folder, s3:// address or hub name).

    Raises:
        UserError: where the model cannot be asked what the teacher is asked.
    """
    engine = Engine(
        local_model(model),
        replace(settings, max_answer_tokens=teacher.max_reply_tokens),
        with_schemas=teacher.reply_format == "json_schema",
        lazy=True,
    )
    try:
        prompt = _prompt(engine, teacher.request(""))
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
            f"{model}: the prompt alone has {len(prompt)} tokens, {engine.max_prompt_tokens} are allowed; "
            "raise teacher.max_prompt_tokens, or lower annotate.max_reply_tokens if the model takes no more"
        )
    return engine


class ServedLine:
    """An actor's line to the teacher that it serves itself."""

    def __init__(self, teacher: Teacher, engine: Engine, gate: Gate):
        self._teacher, self._engine, self._gate = teacher, engine, gate

    async def ask(self, request: dict[str, Any]) -> tuple[Reply, Want] | Rejection:
        """Ask once. The reply comes with what the gate holds for it: the caller lets the gate go.

        Raises:
            Stopped: the budget is spent.
        """
        schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
        async with self._engine.admitted(1):
            # Rendered only now: a chunk's passages are not all held as token ids at once.
            prompt, longest = _prompt(self._engine, request), self._engine.max_prompt_tokens
            if len(prompt) > longest:
                said = f"the prompt has {len(prompt)} tokens, and {longest} are allowed; it was not sent"
                return Rejection("rejected", said, 0)
            tokens = (len(prompt), request["max_tokens"])
            want = Want(sum(tokens), self._teacher.usd(*tokens))
            await self._gate.enter(want)
            try:
                (answer,) = await self._engine.ask([prompt], request["temperature"], schema)
            except BaseException:
                self._gate.leave(want)
                raise
        return Reply(answer.text, answer.finish, "", len(prompt), answer.tokens, 1), want


def _prompt(engine: Engine, request: dict[str, Any]) -> list[int]:
    """Return a request's messages as the model's chat template lays them out, ready for the reply."""
    ids: list[int] = engine.tokenizer.apply_chat_template(
        request["messages"], add_generation_prompt=True, return_dict=False
    )
    return ids
