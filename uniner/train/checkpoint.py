"""Checkpoints to go on from: model and optimizer as torch's distributed checkpoint, and the run's state.

Each worker writes its own shards into its own local folder; storage merges the folders. `state.json`, by
worker 0, holds the state and the size and digest of every shard, so that a broken checkpoint is noticed.
A checkpoint can be loaded by another number of workers.
"""

import hashlib
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
    mine = {file.name: [file.stat().st_size, _digest(file)] for file in folder.iterdir()}
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    if dist.get_rank() == 0:
        files = {name: seal for worker in everyones for name, seal in worker.items()}
        (folder / STATE).write_text(json.dumps({"files": files, **asdict(state)}))


def fault(folder: Path) -> str:
    """Say what is broken of a checkpoint, "" where it is whole; every worker must call this.

    Each reads a part of the shards; what any finds is told to all.
    """
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, _fault(folder))
    return next(filter(None, everyones), "")


def load(folder: Path, model: Any, optimizer: torch.optim.Optimizer, digest: str) -> State:
    """Read a whole checkpoint into model and optimizer; every worker must call this. Returns the run's state.

    Raises:
        UserError: where it belongs to another plan.
    """
    state, _ = _read(folder)
    if state.digest != digest:
        raise UserError(
            f"checkpoint {folder} is of another plan ({state.digest}, now {digest}): the conversations, the "
            "tokenizer or the code that plans have changed since; delete the stage's folder to train from "
            "the start"
        )
    weights, moments = get_state_dict(model, optimizer, options=_LEARNT)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_LEARNT)
    return state


def _read(folder: Path) -> tuple[State, dict[str, list[Any]]]:
    """Return a checkpoint's state, and the size and digest of each of its files."""
    told = json.loads((folder / STATE).read_text())
    files = told.pop("files")
    return State(**told), files


def _fault(folder: Path) -> str:
    try:
        _, files = _read(folder)
    except FileNotFoundError:
        return f"{STATE} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} cannot be read"
    for name, (size, _) in files.items():
        if not (folder / name).exists() or (folder / name).stat().st_size != size:
            return f"{name} is missing or cut short"
    share = sorted(files)[dist.get_rank() :: dist.get_world_size()]
    broken = (
        f"{name} has other bytes than were written"
        for name in share
        if _digest(folder / name) != files[name][1]
    )
    return next(broken, "")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
