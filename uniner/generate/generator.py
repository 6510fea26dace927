"""The generate stage's worker: has the teacher write the passages of a chunk of briefs."""

from uniner.records import GENERATED_PASSAGE, Brief, GeneratedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.teacher.cached_teacher import CachedTeacher
from uniner.teacher.completion import Rejection
from uniner.teacher.reply_cache import CachedReply
from uniner.teacher.reply_parser import is_refusal, withheld, without_thoughts


class Generator:
    """Turns a chunk of briefs into the teacher's passages, one for each brief in order."""

    def __init__(self, teacher: CachedTeacher):
        self._teacher = teacher

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Have a chunk's passages written."""
        briefs = from_table(chunk.table, Brief)
        passages, figures = await self._teacher.ask_about(briefs, self._passage)
        return Chunk(chunk.key, to_table(passages, GENERATED_PASSAGE), figures=figures)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return the records, without text, of briefs that crash the teacher's engine."""
        poison = Rejection(outcome="poison", reason=reason, attempts=0)
        passages = [self._passage(brief, poison) for brief in from_table(chunk.table, Brief)]
        return Chunk(chunk.key, to_table(passages, GENERATED_PASSAGE))

    def _passage(self, brief: Brief, answer: CachedReply | Rejection) -> GeneratedPassage:
        if isinstance(answer, Rejection):
            outcome, text = answer.outcome, ""
        else:
            outcome, text = judge_passage(answer.text, answer.finish_reason, answer.refusal, brief.words)
        return GeneratedPassage(
            doc_id=brief.doc_id,
            source=brief.source,
            text=text,
            outcome=outcome,
            brief=brief.text,
            **self._teacher.fields_of(answer),
        )


def judge_passage(reply: str, finish_reason: str | None, refusal: str | None, words: int) -> tuple[str, str]:
    """Return the outcome of a reply (see `records.GeneratedPassage`) and its passage, "" where it has none.

    `words` is the length that the brief asks for: a letter may begin with "I am sorry to tell you", but a
    refusal in the same words is short.
    """
    if outcome := withheld(finish_reason, refusal):
        return outcome, ""
    if finish_reason == "length":
        return "too_long", ""
    text = without_thoughts(reply).strip()
    if not text:
        return "empty", ""
    if is_refusal(text) and len(text.split()) < words / 2:
        return "refused", ""
    return "ok", text
