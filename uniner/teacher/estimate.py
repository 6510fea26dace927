"""What annotating would take, told before anything is spent: passages, tokens, price, time, a sample prompt.

Tokens are estimated, not counted, for any teacher's tokenizer: `CHARACTERS_A_TOKEN` characters a token, and a
reply of a third of its passage (of 700 of ChatGPT's replies on the Pile, the mean is 0.34), at the most
max_reply_tokens. Time is the longest of what each limit asks for; without replies seen, a reply is taken to
last two seconds.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from uniner.runtime.rate_limits import Limits
from uniner.teacher.batch.files import Room, request_line
from uniner.teacher.openai_client import CHARACTERS_A_TOKEN, Teacher

_REPLY_SHARE = 1 / 3
_REPLY_SECONDS = 2.0


@dataclass(frozen=True)
class Work:
    """Passages to ask about, and the tokens that takes."""

    passages: float
    tokens_in: float
    tokens_out: float

    def scaled(self, factor: float) -> "Work":
        """Return so many times the work."""
        return Work(self.passages * factor, self.tokens_in * factor, self.tokens_out * factor)


def estimate(teacher: Teacher, passages: Iterable[str]) -> Work:
    """Estimate the work of asking about passages."""
    texts = list(passages)
    prompt = sum(len(message["content"]) for message in teacher.request("")["messages"])
    tokens_in = sum(prompt + len(text) for text in texts) / CHARACTERS_A_TOKEN
    tokens_out = sum(
        min(teacher.max_reply_tokens, len(text) * _REPLY_SHARE / CHARACTERS_A_TOKEN) for text in texts
    )
    return Work(len(texts), tokens_in, tokens_out)


def seconds(work: Work, limits: Limits, in_flight: int) -> tuple[float, str]:
    """Return how long the work takes at the least, and which setting decides that."""
    times = {"annotate.in_flight and actors": work.passages * _REPLY_SECONDS / in_flight}
    if limits.requests_per_minute:
        times["annotate.requests_per_minute"] = work.passages * 60 / limits.requests_per_minute
    if limits.tokens_per_minute:
        tokens = work.tokens_in + work.tokens_out
        times["annotate.tokens_per_minute"] = tokens * 60 / limits.tokens_per_minute
    which = max(times, key=lambda name: times[name])
    return times[which], which


def batches(teacher: Teacher, work: Work) -> tuple[int, float]:
    """Return the files that the work takes in batches, and the US dollars that it may cost at the most."""
    prompt = sum(len(message["content"]) for message in teacher.request("")["messages"])
    around = len(request_line("0" * 32, teacher.request(""))) - prompt
    room, size = Room(), work.tokens_in * CHARACTERS_A_TOKEN + work.passages * around
    files = math.ceil(max(work.passages / room.requests, size / room.bytes))
    return files, teacher.usd(size, work.passages * teacher.max_reply_tokens)


def describe(
    teacher: Teacher,
    limits: Limits,
    in_flight: int,
    work: Work,
    total: int,
    done: int,
    sample: str,
    engines: str | None = None,
    batch: bool = False,
) -> str:
    """Return the plan as text: `work` is left to ask of `total` passages, `done` are in finished chunks.

    `engines` says which ones serve the teacher, where no server does: how fast they are nobody knows before.
    """
    kept = total - done - work.passages
    usd = teacher.usd(work.tokens_in, work.tokens_out)
    prices = f"{teacher.usd_per_million_in:g} and {teacher.usd_per_million_out:g} USD a million tokens"
    price = f"about {usd:,.2f} USD at {prices}"
    if not teacher.usd_per_million_in and not teacher.usd_per_million_out:
        price = "unknown; set annotate.usd_per_million_in and annotate.usd_per_million_out"
        price = "that of the machines" if engines else price
    time = _time(work, limits, in_flight, batch)
    lines = [
        f"teacher   {teacher.model}",
        f"passages  {work.passages:,.0f} to ask of {total:,} ({done:,} done, {kept:,.0f} in the cache)",
        f"tokens    about {work.tokens_in:,.0f} in and {work.tokens_out:,.0f} out",
        f"price     {price}",
        f"engines   {engines}; how long they take is not known" if engines else f"time      {time}",
    ]
    if batch:
        files, at_most = batches(teacher, work)
        all_at_once = f", all at once with a budget of about {at_most:,.2f} USD" if at_most else ""
        lines.append(f"batches   {files:,}{all_at_once}; the prices must be those of batches")
    if limits.budget_usd is not None:
        enough = "is enough" if usd <= limits.budget_usd else "will stop the run on its way"
        lines.append(f"budget    {limits.budget_usd:,.2f} USD for the whole run: by this plan it {enough}")
    prompt = [f"  {part['role']}: {part['content']}" for part in teacher.prompt.messages(sample)]
    return "\n".join([*lines, "a sample prompt:", *prompt])


def _time(work: Work, limits: Limits, in_flight: int, batch: bool) -> str:
    if batch:
        return "up to 24 h a batch (annotate.batch)"
    duration, decides = seconds(work, limits, in_flight)
    return f"{_duration(duration)} or more ({decides} decides)"


def _duration(length_s: float) -> str:
    if length_s < 120:
        return f"{length_s:.0f} s"
    return f"{length_s / 60:.0f} min" if length_s < 3 * 3600 else f"{length_s / 3600:.1f} h"
