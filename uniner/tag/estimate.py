"""What tagging would take, told from a few chunks that the real engine has tagged: these count as done."""

from collections.abc import Iterable
from dataclasses import dataclass

from uniner.storage.stage_folder import Summary, merge

PASSAGES = 300
"""Whole chunks of so many passages at the least are tagged for a plan."""


@dataclass(frozen=True)
class Trial:
    """What one engine did for a plan, from its first question to its last answer, without its start."""

    passages: int
    seconds: float
    figures: dict[str, float]


def chosen(chunks: dict[str, int], passages: int = PASSAGES) -> list[str]:
    """Return the keys of chunks from all over the corpus that together have at least so many passages."""
    keys = sorted(chunks)
    wanted = min(len(keys), -(-passages * len(keys) // max(1, sum(chunks.values()))))
    while True:
        some = [keys[number * len(keys) // wanted] for number in range(wanted)]
        if wanted == len(keys) or sum(chunks[key] for key in some) >= passages:
            return some
        wanted += 1


def trial_of(come: Iterable[tuple[float, Summary]]) -> Trial:
    """Make a trial of chunks' summaries, each with the time in seconds at which it came."""
    done = list(come)
    start = min(moment - summary.seconds for moment, summary in done)
    return Trial(
        sum(summary.rows for _, summary in done),
        max(moment for moment, _ in done) - start,
        merge(summary.figures for _, summary in done),
    )


def describe(
    trial: Trial, total: int, done: int, engines: int, gpus: float, usd_per_gpu_hour: float | None
) -> str:
    """Return the plan as text: what `engines` engines of so many GPUs each need for what is left of `total`.

    `done` passages stand, those of the trial among them.
    """
    left = total - done
    factor = left / trial.passages
    hours = factor * trial.seconds / 3600
    figures = {name: count * factor for name, count in trial.figures.items()}
    prompts, answers = figures.get("prompt_tokens", 0), figures.get("answer_tokens", 0)
    computed = prompts - figures.get("cached_tokens", 0)
    rate = trial.passages / trial.seconds
    tokens = (trial.figures.get("prompt_tokens", 0) + trial.figures.get("answer_tokens", 0)) / trial.seconds
    price = "unknown; set engine.usd_per_gpu_hour"
    if usd_per_gpu_hour is not None:
        price = f"about {hours * gpus * usd_per_gpu_hour:,.2f} USD at {usd_per_gpu_hour:g} USD a GPU-hour"
    lines = [
        f"passages  {left:,} to tag of {total:,} ({done:,} done)",
        f"questions about {figures.get('questions', 0):,.0f}",
        f"tokens    about {prompts:,.0f} of prompts ({computed:,.0f} to compute), {answers:,.0f} of answers",
        f"rate      {rate:,.2f} passages/s and {tokens:,.0f} tokens/s an engine",
        f"time      about {_long(hours / engines)} with engine.actors={engines}, without the start",
        f"in all    about {_long(hours)} of an engine" + (f", {hours * gpus:,.1f} GPU-hours" if gpus else ""),
        f"price     {price if gpus else 'that of the machines'}",
        f"Measured on {trial.passages:,} passages in {trial.seconds:,.1f} s; they count as done.",
    ]
    return "\n".join(lines)


def _long(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 2 else f"{hours * 60:,.1f} minutes"
