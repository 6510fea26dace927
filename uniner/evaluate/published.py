"""Published scores by row, with their source and protocol (published.toml)."""

import functools
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import msgspec


@dataclass(frozen=True, kw_only=True)
class PublishedProtocol:
    """What published numbers mean, and our protocol that they compare with ("": none)."""

    means: str
    ours: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A system's F1 in one published table, by data set or, for the headline figure, by domain.

    average: as published; None where the table has none. offset: how much higher the values are than the
    means of the data sets' own published values.
    """

    system: str
    table: str
    source: str
    protocol: str
    f1: Mapping[str, float]
    domains: Mapping[str, float]
    average: float | None
    offset: float
    note: str


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table of published.toml. A list of values has one for each system."""

    name: str
    source: str
    protocol: str
    systems: tuple[str, ...]
    averages: tuple[float, ...]
    note: str = ""
    offset: float = 0.0
    f1: dict[str, tuple[float, ...]] = field(default_factory=dict)
    domains: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def rows(self) -> list[PublishedRow]:
        """Return a row for each system."""

        def column(values: Mapping[str, Sequence[float]], number: int) -> dict[str, float]:
            return {name: row[number] for name, row in values.items() if not math.isnan(row[number])}

        return [
            PublishedRow(
                system=system,
                table=self.name,
                source=self.source,
                protocol=self.protocol,
                f1=column(self.f1, number),
                domains=column(self.domains, number),
                average=None if math.isnan(self.averages[number]) else self.averages[number],
                offset=self.offset,
                note=self.note,
            )
            for number, system in enumerate(self.systems)
        ]


@functools.cache
def published_rows() -> tuple[PublishedRow, ...]:
    """Return all published rows, in the order of the file."""
    tables = msgspec.convert(_published_file()["table"], list[PublishedTable])
    return tuple(row for table in tables for row in table.rows())


@functools.cache
def published_protocols() -> dict[str, PublishedProtocol]:
    """Return the protocols of the published rows by name."""
    return msgspec.convert(_published_file()["protocols"], dict[str, PublishedProtocol])


def published_sources() -> dict[str, str]:
    """Return the source of each published table by name."""
    return {row.table: row.source for row in published_rows()}


def _published_file() -> dict[str, object]:
    file = resources.files("uniner.evaluate").joinpath("published.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))
