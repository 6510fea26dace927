"""Checkpoints to go on from: model and optimizer as torch's distributed checkpoint, and the run's state.

Each worker writes its own shards into its own local folder; storage merges the folders. `state.json`, by
worker 0, holds the state and the size of every shard, so that a checkpoint that misses a part is noticed.
A checkpoint can be loaded by another number of workers.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from uniner.errors import UserError

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


def save(folder: Path, model: Any, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write a checkpoint; every worker must call this, each with an empty folder of its own."""
    weights, moments = get_state_dict(model, optimizer, options=_LEARNT)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    mine = {file.name: file.stat().st_size for file in folder.iterdir()}
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    if dist.get_rank() == 0:
        files = {name: size for worker in everyones for name, size in worker.items()}
        (folder / STATE).write_text(json.dumps({"files": files, **asdict(state)}))


def load(folder: Path, model: Any, optimizer: torch.optim.Optimizer, digest: str) -> State:
    """Read a checkpoint into model and optimizer; every worker must call this. Returns the run's state.

    Raises:
        UserError: where it belongs to another plan, or a part of it is missing.
    """
    state = read_state(folder, digest)
    weights, moments = get_state_dict(model, optimizer, options=_LEARNT)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_LEARNT)
    return state


def read_state(folder: Path, digest: str) -> State:
    """Read a checkpoint's state and check that it is whole and of this plan."""
    try:
        told = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        raise UserError(f"checkpoint {folder} has no {STATE}; {_CURE}") from None
    for name, size in told.pop("files").items():
        if not (folder / name).exists() or (folder / name).stat().st_size != size:
            raise UserError(f"checkpoint {folder}: {name} is missing or cut short; {_CURE}")
    state = State(**told)
    if state.digest != digest:
        raise UserError(
            f"checkpoint {folder} is of another plan ({state.digest}, now {digest}): the conversations, the "
            f"tokenizer or the code that plans have changed since; {_CURE}"
        )
    return state


_CURE = "delete the stage's folder to train from the start"
