"""Instruction-tuned models through vLLM, each in the prompt form of its training."""

from collections import Counter
from collections.abc import Sequence

from uniner.evaluate.systems import parse_replies
from uniner.evaluate.systems.instructions import Instruction
from uniner.inference.engine import Engine, EngineAnswer, EngineSettings
from uniner.inference.questions import (
    EngineProtocol,
    PassageAnswers,
    Questions,
    TypeAnswer,
    ask_concurrently,
    send_prompts,
)
from uniner.storage.model_folders import local_model

_INSTRUCTION = "{instruction}"
FORMS = {
    # FastChat's conversation template vicuna_v1.1.
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. USER: {instruction} ASSISTANT:"
    ),
    # Stanford Alpaca's prompt without input.
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n{instruction}\n\n### Response:"
    ),
}


class InstructedModel:
    """A model with a prompt form, in which `{instruction}` is replaced."""

    def __init__(self, engine: EngineProtocol, form: str, instruction: Instruction):
        self._engine, self._form, self._instruction = engine, form, instruction
        self.tokenizer, self.max_prompt_tokens = engine.tokenizer, engine.max_prompt_tokens

    async def ask(self, passage: str, types: Sequence[str]) -> PassageAnswers:
        """Ask all questions about a passage together."""
        figures: Counter[str] = Counter()
        groups = self._instruction.groups(types)
        answers = await send_prompts(
            self._engine,
            len(groups),
            lambda: [self._prompt(self._instruction.text(passage, group)) for group in groups],
            figures,
        )
        replies = [
            reply
            for group, answer in zip(groups, answers, strict=True)
            for reply in _parse(self._instruction, group, answer)
        ]
        return PassageAnswers(tuple(replies), dict(figures))

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Answer each (passage, types), in order."""
        return await ask_concurrently(self.ask, questions)

    def _prompt(self, instruction: str) -> list[int]:
        # Special tokens in the text are split, so that a passage cannot inject one.
        text = self._form.replace(_INSTRUCTION, instruction)
        return self._engine.tokenizer(text, split_special_tokens=True).input_ids


def _parse(instruction: Instruction, types: Sequence[str], answer: EngineAnswer | None) -> list[TypeAnswer]:
    if answer is None:
        return [TypeAnswer(name, "overlong", {}) for name in types]
    failure = "too_long" if answer.finish == "length" else ""
    return parse_replies(types, answer.text, failure, instruction.parse)


def start(model: str, kind: str, instruction: Instruction, settings: EngineSettings) -> InstructedModel:
    """Start an engine on a model (folder, s3:// address or hub name)."""
    return InstructedModel(Engine(local_model(model), settings), FORMS[kind], instruction)
