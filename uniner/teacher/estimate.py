"""The estimate of what asking the teacher takes, before anything is spent: tokens, price, time, a prompt.

Tokens are estimated for any teacher's tokenizer, not counted: `CHARACTERS_PER_TOKEN` characters a token, and
a reply a third as long as its passage (the mean of 700 of ChatGPT's replies on the Pile is 0.34) but at most
max_reply_tokens. The time is the longest that any limit leads to, with two seconds a reply.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from uniner.runtime.rate_limits import RateLimits
from uniner.teacher.batch.files import BatchFileLimits, request_line
from uniner.teacher.completion import Teacher
from uniner.teacher.openai_client import CHARACTERS_PER_TOKEN

_REPLY_SHARE = 1 / 3
_REPLY_SECONDS = 2.0


@dataclass(frozen=True)
class RequestEstimate:
    """The number of passages to ask about, and their tokens."""

    passages: float
    tokens_in: float
    tokens_out: float

    def scaled(self, factor: float) -> "RequestEstimate":
        """Return the estimate for `factor` times as many passages."""
        return RequestEstimate(self.passages * factor, self.tokens_in * factor, self.tokens_out * factor)


def estimate_requests(teacher: Teacher, passages: Sequence[str]) -> RequestEstimate:
    """Estimate the tokens of asking about passages."""
    characters = sum(_prompt_characters(teacher) + len(text) for text in passages)
    reply_tokens = (len(text) * _REPLY_SHARE / CHARACTERS_PER_TOKEN for text in passages)
    tokens_out = sum(min(teacher.max_reply_tokens, tokens) for tokens in reply_tokens)
    return RequestEstimate(len(passages), characters / CHARACTERS_PER_TOKEN, tokens_out)


def estimate_seconds(requests: RequestEstimate, limits: RateLimits, in_flight: int) -> tuple[float, str]:
    """Return the shortest time that requests take online, and the setting that decides it."""
    seconds = {"teacher.in_flight and actors": requests.passages * _REPLY_SECONDS / in_flight}
    if limits.requests_per_minute:
        seconds["teacher.requests_per_minute"] = requests.passages * 60 / limits.requests_per_minute
    if limits.tokens_per_minute:
        tokens = requests.tokens_in + requests.tokens_out
        seconds["teacher.tokens_per_minute"] = tokens * 60 / limits.tokens_per_minute
    setting = max(seconds, key=lambda name: seconds[name])
    return seconds[setting], setting


def estimate_batches(teacher: Teacher, requests: RequestEstimate) -> tuple[int, float]:
    """Return the number of files that requests take in batches, and their highest price in USD."""
    line_overhead = len(request_line("0" * 32, teacher.request(""))) - _prompt_characters(teacher)
    size = requests.tokens_in * CHARACTERS_PER_TOKEN + requests.passages * line_overhead
    limits = BatchFileLimits()
    files = math.ceil(max(requests.passages / limits.requests, size / limits.bytes))
    return files, teacher.usd(size, requests.passages * teacher.max_reply_tokens)


@dataclass(frozen=True, kw_only=True)
class TeacherEstimate:
    """A stage's estimate.

    requests: what is left to ask. total, done: all passages, and those in finished chunks. sample: a passage,
    to show the prompt. in_flight: requests at once, of all actors. engines: describes the engines of a
    teacher that the actors serve themselves; their speed is not known beforehand. batch: by the Batch API.
    unit: what is asked about.
    """

    teacher: Teacher
    requests: RequestEstimate
    total: int
    done: int
    sample: str
    limits: RateLimits
    in_flight: int
    engines: str | None = None
    batch: bool = False
    unit: str = "passages"

    def text(self) -> str:
        """Return the estimate as lines of text."""
        asked = self.requests
        usd, budget = self.teacher.usd(asked.tokens_in, asked.tokens_out), self.limits.budget_usd
        lines = [
            f"teacher   {self.teacher.model}",
            f"{self.unit:<9} {asked.passages:,.0f} to ask of {self.total:,} ({self.done:,} done, "
            f"{self.total - self.done - asked.passages:,.0f} in the cache)",
            f"tokens    about {asked.tokens_in:,.0f} in and {asked.tokens_out:,.0f} out",
            f"price     {self._price(usd)}",
            f"engines   {self.engines}; their speed is not known" if self.engines else self._time(),
        ]
        if self.batch:
            files, at_most = estimate_batches(self.teacher, asked)
            at_once = f", all at once with a budget of about {at_most:,.2f} USD" if at_most else ""
            lines.append(f"batches   {files:,}{at_once}")
        if budget is not None:
            verdict = "is enough" if usd <= budget else "will stop the run before its end"
            lines.append(f"budget    {budget:,.2f} USD for the whole run: by this estimate it {verdict}")
        messages = self.teacher.prompt.messages(self.sample)
        prompt = [f"  {message['role']}: {message['content']}" for message in messages]
        return "\n".join([*lines, "a sample prompt:", *prompt])

    def _price(self, usd: float) -> str:
        usd_in, usd_out = self.teacher.usd_per_million_in, self.teacher.usd_per_million_out
        if usd_in or usd_out:
            return f"about {usd:,.2f} USD at {usd_in:g} and {usd_out:g} USD a million tokens"
        if self.engines:
            return "that of the machines"
        return "unknown; set teacher.usd_per_million_in and teacher.usd_per_million_out"

    def _time(self) -> str:
        if self.batch:
            return "time      up to 24 h a batch (teacher.kind = batch)"
        seconds, setting = estimate_seconds(self.requests, self.limits, self.in_flight)
        return f"time      {_duration(seconds)} or more ({setting} decides)"


def _prompt_characters(teacher: Teacher) -> int:
    return sum(len(message["content"]) for message in teacher.request("")["messages"])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"
