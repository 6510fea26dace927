"""InstructUIE: one instruction for all types of a passage, an encoder-decoder model, through transformers.

Instruction, options and layout are those of its released data for named entities (the first of its wordings).
"""

from collections.abc import Sequence
from typing import Any

from uniner.evaluate.systems import InProcess, judged
from uniner.evaluate.systems.instructions import Found, labelled
from uniner.inference.questions import PassageAnswers, Questions, TypeAnswer
from uniner.storage.model_folders import local_model

_INSTRUCTION = (
    "Please list all entity words in the text that fit the category."
    'Output format is "type1: word1; type2: word2". \n'
)


def prompt(passage: str, types: Sequence[str]) -> str:
    """Return what the model is asked."""
    return f"{_INSTRUCTION}Option: {', '.join(types)} \nText: {passage} \nAnswer:"


def parse(types: Sequence[str], answer: str) -> Found | None:
    """Read `type: word; type: word`, or None; an answer that names none of the types is broken."""
    return labelled(types, answer.split(";"))


class InstructUIE(InProcess):
    """The model in this process; it decodes greedily, passages of one length together."""

    def __init__(
        self,
        model: str,
        max_prompt_tokens: int,
        max_answer_tokens: int,
        batch_passages: int,
        on_gpu: bool,
        dtype: str,
    ):
        """`model` is a folder, s3:// address or hub name; dtype as vLLM names them."""
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        super().__init__()
        where = local_model(model)
        self._tokenizer = AutoTokenizer.from_pretrained(where)
        number = dtype if dtype == "auto" else getattr(torch, dtype)
        self._device = "cuda" if on_gpu else "cpu"
        self._model: Any = AutoModelForSeq2SeqLM.from_pretrained(where, dtype=number).to(self._device).eval()
        self._max_prompt_tokens, self._max_answer_tokens = max_prompt_tokens, max_answer_tokens
        self._batch_passages = batch_passages

    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Ask about the passages that fit, by length."""
        ids = [self._tokenizer(prompt(passage, types)).input_ids for passage, types in questions]
        fits = [place for place, one in enumerate(ids) if len(one) <= self._max_prompt_tokens]
        replies = [[TypeAnswer(name, "overlong", {}) for name in types] for _, types in questions]
        tokens = [0] * len(questions)
        fits.sort(key=lambda place: len(ids[place]))
        for first in range(0, len(fits), self._batch_passages):
            places = fits[first : first + self._batch_passages]
            answers = self._answer([ids[place] for place in places])
            for place, (text, ended, count) in zip(places, answers, strict=True):
                failed = "" if ended else "too_long"
                replies[place], tokens[place] = judged(questions[place][1], text, failed, parse), count
        return [
            PassageAnswers(
                tuple(said),
                {"questions": 1, "prompt_tokens": len(one), "answer_tokens": count} if count else {},
            )
            for said, one, count in zip(replies, ids, tokens, strict=True)
        ]

    def _answer(self, prompts: list[list[int]]) -> list[tuple[str, bool, int]]:
        """Return each answer's text, whether it ended by itself, and its tokens."""
        import torch

        batch = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=self._max_answer_tokens,
                do_sample=False,
                num_beams=1,
            )
        end = self._tokenizer.eos_token_id
        answers = []
        for row in made.tolist():
            ids = row[1:]  # the first starts the decoder
            ended = end in ids
            ids = ids[: ids.index(end)] if ended else ids
            answers.append(
                (self._tokenizer.decode(ids, skip_special_tokens=True).strip(), ended, len(ids) + 1)
            )
        return answers
