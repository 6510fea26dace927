"""Write the trained student as a Hugging Face folder, with `uniner.json`, and the figures of its training."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import GenerationConfig

from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_card import student_card
from uniner.storage.model_folders import CARD, FACTS, StudentFacts, digests_of
from uniner.storage.sealed_json import sealed_json
from uniner.train import lora
from uniner.train.checkpoint import BestBy, TrainState
from uniner.train.loop import as_figures
from uniner.train.model import empty_model
from uniner.train.packing import useful_share
from uniner.train.prepare import TrainingData, TrainJob

HISTORY = "history.json"
_SHARD = "2GB"  # of the weights; a node fetches several at once


@dataclass(frozen=True, kw_only=True)
class TrainFigures:
    """The figures of the stage's manifest.

    conversations, samples, split and set_aside: see `packing.FitCounts`. tokens, answer_tokens, step_seconds:
    of all steps. useful_share: see `packing.useful_share`. resumed: how often. exported_step: the step whose
    weights are the student's, which the validation figures belong to.
    """

    steps: int
    conversations: int
    samples: int
    split: int
    set_aside: int
    validation_conversations: int
    tokens: int
    answer_tokens: int
    useful_share: float
    first_loss: float
    last_loss: float
    step_seconds: float
    tokens_per_s: float
    resumed: int
    exported_step: int
    validation_loss: float | None = None
    validation_f1: float | None = None
    validation_questions: int | None = None
    validation_broken: int | None = None


def train_figures(data: TrainingData, state: TrainState, best: BestBy | None) -> TrainFigures:
    """Return the manifest's figures. best: the student is the best step's by this measure, not the last's."""
    lengths = [len(sample) for sample in data.training.samples]
    exported, measured = exported_step(state, best)
    return TrainFigures(
        **asdict(data.training.counts),
        validation_conversations=data.validation.counts.conversations,
        answer_tokens=sum(step.answer_tokens for step in state.history),
        useful_share=round(useful_share(data.schedule.steps, lengths, dist.get_world_size()), 4),
        exported_step=exported,
        **history_figures(state),
        **{f"validation_{name}": value for name, value in measured.items() if name != "step"},
    )


def exported_step(state: TrainState, best: BestBy | None) -> tuple[int, dict[str, Any]]:
    """Return the step whose weights are exported, and what was measured there: if nothing was, the last
    measurement."""
    exported = (best and state.best(best)) or state.steps
    measured = [figures for figures in state.validation if figures.step == exported] or state.validation
    return exported, as_figures(measured[-1]) if measured else {}


def history_figures(state: TrainState) -> dict[str, Any]:
    """Return the figures of a run's steps."""
    history = state.history
    seconds, tokens = sum(step.seconds for step in history), sum(step.tokens for step in history)
    return {
        "steps": len(history),
        "tokens": tokens,
        "first_loss": history[0].loss,
        "last_loss": history[-1].loss,
        "step_seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "resumed": len(state.resumed),
    }


def gather_weights(model: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the whole weights on worker 0, in host memory, and {} elsewhere; every worker must call this."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: Any = get_model_state_dict(model, options=options)
    lora.unpack_weights(model, state, dtype)
    return {name: weight.to(dtype) for name, weight in state.items()}


def write_student(
    folder: Path, config: Any, weights: dict[str, torch.Tensor], tokenizer: Any, facts: StudentFacts
) -> None:
    """Write weights (safetensors), config, tokenizer, generation config and `uniner.json` into a folder."""
    model = empty_model(config).to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.config.use_cache = True  # training turned it off
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder, max_shard_size=_SHARD)
    tokenizer.model_max_length = facts.max_tokens
    tokenizer.save_pretrained(folder)
    (folder / FACTS).write_bytes(sealed_json(replace(facts, files=digests_of(folder)).as_dict()))


def publish(
    job: TrainJob,
    config: Any,
    weights: dict[str, torch.Tensor],
    tokenizer: Any,
    types: list[str],
    state: TrainState,
    figures: TrainFigures,
) -> None:
    """Upload the student, its card, with LoRA the adapter, and the run's history. Only worker 0 does."""
    if dist.get_rank() != 0:
        return
    folder = job.run / "train"
    settings = {**job.student.model_dump(), "group_types": job.student.types_per_question}
    named = {name: settings[name] for name in ("template", "group_types", "max_tokens", "base")}
    facts = StudentFacts(**named, types=tuple(types), float8=job.train.float8)
    settings |= {**job.train.model_dump(), "seed": job.seed}
    with tempfile.TemporaryDirectory(prefix="uniner-student-") as local, explained(folder.url):
        student, adapter = Path(local) / "student", Path(local) / "adapter"
        if job.lora:
            merged = lora.merge_adapters(empty_model(config), job.lora, weights, adapter)
            weights = {name: weight.to(job.torch_dtype) for name, weight in merged.items()}
            (folder / "adapter").upload(adapter)
        write_student(student, config, weights, tokenizer, facts)
        card = student_card(job.run.name, settings, as_figures(figures), types, tokenizer.eos_token)
        (student / CARD).write_text(card, encoding="utf-8")
        (folder / "student").upload(student, last=FACTS)
        write_history(folder, state)


def write_history(folder: Folder, state: TrainState) -> None:
    """Write the figures of all steps and measurements into the stage's folder."""
    history = {
        "steps": [as_figures(step) for step in state.history],
        "validation": [as_figures(measured) for measured in state.validation],
        "resumed": state.resumed,
    }
    folder.write_json(HISTORY, history)
