"""Recommend how many tokens a packed row should have on a GPU: the more that fit, the fuller its kernels."""

from collections.abc import Callable
from dataclasses import replace

from uniner.runtime.gpu_models import GPUS
from uniner.train.estimate import ALLOCATOR, CUDA, TrainingLoad, WorkerMemory

_LENGTHS = (16_384, 8_192, 4_096, 2_048, 1_024)
_SPARE = 0.9  # share of a GPU's memory that is filled at most: the estimate is not exact


def recommended_rows(
    needs: Callable[[TrainingLoad], WorkerMemory], load: TrainingLoad, workers: int, shortest: int
) -> dict[str, int]:
    """Return for each kind of GPU the longest rows that fit, where they may be at least `shortest` tokens.

    needs: a worker's memory for a load. Rows are not longer than a worker's share of a step's tokens, which a
    larger train.pack_tokens would not change.
    """
    share = load.tokens / load.steps / workers
    useful = [length for length in _LENGTHS if length / 2 < max(share, shortest) and length >= shortest]
    rows = {}
    for gpu, (_, memory) in GPUS.items():
        fitting = (length for length in useful if _taken(needs, load, length) < _SPARE * memory)
        if longest := next(fitting, None):
            rows[gpu] = longest
    return rows


def _taken(needs: Callable[[TrainingLoad], WorkerMemory], load: TrainingLoad, row: int) -> float:
    """Return the bytes that a row of this length takes of a GPU, with as many answers as the fullest now."""
    answers = round(load.row_answers * row / load.row_tokens)
    return ALLOCATOR * needs(replace(load, row_tokens=row, row_answers=answers)).total + CUDA
