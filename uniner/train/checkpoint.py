"""Checkpoints to resume from: model and optimizer as torch's distributed checkpoint, and the run's state.

A checkpoint is a folder `step-<step>-<attempt>`. A step only copies the weights that learn and their moments
to host memory; a thread of each worker writes its shards and uploads them while the next steps run. Worker 0
writes `state.json` last, with the run's state and each shard's size and digest: a folder without it is
unfinished, and damage is noticed before anything is unpickled. Another number of workers can load it.
"""

import contextlib
import hashlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from uniner.errors import UserError
from uniner.storage.folder import Folder
from uniner.storage.sealed_json import BrokenFileError, open_sealed_json
from uniner.train.checkpoint_reader import FetchedShards, ShardSeal, load_shards
from uniner.train.collective import all_gather, run_on_all, run_on_first
from uniner.train.loop import StepFigures, ValidationFigures

STATE = "state.json"
BestBy = Literal["loss", "f1"]
# Frozen weights are the base model's: they are not stored.
_LEARNED = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass
class TrainState:
    """A run's history.

    digest: of the schedule and its data. resumed: the steps after which the run was resumed.
    """

    digest: str
    history: list[StepFigures] = field(default_factory=list)
    validation: list[ValidationFigures] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """The number of steps done."""
        return len(self.history)

    def best(self, by: BestBy) -> int | None:
        """Return the first step with the lowest validation loss or the highest F1; None before the first
        measurement."""
        if not self.validation:
            return None
        measured = self.validation
        if by == "f1":
            return max(measured, key=lambda figures: figures.f1 or 0.0).step
        return min(measured, key=lambda figures: figures.loss).step


class Checkpoints:
    """The checkpoints of a run. Every worker must make the same calls.

    keep: how many of the newest to keep. best_by: keep the best step's checkpoint too, by this measure.
    written: called in the thread with the seconds that a checkpoint took, once it is complete. stage: whose
    they are, for messages. Leaving the context waits for the checkpoint being written, unless a worker was
    lost.
    """

    def __init__(
        self,
        folder: Folder,
        keep: int,
        best_by: BestBy | None,
        device: torch.device,
        written: Callable[[float], None] = lambda _: None,
        stage: str = "train",
    ):
        self._stage = stage
        self._folder, self._keep, self._best_by, self._device = folder, keep, best_by, device
        # An upload of a killed attempt may still arrive, so each attempt writes under names of its own.
        self._attempt = all_gather(uuid.uuid4().hex[:8])[0]
        # The thread needs its own group: the steps communicate at the same time.
        self._group = dist.new_group(backend="gloo")
        on_gpu = device.type == "cuda"
        # A new thread starts on GPU 0, whichever GPU this worker has.
        initializer = (torch.cuda.set_device, (device,)) if on_gpu else (None, ())
        self._thread = ThreadPoolExecutor(1, "checkpoint", *initializer)
        self._stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))
        self._writing: Future[None] | None = None
        self._written = written
        self._damaged: set[str] = set()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if kind is None or issubclass(kind, UserError):  # raised on all workers: none was lost
            self.wait()
        self._thread.shutdown(wait=False)

    def resume(
        self, model: Any, optimizer: torch.optim.Optimizer, digest: str, say: Callable[[str], None]
    ) -> TrainState:
        """Load the newest undamaged checkpoint and return its state. `say` prints each that is skipped.

        Raises:
            UserError: all finished checkpoints are damaged, or the newest belongs to another schedule. To
                start again is the user's decision.
        """
        checkpoints = run_on_first(self._list)
        for name in sorted(checkpoints, reverse=True):
            if not checkpoints[name]:
                say(f"{self._stage}: checkpoint {name} was never finished; it is skipped")
                continue
            with fetched(self._folder / name) as checkpoint:
                if not checkpoint.damage:
                    state = load(checkpoint, model, optimizer, digest)
                    state.resumed.append(state.steps)
                    return state
            say(f"{self._stage}: checkpoint {name} is broken ({checkpoint.damage}); taking the one before")
            self._damaged.add(name)
        if self._damaged:
            raise UserError(
                f"{self._stage}: all checkpoints in {self._folder.url} are broken; delete the stage's folder "
                "to train from the start"
            )
        return TrainState(digest)

    def save(
        self, model: Any, optimizer: Any, state: TrainState, after_shards: Callable[[], None] = lambda: None
    ) -> None:
        """Copy the state and return; a thread writes it. Waits for the checkpoint before.

        after_shards: called on every worker, in the thread, once its shards are stored.
        """
        self.wait()
        weights, moments = get_state_dict(model, optimizer, options=_LEARNED)
        staged = self._stager.stage({"model": weights, "optimizer": moments})
        folder = self._folder / f"step-{state.steps:08d}-{self._attempt}"
        # A copy of the lists, which the next steps change.
        frozen = TrainState(state.digest, [*state.history], [*state.validation], [*state.resumed])
        self._writing = self._thread.submit(self._write, folder, staged, frozen, after_shards)

    def idle(self) -> bool:
        """Tell whether no worker is writing a checkpoint. Raises the error of a failed write."""
        if self._writing is not None:
            done = torch.tensor(float(self._writing.done()), device=self._device)
            dist.all_reduce(done, dist.ReduceOp.MIN)
            if done.item():
                self.wait()
        return self._writing is None

    def wait(self) -> None:
        """Wait until no checkpoint is being written. Raises the error of a failed write."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def load_best(self, model: Any, state: TrainState) -> None:
        """Load the best step's weights.

        Raises:
            UserError: its checkpoint is missing or damaged.
        """
        assert self._best_by, "the best step's checkpoint was kept"
        checkpoints, best = run_on_first(self._list), state.best(self._best_by)
        names = (name for name in sorted(checkpoints) if checkpoints[name] and _step(name) == best)
        damage = "missing"
        for name in names:
            with fetched(self._folder / name) as checkpoint:
                if not checkpoint.damage:
                    load_weights(checkpoint, model)
                    return
            damage = checkpoint.damage
        raise UserError(
            f"{self._stage}: the checkpoint of the best step {best} is broken ({damage}); delete the "
            "stage's folder to train from the start"
        )

    def _write(
        self, folder: Folder, staged: Any, state: TrainState, after_shards: Callable[[], None]
    ) -> None:
        started = time.monotonic()
        seals = run_on_all(lambda: write_shards(folder, staged, self._group, after_shards), self._group)
        files = {name: seal for worker in all_gather(seals, self._group) for name, seal in worker.items()}

        def finish() -> None:
            if dist.get_rank() == 0:
                folder.write_sealed_json(STATE, {"files": files, **asdict(state)})
                self._remove_old(state)

        run_on_all(finish, self._group)
        self._written(time.monotonic() - started)

    def _list(self) -> dict[str, bool]:
        """Return the names of all checkpoints, and whether each is finished."""
        files = self._folder.tree()
        return {name: f"{name}/{STATE}" in files for name in {file.split("/")[0] for file in files}}

    def _remove_old(self, state: TrainState) -> None:
        """Delete old and unfinished checkpoints. No other checkpoint is being written now."""
        checkpoints = self._list()
        finished = sorted(name for name in checkpoints if checkpoints[name] and name not in self._damaged)
        kept = set(finished[-self._keep :])
        if self._best_by:
            kept |= {name for name in finished if _step(name) == state.best(self._best_by)}
        for name in checkpoints.keys() - kept:
            # state.json first, so that a half-deleted checkpoint does not look finished
            (self._folder / name).remove([STATE])
            (self._folder / name).remove_all()


def _step(name: str) -> int:
    return int(name.split("-")[1])


def write_shards(
    folder: Folder, staged: Any, group: Any, after_shards: Callable[[], None]
) -> dict[str, ShardSeal]:
    """Write and upload this worker's shards. Returns each file's seal."""
    with tempfile.TemporaryDirectory(prefix="uniner-checkpoint-") as local:
        # Not flushed to the disk, which takes longer than a spot machine has left: the files are uploaded.
        writer = FileSystemWriter(local, sync_files=False)
        dcp.save(staged, storage_writer=writer, process_group=group)
        seals = {}
        for file in Path(local).iterdir():
            with file.open("rb") as stream:
                seals[file.name] = ShardSeal(file.stat().st_size, _digest(stream))
        folder.upload(Path(local))
    after_shards()
    return seals


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint: its state, its files on this machine's disk, and its damage, or ""."""

    state: TrainState | None
    shards: FetchedShards
    damage: str


@contextlib.contextmanager
def fetched(folder: Folder) -> Iterator[Checkpoint]:
    """Fetch and check a checkpoint; every worker must call this. All get the same damage, if there is any."""
    with tempfile.TemporaryDirectory(prefix="uniner-checkpoint-") as local:

        def fetch() -> Checkpoint:
            try:
                state, seals = _read_state(folder)
            except (BrokenFileError, KeyError, TypeError):
                return Checkpoint(None, FetchedShards(folder, {}, Path(local)), f"{STATE} cannot be read")
            shards = FetchedShards(folder, seals, Path(local))
            return Checkpoint(state, shards, shards.find_damage())

        checkpoint = run_on_all(fetch)
        yield replace(checkpoint, damage=next(filter(None, all_gather(checkpoint.damage)), ""))


def load(checkpoint: Checkpoint, model: Any, optimizer: torch.optim.Optimizer, digest: str) -> TrainState:
    """Load an undamaged checkpoint and return the run's state; every worker must call this.

    Raises:
        UserError: it belongs to another schedule.
    """
    state = checkpoint.state
    assert state, "an undamaged checkpoint has one"
    if state.digest != digest:
        raise UserError(
            f"checkpoint {checkpoint.shards.url} is of another schedule ({state.digest}, now {digest}): the "
            "conversations, the tokenizer or the scheduling code have changed; delete the stage's folder to "
            "train from the start"
        )
    weights, moments = get_state_dict(model, optimizer, options=_LEARNED)
    load_shards({"model": weights, "optimizer": moments}, checkpoint.shards)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_LEARNED)
    return state


def load_weights(checkpoint: Checkpoint, model: Any) -> None:
    """Load an undamaged checkpoint's weights into the model; every worker must call this."""
    weights = get_model_state_dict(model, options=_LEARNED)
    load_shards({"model": weights}, checkpoint.shards)
    set_model_state_dict(model, weights, options=_LEARNED)


def _read_state(folder: Folder) -> tuple[TrainState, dict[str, ShardSeal]]:
    """Return a checkpoint's state, and the seal of each of its files.

    Raises:
        BrokenFileError: state.json is damaged.
    """
    stored = open_sealed_json(folder.read(STATE))
    seals = {name: ShardSeal(*seal) for name, seal in stored["files"].items()}
    state = TrainState(
        digest=stored["digest"],
        history=[StepFigures(**figures) for figures in stored["history"]],
        validation=[ValidationFigures(**figures) for figures in stored["validation"]],
        resumed=stored["resumed"],
    )
    return state, seals


def _digest(stream: Any) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()
