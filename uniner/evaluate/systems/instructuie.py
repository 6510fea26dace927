"""InstructUIE: one instruction for all types of a passage, an encoder-decoder model, through transformers.

Instruction, options and layout are those of its released data for named entities (the first of its wordings).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from uniner.evaluate.systems import InProcessSystem, parse_replies
from uniner.evaluate.systems.instructions import MentionsByType, parse_labelled
from uniner.inference.questions import PassageAnswers, Questions, TypeAnswer
from uniner.runtime.work_count import expect_work, work_done
from uniner.storage.model_folders import local_model

_INSTRUCTION = (
    "Please list all entity words in the text that fit the category."
    'Output format is "type1: word1; type2: word2". \n'
)


class DecodedAnswer(NamedTuple):
    """An answer's text, whether it ended with the end token, and its number of tokens."""

    text: str
    ended: bool
    tokens: int


def prompt(passage: str, types: Sequence[str]) -> str:
    """Return the prompt."""
    return f"{_INSTRUCTION}Option: {', '.join(types)} \nText: {passage} \nAnswer:"


def parse(types: Sequence[str], answer: str) -> MentionsByType | None:
    """Parse `type: word; type: word`, or None; an answer without any of the types is broken."""
    return parse_labelled(types, answer.split(";"))


class InstructUIEModel(InProcessSystem):
    """The model in this process. It decodes greedily, in batches of passages with similar lengths."""

    def __init__(
        self,
        model: str,
        max_prompt_tokens: int,
        max_answer_tokens: int,
        batch_passages: int,
        on_gpu: bool,
        dtype: str,
    ):
        """`model` is a folder, s3:// address or hub name; dtype is named as in vLLM."""
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        super().__init__()
        folder = local_model(model)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        torch_dtype = dtype if dtype == "auto" else getattr(torch, dtype)
        self._device = "cuda" if on_gpu else "cpu"
        loaded: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch_dtype)
        self._model = loaded.to(self._device).eval()
        self.max_prompt_tokens, self._max_answer_tokens = max_prompt_tokens, max_answer_tokens
        self._batch_passages = batch_passages

    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Answer the questions whose prompt fits, the shortest first."""
        prompts = [self.tokenizer(prompt(passage, types)).input_ids for passage, types in questions]
        fitting = [number for number, ids in enumerate(prompts) if len(ids) <= self.max_prompt_tokens]
        replies = [[TypeAnswer(name, "overlong", {}) for name in types] for _, types in questions]
        tokens = [0] * len(questions)
        fitting.sort(key=lambda number: len(prompts[number]))
        expect_work(len(fitting))
        for first in range(0, len(fitting), self._batch_passages):
            numbers = fitting[first : first + self._batch_passages]
            answers = self._answer([prompts[number] for number in numbers])
            for number, answer in zip(numbers, answers, strict=True):
                failure = "" if answer.ended else "too_long"
                replies[number] = parse_replies(questions[number][1], answer.text, failure, parse)
                tokens[number] = answer.tokens
            work_done(len(numbers))
        return [
            PassageAnswers(
                tuple(passage),
                {"questions": 1, "prompt_tokens": len(ids), "answer_tokens": count} if count else {},
            )
            for passage, ids, count in zip(replies, prompts, tokens, strict=True)
        ]

    def _answer(self, prompts: list[list[int]]) -> list[DecodedAnswer]:
        import torch

        batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=self._max_answer_tokens,
                do_sample=False,
                num_beams=1,
            )
        end = self.tokenizer.eos_token_id
        answers = []
        for row in output.tolist():
            ids = row[1:]  # the first id is the decoder's start token
            ended = end in ids
            ids = ids[: ids.index(end)] if ended else ids
            text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
            answers.append(DecodedAnswer(text, ended, len(ids) + 1))
        return answers
