"""Checkpoints to go on from: model and optimizer as torch's distributed checkpoint, and the run's state.

A checkpoint is a folder `step-<step>-<attempt>` of the run's storage. A step only copies what learns to host
memory; a thread of each worker writes its shards and uploads them behind the steps that follow. `state.json`,
by worker 0 and last, holds the run's state and the size and digest of every shard: a folder without it was
never finished, and a broken one is noticed. A checkpoint can be loaded by another number of workers.
"""

import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem
from uniner.storage.folder import Folder
from uniner.train.collective import everyones, together

STATE = "state.json"
# Weights that do not learn are the base model's: they need not be kept.
_LEARNT = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass
class State:
    """How far a run has come.

    digest: of the plan and its data. history: each step's figures. validation: step and loss of each
    measurement. resumed: the steps from which the run went on after an interruption.
    """

    digest: str
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Return the steps done."""
        return len(self.history)

    @property
    def best(self) -> int | None:
        """Return the step with the lowest validation loss, the first of equals; None where none was taken."""
        if not self.validation:
            return None
        return int(min(self.validation, key=lambda measured: measured["loss"])["step"])


class Checkpoints:
    """The checkpoints of a run, the newest of which are kept. All workers call each method alike.

    keep: how many of the newest. keep_best: keep the best step's too, as long as it is the best. As a context
    it lets what is being written come to its end, but where a worker is lost.
    """

    def __init__(self, folder: Folder, keep: int, keep_best: bool, device: torch.device):
        self._folder, self._keep, self._keep_best, self._device = folder, keep, keep_best, device
        # A killed attempt's upload may still arrive: no other attempt writes where it did.
        self._attempt = everyones(uuid.uuid4().hex[:8])[0]
        # The thread's own group: the steps talk over theirs at the same time.
        self._group = dist.new_group(backend="gloo")
        pinned = device.type == "cuda"
        # A thread begins on GPU 0, whichever is this worker's.
        mine = (torch.cuda.set_device, (device,)) if pinned else (None, ())
        self._thread = ThreadPoolExecutor(1, "checkpoint", *mine)
        self._stager = DefaultStager(StagingOptions(pinned, False, False, pinned))
        self._writing: Future[None] | None = None
        self._broken: set[str] = set()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, UserError):  # raised on all workers: none is lost
            self.wait()
        self._thread.shutdown(wait=False)

    def resume(
        self, model: Any, optimizer: torch.optim.Optimizer, digest: str, say: Callable[[str], None]
    ) -> State:
        """Load the newest checkpoint that is whole, and return its state; the others are named.

        Raises:
            UserError: where checkpoints were finished and none is whole, or it belongs to another plan: to
                begin again is the user's choice.
        """
        standing = everyones(together(self._standing))[0]
        for name in sorted(standing, reverse=True):
            if not standing[name]:
                say(f"train: checkpoint {name} was never finished; it is left out")
            elif trouble := fault(self._folder / name):
                say(f"train: checkpoint {name} is broken ({trouble}); taking the one before")
                self._broken.add(name)
            else:
                state = load(self._folder / name, model, optimizer, digest)
                state.resumed.append(state.steps)
                return state
        if self._broken:
            raise UserError(
                "train: no checkpoint is whole; delete the stage's folder to train from the start"
            )
        return State(digest)

    def save(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        state: State,
        beside: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy the state and return; it is written behind what follows. Waits for the one before.

        beside: what is to be stored too; done on every worker after its shards.
        """
        self.wait()
        weights, moments = get_state_dict(model, optimizer, options=_LEARNT)
        staged = self._stager.stage({"model": weights, "optimizer": moments})
        folder = self._folder / f"step-{state.steps:08d}-{self._attempt}"
        self._writing = self._thread.submit(self._write, folder, staged, State(**asdict(state)), beside)

    def idle(self) -> bool:
        """Tell whether nothing is being written by any worker; raises what went wrong with the writing."""
        if self._writing is not None:
            done = torch.tensor(float(self._writing.done()), device=self._device)
            dist.all_reduce(done, dist.ReduceOp.MIN)
            if done.item():
                self.wait()
        return self._writing is None

    def wait(self) -> None:
        """Return when nothing is being written; raises what went wrong with the writing."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def load_best(self, model: Any, state: State) -> None:
        """Load the best step's weights.

        Raises:
            UserError: where its checkpoint is broken.
        """
        standing = everyones(together(self._standing))[0]
        best = next((name for name in sorted(standing) if standing[name] and _step(name) == state.best), None)
        trouble = fault(self._folder / best) if best else "missing"
        if best is None or trouble:
            raise UserError(
                f"train: the checkpoint of the best step {state.best} is broken ({trouble}); delete the "
                "stage's folder to train from the start"
            )
        load_weights(self._folder / best, model)

    def _write(self, folder: Folder, staged: Any, state: State, beside: Callable[[], None]) -> None:
        """Write a checkpoint, in the thread of each worker."""
        mine = together(lambda: write_shards(folder, staged, self._group, beside), self._group)
        files = {name: seal for worker in everyones(mine, self._group) for name, seal in worker.items()}

        def finish() -> None:
            if dist.get_rank() == 0:
                with explained(folder.url):
                    folder.write_json(STATE, {"files": files, **asdict(state)})
                    self._remove_old(state)

        together(finish, self._group)

    def _standing(self) -> dict[str, bool]:
        """Return the names of the folders that stand, and whether each was finished; only worker 0 looks."""
        if dist.get_rank() != 0:
            return {}
        with explained(self._folder.url):
            files = self._folder.tree()
        return {name: f"{name}/{STATE}" in files for name in {file.split("/")[0] for file in files}}

    def _remove_old(self, state: State) -> None:
        """Delete what is kept no more, and what never was finished: nothing else is being written."""
        standing = self._standing()
        finished = sorted(name for name in standing if standing[name] and name not in self._broken)
        kept = set(finished[-self._keep :])
        if self._keep_best:
            kept |= {name for name in finished if _step(name) == state.best}
        for name in standing.keys() - kept:
            (self._folder / name).remove([STATE])  # first: what is half deleted must not look finished
            (self._folder / name).remove_all()


def _step(name: str) -> int:
    return int(name.split("-")[1])


def write_shards(
    folder: Folder, staged: Any, group: Any, beside: Callable[[], None]
) -> dict[str, tuple[int, str]]:
    """Write and upload this worker's shards. Returns the size and digest of each."""
    with tempfile.TemporaryDirectory(prefix="uniner-checkpoint-") as local:
        dcp.save(staged, checkpoint_id=local, process_group=group)
        seals = {}
        for file in Path(local).iterdir():
            with file.open("rb") as stream:
                seals[file.name] = (file.stat().st_size, _digest(stream))
        with explained(folder.url):
            folder.upload(Path(local))
    beside()
    return seals


def fault(folder: Folder) -> str:
    """Say what is broken of a checkpoint, "" where it is whole; every worker must call this.

    Each reads a part of the shards; what any finds is told to all.
    """
    return next(filter(None, everyones(together(lambda: _fault(folder)))), "")


def load(folder: Folder, model: Any, optimizer: torch.optim.Optimizer, digest: str) -> State:
    """Read a whole checkpoint into model and optimizer; every worker must call this. Returns the run's state.

    Raises:
        UserError: where it belongs to another plan.
    """
    state, _ = together(lambda: _read(folder))
    if state.digest != digest:
        raise UserError(
            f"checkpoint {folder.url} is of another plan ({state.digest}, now {digest}): the conversations, "
            "the tokenizer or the code that plans have changed since; delete the stage's folder to train "
            "from the start"
        )
    weights, moments = get_state_dict(model, optimizer, options=_LEARNT)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder.url)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_LEARNT)
    return state


def load_weights(folder: Folder, model: Any) -> None:
    """Read a whole checkpoint's weights into the model; every worker must call this."""
    weights = get_model_state_dict(model, options=_LEARNT)
    dcp.load({"model": weights}, checkpoint_id=folder.url)
    set_model_state_dict(model, weights, options=_LEARNT)


def _read(folder: Folder) -> tuple[State, dict[str, list[Any]]]:
    """Return a checkpoint's state, and the size and digest of each of its files."""
    with explained(folder.url):
        told = json.loads(folder.read(STATE))
    files = told.pop("files")
    return State(**told), files


def _fault(folder: Folder) -> str:
    try:
        _, files = _read(folder)
    except (ValueError, KeyError, TypeError):
        return f"{STATE} cannot be read"
    with explained(folder.url):
        sizes = folder.sizes()
        for name, (size, _) in files.items():
            if sizes.get(name) != size:
                return f"{name} is missing or cut short"
        for name in sorted(files)[dist.get_rank() :: dist.get_world_size()]:
            system, path = filesystem(folder.path(name))
            with system.open(path, "rb") as stream:
                if _digest(stream) != files[name][1]:
                    return f"{name} has other bytes than were written"
    return ""


def _digest(stream: Any) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()
