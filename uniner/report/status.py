"""What of a run is done, running or missing, and what it has cost so far."""

import re

from uniner.errors import printable
from uniner.storage.folder import Folder
from uniner.storage.manifest import StageTotals, differences
from uniner.storage.model_folders import OWN_STAGES
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.spent import spent_usd

_UNITS = {
    "build": "conversations",
    "train": "conversations",
    "train-encoder": "passages",
    "evaluate": "questions",
}
_CHECKPOINT = re.compile(r"checkpoints/step-(\d+)-[^/]+/state\.json")
"""The last file of a training's checkpoint."""


def describe_status(run_folder: StageFolder, stages: tuple[str, ...]) -> str:
    """Return a line per stage (complete, begun or not, with rows or chunks), and the cost so far."""
    lines = [f"run {printable(run_folder.url)}"]
    total = 0.0
    parent_chunks = 0
    for stage in stages:
        folder = run_folder / stage
        manifest = folder.manifest()
        if manifest:
            state, figures = f"complete, {manifest.rows:,} {_UNITS.get(stage, 'passages')}", manifest.figures
            begun = folder.read_identity()
            if begun and differences(manifest.identity, begun):
                state += ", and what was added since is begun"
            parent_chunks = len(manifest.chunks) or parent_chunks
        elif stage in OWN_STAGES.values() and folder.read_identity():
            state, figures = training_progress(folder), {}
        elif folder.read_identity():
            totals = StageTotals(folder.summaries())
            figures, made = totals.figures, len(totals.chunks())
            expected = f" of {parent_chunks:,}" if parent_chunks >= made > 0 else ""
            chunks = "chunk" if made == 1 and not expected else "chunks"
            state = f"begun, {made:,}{expected} {chunks}, {totals.rows:,} rows"
        else:
            state, figures = "not begun", {}
        # Also what brought no reply, and what a stage that is not complete has spent on unfinished chunks.
        usd = max(figures.get("cost_usd", 0.0), spent_usd(folder))
        total += usd
        lines.append(f"  {stage:<13} {state}{f', {usd:,.2f} USD' if usd else ''}")
    return "\n".join([*lines, f"  spent         {total:,.2f} USD"])


def training_progress(folder: Folder) -> str:
    """Say how far a training is, by its newest checkpoint: it has no chunks."""
    steps = [int(match[1]) for match in map(_CHECKPOINT.fullmatch, folder.tree()) if match]
    return f"begun, {max(steps):,} steps in its last checkpoint" if steps else "begun, no checkpoint yet"
