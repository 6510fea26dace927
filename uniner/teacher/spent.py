"""What a stage has spent on its teacher, by all records of it."""

import contextlib
from collections.abc import Iterator

from uniner.runtime.spending import SpendingFile
from uniner.storage.filesystem import explained
from uniner.storage.lease import hold_lease
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.batch.records import BatchRecords

ASKING_STAGES = ("generate", "annotate", "describe")
"""The stages that ask the teacher, within one budget."""


def spent_in_batches(stage: StageFolder) -> float:
    """Return the USD that a stage's batches cost; those in progress count at most."""
    with explained(stage.url):
        return sum(record.spent_usd for record in BatchRecords(stage).read())


def spent_usd(stage: StageFolder) -> float:
    """Return the USD that a stage has spent, complete or not."""
    manifest = stage.manifest()
    known = manifest.figures.get("cost_usd", 0.0) if manifest else 0.0
    return max(known, SpendingFile(stage).read() + spent_in_batches(stage))


@contextlib.contextmanager
def spent_elsewhere(run: StageFolder, stage: str, budget_usd: float | None) -> Iterator[float]:
    """Yield the USD that the run's other stages which ask the teacher have spent of its budget.

    They cannot spend more meanwhile; see `shared_budget`.
    """
    with contextlib.ExitStack() as others:
        yield sum(
            others.enter_context(shared_budget(run / other, budget_usd))
            for other in ASKING_STAGES
            if other != stage
        )


@contextlib.contextmanager
def shared_budget(other: StageFolder, budget_usd: float | None) -> Iterator[float]:
    """Yield the USD that another stage has spent of the same budget. It cannot spend more meanwhile.

    Raises:
        UserError: a driver works in that stage; without a budget both may work.
    """
    with contextlib.nullcontext() if budget_usd is None else hold_lease(other):
        yield spent_usd(other)
