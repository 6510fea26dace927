"""Choose the passages of a round in one pass over the tagged chunks, in bounded memory.

The random share is the passages with the smallest hash of seed and id: a simple random sample, of which a
later round takes the next ones. The other parts keep the best passages of each stratum (type, source), and
then take from the strata in turn, so that no frequent type or large source takes a round for itself.
"""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from uniner.review.tasks import PARTS, RANDOM

_MOST_KEPT = 50_000
"""Candidates kept in memory for each part, about 15 MB."""
_MOST_STRATA = 10_000
"""Strata told apart; passages of further ones share one, so that a source per document needs no memory."""
_OTHERS = ("", "")


class Candidate(NamedTuple):
    """A passage that may be chosen: the larger, the better. rank: minus its hash, which settles ties."""

    priority: float
    rank: int
    passage_id: str
    key: str
    row: int


class Choice(NamedTuple):
    """A chosen passage: its chunk's key and row, the part it is in, and the type and priority behind that."""

    part: str
    type: str
    candidate: Candidate


def passage_hash(purpose: str, seed: int, passage_id: str) -> int:
    """Return a number of 60 bits for a passage, the same on every machine, another for each purpose."""
    data = f"{purpose}/{seed}/{passage_id}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 4


def divide(passages: int, random_share: float, parts: Collection[str]) -> dict[str, int]:
    """Divide a round among the parts: the random share first, the rest evenly."""
    others = [part for part in PARTS if part in parts and part != RANDOM]
    sizes = {RANDOM: round(passages * random_share)}
    rest = passages - sizes[RANDOM]
    for number, part in enumerate(others):
        sizes[part] = rest // len(others) + (number < rest % len(others))
    return sizes


class Chooser:
    """Takes the signals of chunk after chunk, and chooses at the end.

    sizes: passages of each part. drawn: ids in an earlier round's random share, which are not drawn again.
    reviewed: ids of all earlier rounds, which the other parts leave out.
    """

    def __init__(
        self, sizes: Mapping[str, int], seed: int, drawn: Collection[str] = (), reviewed: Collection[str] = ()
    ):
        self._sizes, self._seed = dict(sizes), seed
        self._drawn, self._reviewed = set(drawn), set(reviewed)
        self._random: list[Candidate] = []
        # A passage of a part may turn out to be in an earlier one.
        depth = sum(sizes.values())
        self._strata = {part: _Strata(depth) for part in sizes if part != RANDOM}

    def add(
        self, key: str, ids: Sequence[str], sources: Sequence[str], signals: Mapping[str, pa.Table]
    ) -> None:
        """Take in a chunk. ids, sources: of its rows. signals: by part, see `signals`."""
        ranks = [-passage_hash("draw", self._seed, passage_id) for passage_id in ids]
        size = self._sizes[RANDOM]
        for row, (passage_id, rank) in enumerate(zip(ids, ranks, strict=True)):
            if _may_enter(self._random, 0.0, rank, size) and passage_id not in self._drawn:
                _keep_best(self._random, Candidate(0.0, rank, passage_id, key, row), size)
        for part, table in signals.items():
            strata = self._strata[part]
            columns = (table[name].to_pylist() for name in ("row", "type", "priority"))
            for row, name, priority in zip(*columns, strict=True):
                stratum, rank = (name, sources[row]), ranks[row]
                if priority > 0 and strata.may_enter(stratum, priority, rank):
                    passage_id = ids[row]
                    if passage_id not in self._reviewed:
                        strata.add(stratum, Candidate(priority, rank, passage_id, key, row))

    def choose(self) -> list[Choice]:
        """Return the chosen passages, part by part. What a part lacks, the last one takes over."""
        chosen = [Choice(RANDOM, "", candidate) for candidate in sorted(self._random, reverse=True)]
        taken = {choice.candidate.passage_id for choice in chosen}
        missing = 0
        for part in (part for part in PARTS if part in self._strata):
            wanted = self._sizes[part] + missing
            found = self._strata[part].pick(wanted, taken)
            chosen += [Choice(part, name, candidate) for name, candidate in found]
            missing = wanted - len(found)
        return chosen


class _Strata:
    """The best candidates of each stratum (type, source).

    However many strata there are, what is kept does not depend on the order in which candidates come, as
    long as no further stratum has to share one.
    """

    def __init__(self, depth: int):
        self._depth = depth
        self._best: dict[tuple[str, str], list[Candidate]] = {}

    def may_enter(self, stratum: tuple[str, str], priority: float, rank: int) -> bool:
        """Tell, in less time than adding takes, whether a candidate may be among the best."""
        heap = self._best.get(stratum)
        return heap is None or _may_enter(heap, priority, rank, self._depth)

    def add(self, stratum: tuple[str, str], candidate: Candidate) -> None:
        if stratum not in self._best:
            if len(self._best) >= _MOST_STRATA:
                stratum = _OTHERS
            self._best.setdefault(stratum, [])
            self._trim()
        _keep_best(self._best[stratum], candidate, self._depth)

    def _trim(self) -> None:
        most = max(1, _MOST_KEPT // len(self._best))
        if self._depth <= most:
            return
        self._depth = most
        for heap in self._best.values():
            while len(heap) > most:
                heapq.heappop(heap)

    def pick(self, count: int, taken: set[str]) -> list[tuple[str, Candidate]]:
        """Take passages from the strata in turn; taken: ids that are chosen, to which these are added.

        Next comes the stratum whose type and source have been taken from least, of equals the one with the
        highest priority.
        """
        left = {stratum: sorted(heap) for stratum, heap in self._best.items() if heap}
        types, sources = Counter[str](), Counter[str]()
        picked: list[tuple[str, Candidate]] = []

        def turn(stratum: tuple[str, str]) -> tuple[float, ...]:
            best = left[stratum][-1]
            return types[stratum[0]] + sources[stratum[1]], -best.priority, -best.rank

        while left and len(picked) < count:
            stratum = min(left, key=turn)
            candidate = left[stratum].pop()
            if not left[stratum]:
                del left[stratum]
            if candidate.passage_id not in taken:
                picked.append((stratum[0], candidate))
                taken.add(candidate.passage_id)
                types[stratum[0]] += 1
                sources[stratum[1]] += 1
        return picked


def by_chunk(choices: Sequence[Choice]) -> dict[str, list[Choice]]:
    """Group choices by the chunk that has them."""
    grouped = defaultdict[str, list[Choice]](list)
    for choice in choices:
        grouped[choice.candidate.key].append(choice)
    return dict(grouped)


def _may_enter(heap: list[Candidate], priority: float, rank: int, most: int) -> bool:
    return len(heap) < most or (bool(heap) and (priority, rank) >= heap[0][:2])


def _keep_best(heap: list[Candidate], candidate: Candidate, most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, candidate)
    elif heap and candidate > heap[0]:
        heapq.heapreplace(heap, candidate)
