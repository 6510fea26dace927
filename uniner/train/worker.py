"""What each training process does, from the conversations to the student; Ray stands behind `Session`.

All processes run the same code in step. A `UserError` is raised on all of them or on none, so that none
waits for another, and is returned rather than raised: trying again would not help.
"""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from uniner.errors import UserError
from uniner.storage import model_card
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.model_folders import CARD, loading, local_model
from uniner.train import CHECKPOINTS, export, loop, lora, model, packing, tracker
from uniner.train.checkpoint import Checkpoints, State
from uniner.train.collective import together
from uniner.train.prepare import Data, Order, config_and_tokenizer, estimate, prepare
from uniner.train.step_reporter import Watch
from uniner.train.tracker import Tracker

HISTORY, PACKING = "history.json", "packing.json.gz"
_LOOK_SECONDS = 10.0  # between two looks whether this machine is being taken away


class Session(Protocol):
    """What a training process asks of the cluster. All call each method alike; worker 0 alone is heard."""

    def leaving(self) -> bool:
        """Tell whether a machine of this run is about to be taken away."""
        ...

    def tell(self, step: int, steps: int, note: str) -> None:
        """Tell the driver how far the run is."""
        ...

    def say(self, line: str) -> None:
        """Have the driver print a line."""
        ...


def work(order: Order, session: Session) -> dict[str, Any]:
    """Train and export. Returns {"figures": ...} or {"error": one line}; the same on every worker."""
    try:
        return {"figures": _work(order, session)}
    except UserError as error:
        return {"error": str(error)}
    except torch.OutOfMemoryError as error:
        # Raised, as it is not the same on every worker: the others wait for this one.
        raise UserError(
            f"train: a GPU's memory is full ({' '.join(str(error).split())[:120]}); lower train.pack_tokens, "
            "set train.activation_checkpointing=true or take more workers"
        ) from error


def _work(order: Order, session: Session) -> dict[str, float]:
    device = _device(order.train.use_gpu)
    torch.manual_seed(order.seed)
    session.tell(0, 0, "reading the conversations")
    config, tokenizer = together(lambda: config_and_tokenizer(order.base))
    data = together(lambda: prepare(order, tokenizer, config))
    together(lambda: _keep_packing(order, data))
    expected = estimate(order, data, config)
    session.say(expected.short())
    session.tell(0, len(data.plan.steps), "loading the base model")
    net = _load(order, config, device)
    optimizer = loop.make_optimizer(net, order.train.weight_decay)
    folder, best = Folder(order.folder_url) / CHECKPOINTS, order.train.export == "best"
    with Checkpoints(folder, order.train.keep_checkpoints, best, device) as checkpoints:
        state = checkpoints.resume(net, optimizer, data.digest(), session.say)
        if state.steps:
            workers = dist.get_world_size()
            session.say(f"train: going on after step {state.steps:,} with {workers} workers")
        tracked = together(lambda: _tracker(order, session))
        watch = Watch(order.folder_url, expected, state.steps, device, tracked)
        _train(order, session, checkpoints, net, optimizer, data, state, device, watch)
        session.tell(state.steps, state.steps, "writing the student")
        if best and state.best not in (None, state.steps):
            checkpoints.load_best(net, state)
    weights = export.gather(net, torch.float32 if order.lora else _dtype(order))
    together(lambda: _publish(order, config, weights, tokenizer, data, state))
    return figures(data, state, best)


def _keep_packing(order: Order, data: Data) -> None:
    """Write down what each step learns from, and how it lies in rows; worker 0's work."""
    if dist.get_rank() != 0:
        return
    told = {
        "digest": data.digest(),
        "epoch_ends": sorted(data.plan.epoch_ends),
        "samples": [sample.passage_id for sample in data.training.samples],
        "steps": data.plan.steps,
    }
    folder = Folder(order.folder_url)
    with explained(folder.url):
        folder.write(PACKING, gzip.compress(json.dumps(told).encode(), mtime=0))


def _tracker(order: Order, session: Session) -> Tracker | None:
    """Begin the tracked run; worker 0's work."""
    if order.train.tracker is None or dist.get_rank() != 0:
        return None
    settings = {"base": order.student.base, "seed": order.seed, **order.train.identity()}
    run = order.folder_url.rsplit("/", 2)[-2]
    return tracker.start(order.train.tracker, run, order.folder_url, settings, session.say)


def _device(use_gpu: bool) -> torch.device:
    # On CPU a worker has one thread (Ray sets OMP_NUM_THREADS to the CPUs it reserves): to use more cores,
    # take more workers. Two threads on a busy machine were measured 20 times slower than one.
    return torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")


def _dtype(order: Order) -> torch.dtype:
    return getattr(torch, order.train.dtype)


def _load(order: Order, config: Any, device: torch.device) -> Any:
    def read() -> Any:
        with loading(order.base, "student.base"):
            return model.read(local_model(order.base), order.lora) if dist.get_rank() == 0 else None

    train, dtype = order.train, _dtype(order)
    full, checkpointing = together(read), train.activation_checkpointing
    return together(
        lambda: model.load(
            config,
            full,
            dtype,
            device,
            checkpointing,
            order.lora,
            attention=model.attention(train.attention, device, dtype),
            compiled=train.compile,
            shard_workers=train.shard_workers,
        )
    )


def _train(
    order: Order,
    session: Session,
    checkpoints: Checkpoints,
    net: Any,
    optimizer: Any,
    data: Data,
    state: State,
    device: torch.device,
    watch: Watch,
) -> None:
    """Run the steps that are left; measure at each epoch's end, checkpoint when it is time."""
    train, last = order.train, len(data.plan.steps)
    look, due = _Lookout(session), False
    session.tell(state.steps, last, _note(state))
    steps = loop.train(
        net,
        optimizer,
        data.training.samples,
        data.plan,
        steps_done=state.steps,
        peak_rate=train.learning_rate,
        warmup_share=train.warmup_share,
        clip_norm=train.clip_norm,
        seed=order.seed,
        losses=[step["loss"] for step in state.history],
        spike_factor=train.spike_factor,
        device=device,
    )
    for step in steps:
        state.history.append(watch.step(step))
        now = step.step == last  # whether this step's checkpoint must be
        if step.step in data.plan.epoch_ends or now:
            measured = loop.mean_loss(net, data.validation.samples, data.validation_rows, device)
            if measured is not None:
                found = {"step": step.step, "loss": measured, **data.quiz.take(net, device)}
                state.validation.append(found)
                watch.validation(found)
                now = now or (train.export == "best" and state.best == step.step)
        session.tell(step.step, last, _note(state))
        leaving = look.leaving(step.seconds)
        # One that is due while the one before is being written comes as soon as that is done: no step waits.
        due = due or step.step % train.checkpoint_steps == 0
        if (checkpoints.idle() and due) or now or leaving:
            checkpoints.save(net, optimizer, state, beside=watch.store)
            due = False
        if leaving:
            checkpoints.wait()
    checkpoints.wait()
    together(watch.close)


class _Lookout:
    """Looks now and then whether a machine of the run is being taken away, and says so once."""

    def __init__(self, session: Session):
        self._session, self._unlooked, self._said = session, 0.0, False

    def leaving(self, seconds: float) -> bool:
        """Tell, after a step of so many seconds (the same on all workers: all must look alike)."""
        self._unlooked += seconds
        if self._said or self._unlooked < _LOOK_SECONDS:
            return False
        self._unlooked, self._said = 0.0, self._session.leaving()
        return self._said


def _note(state: State) -> str:
    if not state.history:
        return ""
    step = state.history[-1]
    measured = ""
    if state.validation:
        last = state.validation[-1]
        measured = f", validation {last['loss']:.4f}" + (f", F1 {last['f1']:.2f}" if "f1" in last else "")
    mfu = f", MFU {step['mfu']:.1%}" if "mfu" in step else ""
    return (
        f"loss {step['loss']:.4f}{measured}, gradient {step['grad_norm']:.3g}, "
        f"{step['tokens_per_s']:,.0f} tokens/s{mfu}"
    )


def _publish(
    order: Order, config: Any, weights: dict[str, torch.Tensor], tokenizer: Any, data: Data, state: Any
) -> None:
    """Upload the student and the run's history; worker 0's work."""
    if dist.get_rank() != 0:
        return
    folder = Folder(order.folder_url)
    facts = {
        "template": order.student.template,
        "group_types": order.student.group_types,
        "max_tokens": order.student.max_tokens,
        "base": order.student.base,
        "types": data.types,
    }
    with tempfile.TemporaryDirectory(prefix="uniner-student-") as local, explained(folder.url):
        if order.lora:
            adapter = Path(local) / "adapter"
            whole = lora.merged(model.outline(config), order.lora, weights, adapter)
            weights = {name: weight.to(_dtype(order)) for name, weight in whole.items()}
            (folder / "adapter").upload(adapter)
        export.write(Path(local) / "student", config, weights, tokenizer, facts)
        student, run = order.student, order.folder_url.rsplit("/", 2)[-2]
        told = figures(data, state, order.train.export == "best")
        text = model_card.render(run, order.seed, student, order.train, told, data.types, tokenizer.eos_token)
        (Path(local) / "student" / CARD).write_text(text, encoding="utf-8")
        (folder / "student").upload(Path(local) / "student")
        history = {"steps": state.history, "validation": state.validation, "resumed": state.resumed}
        folder.write_json(HISTORY, history)


def figures(data: Data, state: State, best: bool) -> dict[str, float]:
    """Return the numbers of the manifest; best: whether the student is the best step's and not the last's."""
    history, workers = state.history, dist.get_world_size()
    lengths = [len(sample) for sample in data.training.samples]
    exported = (best and state.best) or len(history)
    seconds = sum(step["seconds"] for step in history)
    tokens = sum(step["tokens"] for step in history)
    return {
        "steps": len(history),
        **data.training.counts,
        "validation_conversations": data.validation.counts["conversations"],
        "tokens": tokens,
        "answer_tokens": sum(step["answer_tokens"] for step in history),
        "useful_share": round(packing.useful_share(data.plan.steps, lengths, workers), 4),
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
        **{
            f"validation_{name}": figure
            for name, figure in _measured(state, exported).items()
            if name != "step"
        },
        "step_seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "resumed": len(state.resumed),
        "exported_step": exported,
    }


def _measured(state: State, step: int) -> dict[str, Any]:
    """Return what validation found at a step, or at the last one where nothing was measured there."""
    at = [found for found in state.validation if found["step"] == step]
    return (at or state.validation or [{}])[-1]
