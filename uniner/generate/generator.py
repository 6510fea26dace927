"""The generate stage's worker: a chunk of briefs in, the passages that the teacher wrote out, one for one."""

from uniner.records import GENERATED_PASSAGE, Brief, GeneratedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.teacher.completion import Rejection
from uniner.teacher.replies import Replies
from uniner.teacher.reply_cache import Kept
from uniner.teacher.reply_parser import refuses, without_thoughts


class Generator:
    """The stage's worker."""

    def __init__(self, replies: Replies):
        self._replies = replies

    async def __call__(self, chunk: Chunk) -> Chunk:
        """Have a chunk's passages written."""
        briefs = from_table(chunk.table, Brief)
        answers, figures = await self._replies.to([brief.text for brief in briefs])
        passages = [self._record(brief, answer) for brief, answer in zip(briefs, answers, strict=True)]
        return Chunk(chunk.key, to_table(passages, GENERATED_PASSAGE), figures=figures)

    def set_aside(self, chunk: Chunk, reason: str) -> Chunk:
        """Return what becomes of briefs that kill the engine of a served teacher: no passages."""
        poison = Rejection("poison", reason, 0)
        passages = [self._record(brief, poison) for brief in from_table(chunk.table, Brief)]
        return Chunk(chunk.key, to_table(passages, GENERATED_PASSAGE))

    def _record(self, brief: Brief, answer: Kept | Rejection) -> GeneratedPassage:
        if isinstance(answer, Rejection):
            outcome, text, said, tokens_in, tokens_out = answer.outcome, "", answer.said, 0, 0
        else:
            outcome, text = judge(answer.text, answer.finish_reason, answer.refusal, brief.words)
            said, tokens_in, tokens_out = answer.text, answer.tokens_in, answer.tokens_out
        return GeneratedPassage(
            doc_id=brief.doc_id,
            source=brief.source,
            text=text,
            outcome=outcome,
            reply=said,
            brief=brief.text,
            model=self._replies.teacher.model,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost_usd=self._replies.teacher.usd(tokens_in, tokens_out),
            attempts=answer.attempts,
        )


def judge(reply: str, finish_reason: str | None, refusal: str | None, words: int) -> tuple[str, str]:
    """Return the outcome of a reply (see `records.GeneratedPassage`) and the passage, "" where there is none.

    `words` are those that were asked for: a letter may begin with "I am sorry to tell you", but a refusal in
    the same words is short.
    """
    if refusal:
        return "refused", ""
    if finish_reason == "content_filter":
        return "filtered", ""
    if finish_reason == "length":
        return "too_long", ""
    text = without_thoughts(reply).strip()
    if not text:
        return "empty", ""
    if refuses(text) and len(text.split()) < words / 2:
        return "refused", ""
    return "ok", text
