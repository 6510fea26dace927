"""What each training process does, from the conversations to the student; Ray stands behind `Session`.

All processes run the same code in step. A `UserError` is raised on all of them or on none, so that none
waits for another, and is returned rather than raised: trying again would not help.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from transformers import AutoConfig

from uniner.config import Student, Train
from uniner.errors import UserError
from uniner.files import explained
from uniner.records import Conversation, from_table
from uniner.storage import Folder
from uniner.student import load_tokenizer, local_model
from uniner.templates import Renderer
from uniner.train import checkpoint, export, loop, model, packing
from uniner.train.packing import Fitted, Plan, Row

HISTORY = "history.json"
_LOOK_SECONDS = 10.0  # between two looks whether this machine is being taken away
Result = TypeVar("Result")


class Session(Protocol):
    """What a training process asks of the cluster. All processes must call each method alike, but `tell`."""

    def resume(self) -> AbstractContextManager[Path | None]:
        """Give the folder of the last checkpoint, if there is one."""
        ...

    def save(self, folder: Path, step: int) -> None:
        """Keep this process's part of a checkpoint; returns when it is stored."""
        ...

    def leaving(self) -> bool:
        """Tell whether a machine of this run is about to be taken away."""
        ...

    def tell(self, step: int, steps: int, note: str) -> None:
        """Tell the driver how far the run is."""
        ...


@dataclass(frozen=True)
class Order:
    """What to train: the sections of the stage, the seed, and addresses (build's folder, this stage's)."""

    student: Student
    train: Train
    seed: int
    base: str
    build_url: str
    folder_url: str

    @property
    def row_tokens(self) -> int:
        """Tokens a packed row."""
        return self.train.pack_tokens or self.student.max_tokens


@dataclass(frozen=True)
class Data:
    """All that the data decide, the same on every worker."""

    training: Fitted
    validation: Fitted
    plan: Plan
    validation_rows: list[Row]
    types: list[str]

    def digest(self) -> str:
        """Return the digest of what each step learns from; a checkpoint goes on only under the same one."""
        return f"{packing.data_digest(self.training.samples)}-{self.plan.digest()}"


def work(order: Order, session: Session) -> dict[str, Any]:
    """Train and export. Returns {"figures": ...} or {"error": one line}; the same on every worker."""
    try:
        return {"figures": _work(order, session)}
    except UserError as error:
        return {"error": str(error)}


def _work(order: Order, session: Session) -> dict[str, float]:
    device = _device(order.train.use_gpu)
    torch.manual_seed(order.seed)
    session.tell(0, 0, "reading the conversations")
    config, tokenizer = together(lambda: _config_and_tokenizer(order.base))
    data = together(lambda: prepare(order, Renderer(tokenizer), config))
    session.tell(0, len(data.plan.steps), "loading the base model")
    net = _load(order.base, config, order.train, device)
    optimizer = loop.make_optimizer(net, order.train.weight_decay)
    state = _resume(session, net, optimizer, data.digest())
    _train(order.train, session, net, optimizer, data, state, device)
    session.tell(state.steps, state.steps, "writing the student")
    weights = export.gather(net, getattr(torch, order.train.dtype))
    together(lambda: _publish(order, config, weights, tokenizer, data, state))
    return figures(data, state, order.train.workers)


def together(action: Callable[[], Result]) -> Result:
    """Do something on every worker; where it raises a UserError on any, raise it on all."""
    result, problem = None, ""
    try:
        result = action()
    except UserError as error:
        problem = str(error)
    problems: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    if any(problems):
        raise UserError(next(filter(None, problems)))
    return result  # type: ignore[return-value]


def _device(use_gpu: bool) -> torch.device:
    # On CPU a worker has one thread (Ray sets OMP_NUM_THREADS to the CPUs it reserves): to use more cores,
    # take more workers. Two threads on a busy machine were measured 20 times slower than one.
    return torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")


def _config_and_tokenizer(base: str) -> tuple[Any, Any]:
    with _base_explained(base):
        return AutoConfig.from_pretrained(local_model(base)), load_tokenizer(base)


def _load(base: str, config: Any, train: Train, device: torch.device) -> Any:
    def read() -> Any:
        with _base_explained(base):
            return model.read(local_model(base)) if dist.get_rank() == 0 else None

    dtype = getattr(torch, train.dtype)
    return model.load(config, together(read), dtype, device, train.activation_checkpointing)


@contextmanager
def _base_explained(base: str) -> Iterator[None]:
    """Turn what transformers raises for a folder or name that is no model into one line."""
    try:
        with explained(base):
            yield
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"student.base {base}: cannot be loaded as a model ({why})") from None


def prepare(order: Order, renderer: Renderer, config: Any) -> Data:
    """Read the conversations, fit them to the length limit and plan the whole run."""
    _require_room(order.student.max_tokens, config)
    conversations = from_table(Folder(order.build_url).read_rows(), Conversation)
    chosen = [conversation for conversation in conversations if conversation.split == "train"]
    training = _fit(chosen, renderer, order.student.max_tokens)
    held_out = [conversation for conversation in conversations if conversation.split == "validation"]
    validation = _fit(held_out, renderer, order.student.max_tokens)
    if not training.samples:
        raise UserError(f"{order.build_url}: no conversation to train on (split train)")
    largest = max(int(sample.ids.max()) for sample in training.samples)
    if largest >= config.vocab_size:
        raise UserError(f"student.base {order.base}: its tokenizer has ids beyond the model's vocabulary")
    train = order.train
    planned = _plan(training, order, train.epochs, train.max_steps)
    validation_rows = [row for step in _plan(validation, order, 1).steps for row in step]
    types = export.frequent_types(conversation.positive_types for conversation in chosen)
    return Data(training, validation, planned, validation_rows, types)


def _fit(conversations: Sequence[Conversation], renderer: Renderer, max_tokens: int) -> Fitted:
    rendered = ((each.passage_id, *renderer.blocks(each.conversations)) for each in conversations)
    return packing.fit(rendered, max_tokens)


def _plan(fitted: Fitted, order: Order, epochs: int, max_steps: int | None = None) -> Plan:
    return packing.plan(
        [len(sample) for sample in fitted.samples],
        fitted.per_conversation,
        seed=order.seed,
        epochs=epochs,
        batch=order.train.batch_conversations,
        row_tokens=order.row_tokens,
        workers=order.train.workers,
        max_steps=max_steps,
    )


def _require_room(max_tokens: int, config: Any) -> None:
    room = getattr(config, "max_position_embeddings", max_tokens)
    if room < max_tokens:
        raise UserError(f"student.max_tokens = {max_tokens}: the base model takes at most {room}")


def _resume(session: Session, net: Any, optimizer: Any, digest: str) -> checkpoint.State:
    with session.resume() as folder:
        if folder is None:
            return checkpoint.State(digest)
        together(lambda: checkpoint.read_state(folder, digest))
        state = checkpoint.load(folder, net, optimizer, digest)
    state.resumed.append(state.steps)
    return state


def _train(
    train: Train,
    session: Session,
    net: Any,
    optimizer: Any,
    data: Data,
    state: checkpoint.State,
    device: torch.device,
) -> None:
    """Run the steps that are left; measure at each epoch's end, checkpoint when it is time."""
    last = len(data.plan.steps)
    look = _Lookout(session)
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
        device=device,
    )
    for step in steps:
        state.history.append({**asdict(step), "tokens_per_s": round(step.tokens_per_s, 1)})
        if step.step in data.plan.epoch_ends or step.step == last:
            measured = loop.mean_loss(net, data.validation.samples, data.validation_rows, device)
            if measured is not None:
                state.validation.append({"step": step.step, "loss": measured})
        session.tell(step.step, last, _note(state))
        leaving = look.leaving(step.seconds)
        if leaving or step.step == last or step.step % train.checkpoint_steps == 0:
            _save(session, net, optimizer, state)


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


def _save(session: Session, net: Any, optimizer: Any, state: checkpoint.State) -> None:
    with tempfile.TemporaryDirectory(prefix="uniner-checkpoint-") as folder:
        checkpoint.save(Path(folder), net, optimizer, state)
        session.save(Path(folder), state.steps)


def _note(state: checkpoint.State) -> str:
    if not state.history:
        return ""
    measured = f", validation {state.validation[-1]['loss']:.4f}" if state.validation else ""
    return f"loss {state.history[-1]['loss']:.4f}{measured}"


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
        export.write(Path(local), config, weights, tokenizer, facts)
        (folder / "student").upload(Path(local))
        told = {"steps": state.history, "validation": state.validation, "resumed": state.resumed}
        folder.write_json(HISTORY, told)


def figures(data: Data, state: checkpoint.State, workers: int) -> dict[str, float]:
    """Return the numbers of the manifest."""
    history = state.history
    lengths = [len(sample) for sample in data.training.samples]
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
        **({"validation_loss": state.validation[-1]["loss"]} if state.validation else {}),
        "step_seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "resumed": len(state.resumed),
    }
