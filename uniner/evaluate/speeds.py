"""How fast a system answers and what that costs, beside its F1.

The time is that of its engines: from a chunk's questions to their answers, without their start, reading and
writing.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uniner.config.systems import ChatSystem
from uniner.evaluate.leaderboard import LeaderboardCell, ScoresBySystem, mean_cell
from uniner.evaluate.systems_registry import SystemSpec

PASSAGES, SECONDS = "passages", "engine_seconds"
"""The figures of a chunk of answers that speeds are made of."""


class BusyClock:
    """Measures the time in which one or several chunks are in work. The chunks' seconds add up to it."""

    def __init__(self) -> None:
        self._in_work, self._since = 0, 0.0

    def begin(self) -> None:
        """A chunk's work begins."""
        if not self._in_work:
            self._since = time.monotonic()
        self._in_work += 1

    def end(self) -> float:
        """A chunk's work ends. Returns the seconds since another one ended, or since the clock was idle."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        self._in_work -= 1
        return seconds


@dataclass(frozen=True, kw_only=True)
class SystemSpeed:
    """What a system's answers took.

    runs_on: what an engine has, such as `1 GPU`. passages_per_s: of one engine; None for a server's model, as
    replies may come from the cache. usd_per_million: US dollars a million passages; None: no price is known.
    """

    runs_on: str
    passages_per_s: float | None
    usd_per_million: float | None


def measured_speed(system: SystemSpec, figures: Mapping[str, float]) -> SystemSpeed | None:
    """Return the speed by the sums of a system's chunks; None where none of them was timed.

    Where other machines answered some of the chunks, it is the mean, at the price of the present ones.
    """
    passages, seconds = figures.get(PASSAGES), figures.get(SECONDS)
    if not passages or not seconds:
        return None
    if isinstance(system.settings, ChatSystem):
        usd = figures.get("cost_usd", 0.0) + figures.get("saved_usd", 0.0)
        per_million = 1e6 * usd / passages or None
        return SystemSpeed(runs_on="server", passages_per_s=None, usd_per_million=per_million)
    gpus, price = system.engine.gpus, system.engine.usd_per_gpu_hour
    return SystemSpeed(
        runs_on=f"{gpus:g} GPU{'s' if gpus > 1 else ''}" if gpus else "CPU",
        passages_per_s=passages / seconds,
        usd_per_million=price * gpus * seconds / 3600 / passages * 1e6 if price and gpus else None,
    )


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """A system's speed beside its mean strict F1 in per cent, over those of the table's data sets it has."""

    system: str
    f1: LeaderboardCell
    speed: SystemSpeed


def speed_rows(scores: ScoresBySystem, speeds: Mapping[str, SystemSpeed]) -> list[SpeedRow]:
    """Return a row for each system with a speed, the best first."""
    datasets = {name for by_dataset in scores.values() for name in by_dataset}
    rows = []
    for system, by_dataset in scores.items():
        cells = []
        for score in by_dataset.values():
            low, high = score.interval
            cells.append(LeaderboardCell(100 * score.f1, 100 * low, 100 * high))
        mean = mean_cell(cells, len(datasets))
        if mean and system in speeds:
            rows.append(SpeedRow(system=system, f1=mean, speed=speeds[system]))
    return sorted(rows, key=lambda row: (-row.f1.over, -row.f1.f1))


SPEED_TITLE = "Quality, speed and cost"
SPEED_NOTE = (
    "F1: strict, the mean over data sets. passages/s: of one engine, by the time from questions to answers; "
    "more types a passage make it slower. USD: by engine.usd_per_gpu_hour, or by a server's prices."
)
SPEED_HEAD = ("system", "F1", "passages/s", "on", "USD a million passages")


def speed_texts(speed: SystemSpeed) -> tuple[str, str, str]:
    """Return passages a second, what it runs on and the cost, as text; "" where unknown."""
    rate, usd = speed.passages_per_s, speed.usd_per_million
    return (
        "" if rate is None else _three_digits(rate),
        speed.runs_on,
        "" if usd is None else _three_digits(usd),
    )


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def rows_as_json(rows: Sequence[SpeedRow]) -> list[dict[str, object]]:
    """Return the rows as JSON objects."""
    return [{"system": row.system, "f1": vars(row.f1), **vars(row.speed)} for row in rows]
