"""Conversations to packed rows: cut to the length limit, plan every step ahead, lay a row out as arrays.

What a step learns from depends on the data, the seed and the recipe alone, never on the number of workers: it
is fixed before the first worker starts, so a run can go on with more or fewer of them. How a step's samples
are laid in rows does depend on it: all workers have as many rows, of about the same length.
"""

import hashlib
import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt

from uniner.templates import TokenBlock

IGNORED = -100
"""The label of a token that carries no loss (torch's and transformers' convention)."""


@dataclass(frozen=True)
class Sample:
    """A piece of a conversation that is trained as one sequence. ids is int32, loss is bool, both (n,)."""

    passage_id: str
    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answer_tokens(self) -> int:
        """Tokens that carry loss; the first never does, as nothing predicts it."""
        return int(self.loss[1:].sum())


@dataclass(frozen=True)
class Fitted:
    """Samples in order, how many each conversation became, and the counts of what was done.

    counts: conversations (that became at least one sample), samples, split (conversations cut in several),
    set_aside (questions that do not fit even alone).
    """

    samples: list[Sample]
    per_conversation: list[int]
    counts: dict[str, int]


def fit(conversations: Iterable[tuple[str, TokenBlock, Sequence[TokenBlock]]], max_tokens: int) -> Fitted:
    """Fit conversations, each (passage id, head, question blocks), into samples of at most max_tokens.

    A longer conversation is cut before a question and its head repeated, so that nothing is cut silently and
    every question is still asked about its passage.
    """
    samples: list[Sample] = []
    per_conversation: list[int] = []
    set_aside = 0
    for passage_id, head, blocks in conversations:
        fitting = [block for block in blocks if len(head) + len(block) <= max_tokens]
        set_aside += len(blocks) - len(fitting)
        pieces = [_sample(passage_id, head, piece) for piece in _cut(fitting, max_tokens - len(head))]
        if pieces:
            samples += pieces
            per_conversation.append(len(pieces))
    counts = {
        "conversations": len(per_conversation),
        "samples": len(samples),
        "split": sum(pieces > 1 for pieces in per_conversation),
        "set_aside": set_aside,
    }
    return Fitted(samples, per_conversation, counts)


def _cut(blocks: Sequence[TokenBlock], room: int) -> list[list[TokenBlock]]:
    """Divide blocks, in order, into pieces of at most `room` tokens."""
    pieces: list[list[TokenBlock]] = []
    filled = room
    for block in blocks:
        if filled + len(block) > room:
            pieces.append([])
            filled = 0
        pieces[-1].append(block)
        filled += len(block)
    return pieces


def _sample(passage_id: str, head: TokenBlock, blocks: Sequence[TokenBlock]) -> Sample:
    parts = [head, *blocks]
    ids = np.concatenate([np.asarray(part.ids, np.int32) for part in parts])
    return Sample(passage_id, ids, np.concatenate([np.asarray(part.loss, np.bool_) for part in parts]))


Row = list[int]
"""Samples, by number, that are packed into one sequence."""


@dataclass(frozen=True)
class Plan:
    """The rows of every step, in order, and the steps (counted from 1) that end an epoch."""

    steps: list[list[Row]]
    epoch_ends: frozenset[int]

    def digest(self) -> str:
        """Return a digest of which samples each step learns from; how they are packed is left out."""
        told = "\n".join(",".join(map(str, sorted(chain.from_iterable(rows)))) for rows in self.steps)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def plan(
    lengths: Sequence[int],
    per_conversation: Sequence[int],
    *,
    seed: int,
    epochs: int,
    batch: int,
    row_tokens: int,
    workers: int = 1,
    max_steps: int | None = None,
) -> Plan:
    """Plan every step: seeded shuffle an epoch, `batch` conversations a step, packed into the workers' rows.

    The samples of a conversation stay in one step. An epoch's last step may be smaller; nothing is dropped.
    """
    starts = [0, *accumulate(per_conversation)]
    steps: list[list[Row]] = []
    ends = set()
    for epoch in range(epochs):
        order = list(range(len(per_conversation)))
        random.Random(f"{seed} {epoch}").shuffle(order)
        for first in range(0, len(order), batch):
            chosen = [
                sample
                for conversation in order[first : first + batch]
                for sample in range(starts[conversation], starts[conversation + 1])
            ]
            steps.append(pack(chosen, lengths, row_tokens, workers))
        ends.add(len(steps))
    steps = steps[:max_steps]
    return Plan(steps, frozenset(ends & set(range(len(steps) + 1))))


def pack(chosen: Sequence[int], lengths: Sequence[int], row_tokens: int, workers: int = 1) -> list[Row]:
    """Pack samples into rows of at most row_tokens, as few as each worker can have the same number of.

    Longest first, each into the shortest row (a row is never padded, so rows cost what they hold): workers
    go row by row in lockstep, and all wait for the one with the longest. Rows come longest first.
    """
    if not chosen:
        return []
    most = min(row_tokens, sum(lengths[sample] for sample in chosen))
    count = -(-sum(lengths[sample] for sample in chosen) // most)
    count += -count % workers
    order = sorted(chosen, key=lambda sample: -lengths[sample])
    while True:
        filled = [(0, number) for number in range(count)]
        rows: list[Row] = [[] for _ in range(count)]
        for sample in order:
            tokens, number = filled[0]
            rows[number].append(sample)
            heapq.heapreplace(filled, (tokens + lengths[sample], number))
        if max(filled)[0] <= row_tokens or count >= len(chosen):
            totals = {number: tokens for tokens, number in filled}
            return [
                rows[number] for number in sorted(totals, key=lambda number: -totals[number]) if rows[number]
            ]
        count += workers


def useful_share(steps: Iterable[list[Row]], lengths: Sequence[int], workers: int) -> float:
    """Return the share of the workers' time that goes into tokens: the rest waits for the longest row.

    Workers take rows in turn, the k-th of them together; each turn lasts as long as its longest row.
    """
    useful, taken = 0, 0
    for rows in steps:
        totals = [sum(lengths[sample] for sample in row) for row in rows]
        useful += sum(totals)
        taken += sum(workers * max(totals[first : first + workers]) for first in range(0, len(rows), workers))
    return useful / max(1, taken)


def data_digest(samples: Sequence[Sample]) -> str:
    """Return a digest of the samples' ids and loss marks, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(len(sample).to_bytes(4, "big") + sample.ids.tobytes() + sample.loss.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """A row laid out for the model: int64 arrays of shape (1, n).

    position_ids restart with each sample: that is how the model tells them apart. labels[i] is the id at i,
    or IGNORED; the shift by one is the loss's.
    """

    input_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def collate(samples: Sequence[Sample]) -> Batch:
    """Lay the samples of one row out one after the other."""
    ids = np.concatenate([sample.ids for sample in samples]).astype(np.int64)
    positions = np.concatenate([np.arange(len(sample), dtype=np.int64) for sample in samples])
    loss = np.concatenate([sample.loss for sample in samples])
    # What stands before a sample's first token is another sample's end: it must not learn to predict it.
    labels = np.where(loss & (positions > 0), ids, IGNORED)
    return Batch(ids[None], positions[None], labels[None])


def empty_batch() -> Batch:
    """Return a row without loss, for a worker that has none left while others still work."""
    none = np.full((1, 2), IGNORED, np.int64)
    return Batch(np.zeros((1, 2), np.int64), np.arange(2, dtype=np.int64)[None], none)
