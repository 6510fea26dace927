"""Pack conversations into rows: cut them to the length limit, fix the schedule, lay rows out as arrays.

The samples of a step depend on the data, the seed and the settings alone, never on the number of workers. The
schedule is fixed before the first worker starts, so that a run can resume with more or fewer workers. How a
step's samples are packed into rows does depend on it: every worker gets the same number of rows, of about the
same length.
"""

import hashlib
import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uniner.templates import TokenBlock

IGNORED = -100
"""The label of a token that carries no loss (torch's and transformers' convention)."""


class RenderedConversation(NamedTuple):
    """A conversation as token ids: its head (system line and passage), and a block for each question."""

    passage_id: str
    head: TokenBlock
    blocks: Sequence[TokenBlock]


@dataclass(frozen=True)
class Sample:
    """A conversation, or a piece of it, trained as one sequence. ids is int32 (n,), loss is bool (n,)."""

    passage_id: str
    ids: npt.NDArray[np.int32]
    loss: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answer_tokens(self) -> int:
        """The number of tokens that carry loss. The first never does, as no token predicts it."""
        return int(self.loss[1:].sum())


@dataclass(frozen=True, kw_only=True)
class FitCounts:
    """conversations: those with at least one sample. split: conversations cut into several samples.

    set_aside: questions that do not fit into a sample even alone.
    """

    conversations: int
    samples: int
    split: int
    set_aside: int


@dataclass(frozen=True)
class FittedSamples:
    """Samples in order, and how many each conversation became."""

    samples: list[Sample]
    per_conversation: list[int]
    counts: FitCounts


def fit(conversations: Iterable[RenderedConversation], max_tokens: int) -> FittedSamples:
    """Fit conversations into samples of at most max_tokens.

    A longer conversation is cut before a question and its head is repeated, so that no text is lost and every
    question still follows its passage.
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
    counts = FitCounts(
        conversations=len(per_conversation),
        samples=len(samples),
        split=sum(pieces > 1 for pieces in per_conversation),
        set_aside=set_aside,
    )
    return FittedSamples(samples, per_conversation, counts)


def _cut(blocks: Sequence[TokenBlock], limit: int) -> list[list[TokenBlock]]:
    """Divide blocks, in order, into pieces of at most `limit` tokens."""
    pieces: list[list[TokenBlock]] = []
    filled = limit
    for block in blocks:
        if filled + len(block) > limit:
            pieces.append([])
            filled = 0
        pieces[-1].append(block)
        filled += len(block)
    return pieces


def _sample(passage_id: str, head: TokenBlock, blocks: Sequence[TokenBlock]) -> Sample:
    parts = [head, *blocks]
    ids = np.concatenate([np.asarray(part.ids, np.int32) for part in parts])
    return Sample(passage_id, ids, np.concatenate([np.asarray(part.loss, np.bool_) for part in parts]))


PackedRow = list[int]
"""The numbers of the samples that are packed into one sequence."""


@dataclass(frozen=True)
class Schedule:
    """The rows of every step, in order, and the steps (counted from 1) that end an epoch."""

    steps: list[list[PackedRow]]
    epoch_ends: frozenset[int]

    def digest(self) -> str:
        """Return a digest of the samples of each step. How they are packed is left out."""
        text = "\n".join(",".join(map(str, sorted(chain.from_iterable(rows)))) for rows in self.steps)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def schedule(
    lengths: Sequence[int],
    per_conversation: Sequence[int],
    *,
    seed: int,
    epochs: int,
    batch: int,
    row_tokens: int,
    workers: int = 1,
    max_steps: int | None = None,
    rows: "Callable[[Sequence[int], Sequence[int], int, int], list[PackedRow]] | None" = None,
) -> Schedule:
    """Return the schedule: a seeded shuffle for each epoch, `batch` conversations a step, packed into rows.

    lengths: tokens of each sample. per_conversation: samples of each conversation, which stay in one step.
    rows: divides a step's samples, in place of `pack`. The last step of an epoch may be smaller; no
    conversation is dropped.
    """
    starts = [0, *accumulate(per_conversation)]
    steps: list[list[PackedRow]] = []
    epoch_ends = set[int]()
    for epoch in range(epochs):
        order = list(range(len(per_conversation)))
        random.Random(f"{seed} {epoch}").shuffle(order)
        for first in range(0, len(order), batch):
            chosen = [
                sample
                for conversation in order[first : first + batch]
                for sample in range(starts[conversation], starts[conversation + 1])
            ]
            steps.append((rows or pack)(chosen, lengths, row_tokens, workers))
            if len(steps) == max_steps:
                ends_epoch = first + batch >= len(order)
                return Schedule(steps, frozenset(epoch_ends | ({len(steps)} if ends_epoch else set())))
        epoch_ends.add(len(steps))
    return Schedule(steps, frozenset(epoch_ends))


def pack(chosen: Sequence[int], lengths: Sequence[int], row_tokens: int, workers: int = 1) -> list[PackedRow]:
    """Pack samples into rows of at most row_tokens: the fewest rows that give every worker the same number.

    Longest sample first, each into the shortest row. Rows are not padded, so a row costs the tokens it holds.
    Workers take rows in lockstep and wait for the longest, so rows are returned longest first.
    """
    if not chosen:
        return []
    total = sum(lengths[sample] for sample in chosen)
    count = -(-total // min(row_tokens, total))
    count = min(count + -count % workers, len(chosen))  # more rows than samples would be empty
    order = sorted(chosen, key=lambda sample: -lengths[sample])
    while True:
        filled = [(0, number) for number in range(count)]
        rows: list[PackedRow] = [[] for _ in range(count)]
        for sample in order:
            tokens, number = filled[0]
            rows[number].append(sample)
            heapq.heapreplace(filled, (tokens + lengths[sample], number))
        if max(filled)[0] <= row_tokens or count >= len(chosen):
            totals = {number: tokens for tokens, number in filled}
            return [
                rows[number] for number in sorted(totals, key=lambda number: -totals[number]) if rows[number]
            ]
        count = min(count + workers, len(chosen))


def useful_share(steps: Iterable[list[PackedRow]], lengths: Sequence[int], workers: int) -> float:
    """Return the share of the workers' time that goes into tokens; the rest is waiting for the longest row.

    Workers take rows in turn, one each; a turn lasts as long as its longest row.
    """
    useful, spent = 0, 0
    for rows in steps:
        totals = [sum(lengths[sample] for sample in row) for row in rows]
        useful += sum(totals)
        spent += sum(workers * max(totals[first : first + workers]) for first in range(0, len(rows), workers))
    return useful / max(1, spent)


def data_digest(samples: Sequence[Sample]) -> str:
    """Return a digest of the samples' ids and loss masks, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(len(sample).to_bytes(4, "big") + sample.ids.tobytes() + sample.loss.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """A row as the model's inputs: int64 arrays of shape (1, n).

    position_ids restart with each sample, which is how the model tells samples apart. labels[i] is the id at
    i, or IGNORED; the loss shifts them by one.
    """

    input_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def collate(samples: Sequence[Sample]) -> Batch:
    """Lay the samples of a row out one after the other."""
    ids = np.concatenate([sample.ids for sample in samples]).astype(np.int64)
    positions = np.concatenate([np.arange(len(sample), dtype=np.int64) for sample in samples])
    loss = np.concatenate([sample.loss for sample in samples])
    # A sample's first token follows the end of another sample, which must not learn to predict it.
    labels = np.where(loss & (positions > 0), ids, IGNORED)
    return Batch(ids[None], positions[None], labels[None])


def empty_batch() -> Batch:
    """Return a row without loss, for a worker that has no row left while others still have one."""
    none = np.full((1, 2), IGNORED, np.int64)
    return Batch(np.zeros((1, 2), np.int64), np.arange(2, dtype=np.int64)[None], none)
