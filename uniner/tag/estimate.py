"""What tagging would cost, estimated from a few chunks that the real engine tags. These count as done."""

from collections.abc import Iterable
from dataclasses import dataclass

from uniner.config.schema import EngineSection
from uniner.inference.gpu_sharing import ENGINE_RATE, ModelSizes, engines_per_gpu, gpu_rate, share_of_gpu
from uniner.runtime.gpu_models import GPUS
from uniner.storage.manifest import Summary, merge

PASSAGES = 300
"""An estimate tags whole chunks with at least this many passages."""


@dataclass(frozen=True, kw_only=True)
class TagTrial:
    """What one engine did for an estimate. seconds: from its first question to its last answer."""

    passages: int
    seconds: float
    figures: dict[str, float]


def sample_chunks(chunks: dict[str, int], passages: int = PASSAGES) -> list[str]:
    """Return keys of chunks spread over the corpus that together have at least this many passages."""
    keys = sorted(chunks)
    count = min(len(keys), -(-passages * len(keys) // max(1, sum(chunks.values()))))
    while True:
        sample = [keys[number * len(keys) // count] for number in range(count)]
        if count == len(keys) or sum(chunks[key] for key in sample) >= passages:
            return sample
        count += 1


def measure(arrivals: Iterable[tuple[float, Summary]]) -> TagTrial:
    """Make a trial of chunks' summaries, each with the time in seconds at which it arrived."""
    arrived = list(arrivals)
    start = min(moment - summary.seconds for moment, summary in arrived)
    return TagTrial(
        passages=sum(summary.rows for _, summary in arrived),
        seconds=max(moment for moment, _ in arrived) - start,
        figures=merge(summary.figures for _, summary in arrived),
    )


def describe(
    trial: TagTrial,
    *,
    total: int,
    done: int,
    engines: int,
    gpus: float,
    usd_per_gpu_hour: float | None,
    sharing: str = "",
    templates: str = "",
) -> str:
    """Return the estimate as text: the rest of `total` passages on `engines` engines of `gpus` GPUs each.

    done: passages that are tagged, those of the trial included. sharing: see `describe_sharing`. templates:
    see `template_costs`.
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
    gpu_hours = f", {hours * gpus:,.1f} GPU-hours" if gpus else ""
    lines = [
        f"passages  {left:,} to tag of {total:,} ({done:,} done)",
        f"questions about {figures.get('questions', 0):,.0f}",
        f"tokens    about {prompts:,.0f} of prompts ({computed:,.0f} to compute), {answers:,.0f} of answers",
        f"rate      {rate:,.2f} passages/s and {tokens:,.0f} tokens/s per engine",
        f"time      about {_duration(hours / engines)} with engine.actors={engines}, without the start",
        f"in all    about {_duration(hours)} of an engine{gpu_hours}",
        f"price     {price if gpus else 'that of the machines'}",
        *([f"sharing   {sharing}"] if sharing else []),
        *([f"templates {templates}"] if templates else []),
        f"Measured on {trial.passages:,} passages in {trial.seconds:,.1f} s; they count as done.",
    ]
    return "\n".join(lines)


def describe_sharing(
    sizes: ModelSizes, gpu_name: str, *, trial: TagTrial, engine: EngineSection, cpus_per_gpu: float
) -> str:
    """Say how many engines should share a GPU of this kind, and by which settings. GPUs: of `GPUS`."""
    figures, gpu = trial.figures, GPUS[gpu_name]
    questions = max(1.0, figures.get("questions", 0))
    computed = figures.get("prompt_tokens", 0) - figures.get("cached_tokens", 0)
    question_tokens = max(1.0, (computed + figures.get("answer_tokens", 0)) / questions)
    count = engines_per_gpu(
        sizes,
        gpu,
        question_tokens=question_tokens,
        max_num_seqs=engine.max_num_seqs,
        memory_share=engine.gpu_memory_utilization,
        most_by_cpu=cpus_per_gpu / engine.cpus,
    )
    rate = gpu_rate(sizes, gpu, question_tokens)
    reason = (
        f"an {gpu_name} can compute about {rate:,.0f} questions/s of this student, "
        f"and an engine's CPUs allow about {ENGINE_RATE:,.0f}"
    )
    now = max(1, int(1 / engine.gpus + 1e-6))
    if count == now:
        return f"{reason}: {count} a GPU, as engine.gpus={engine.gpus:g} has it"
    actors = -(-engine.actors * count // now)
    words = f"engine.gpus={share_of_gpu(count):g} engine.actors={actors}"
    return f"{reason}: better {count} a GPU than {now}, with {words}"


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 2 else f"{hours * 60:,.1f} minutes"
