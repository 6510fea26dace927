"""Instruction-tuned models through vLLM, each in the prompt form that it was trained with."""

from collections import Counter
from collections.abc import Sequence

from uniner.evaluate.systems import judged
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


class Instructed:
    """A model that is asked in a prompt form, of which `{instruction}` is a part."""

    def __init__(self, engine: EngineProtocol, form: str, instruction: Instruction):
        self._engine, self._form, self._instruction = engine, form, instruction

    async def ask(self, passage: str, types: Sequence[str]) -> PassageAnswers:
        """Ask about a passage: all its questions together."""
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
            for reply in _judge(self._instruction, group, answer)
        ]
        return PassageAnswers(tuple(replies), dict(figures))

    async def ask_all(self, questions: Questions) -> list[PassageAnswers]:
        """Ask about many (passage, types), in order."""
        return await ask_concurrently(self.ask, questions)

    def _prompt(self, instruction: str) -> list[int]:
        # Special tokens in the text are split: a passage cannot smuggle one in.
        text = self._form.replace(_INSTRUCTION, instruction)
        return self._engine.tokenizer(text, split_special_tokens=True).input_ids


def _judge(instruction: Instruction, types: Sequence[str], answer: EngineAnswer | None) -> list[TypeAnswer]:
    if answer is None:
        return [TypeAnswer(name, "overlong", {}) for name in types]
    failed = "too_long" if answer.finish == "length" else ""
    return judged(types, answer.text, failed, instruction.parse)


def start(model: str, kind: str, instruction: Instruction, settings: EngineSettings) -> Instructed:
    """Start an engine on a model (folder, s3:// address or hub name)."""
    return Instructed(Engine(local_model(model), settings), FORMS[kind], instruction)
