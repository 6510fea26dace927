"""Checks of the input: the corpus's shards and the gold data, by their first rows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from uniner.config.schema import Ingest
from uniner.errors import UserError
from uniner.gold.catalogue import tag_column
from uniner.gold.reader import read_gold
from uniner.ingest.document_reader import REASONS, RowFields, read_rows, read_texts
from uniner.ingest.shards import split_shards
from uniner.preflight.results import CheckResult, error, ok, size, warning
from uniner.storage.filesystem import expand, explained, filesystem

_SHARDS, _ROWS, _PASSAGES = 20, 50, 20
_READERS = 16


def check_shards(section: Ingest) -> Iterator[CheckResult]:
    """Count the shards and their bytes, and read the first rows of some, spread over all of them.

    Raises:
        UserError: there are none.
    """
    files = expand(section.shards)
    with ThreadPoolExecutor(_READERS) as pool:
        total = sum(pool.map(_bytes, files))
    step = -(-len(files) // _SHARDS)
    sample = files[::step]
    reasons, broken = Counter[str](), []
    for file in sample:
        try:
            reasons += _first_rows(file, section)
        except UserError as failure:
            broken.append(str(failure))
    subject, rows = "ingest.shards", sum(reasons.values())
    for line in broken:
        yield error(subject, line)
    found = f"{len(files):,} {'shard' if len(files) == 1 else 'shards'}, {size(total)}"
    rejected = {reason: count for reason, count in reasons.items() if reason}
    listed = ", ".join(f"{count} {reason}: {REASONS[reason]}" for reason, count in rejected.items())
    bad = sum(rejected.values())
    if bad and bad == rows:
        yield error(
            subject,
            f"{found}; none of {rows:,} first rows has a text ({listed}); name its field, such as "
            "ingest.text_field=body",
        )
    elif bad > section.max_reject_share * rows:
        yield warning(
            subject,
            f"{found}; {bad:,} of {rows:,} first rows are rejected ({listed}), more than the share "
            f"ingest.max_reject_share = {section.max_reject_share:g}; correct them, or raise it",
        )
    elif rows:
        yield ok(
            subject,
            f"{found}; the first rows of {len(sample):,} ({rows:,} in all) are read, with the text in "
            f"{section.text_field!r}",
        )
    elif not broken:
        yield error(subject, f"{found}, and no row in the first {len(sample):,}; name shards with text")


def _bytes(file: str) -> int:
    system, path = filesystem(file)
    with explained(file):
        return system.size(path)


def _first_rows(file: str, section: Ingest) -> Counter[str]:
    """Count a shard's first rows by the reason for rejecting them; "" is a row with a text."""
    fields = RowFields(section.text_field, section.source_field, section.id_field)
    parts = split_shards([file], [0], section.text_field, None, section.id_field, section.zstd_window_mib)
    limit = section.max_row_mb * 1_000_000
    rows = (row for part in parts for row in read_rows(part, fields, limit, 0, section.zstd_window_mib))
    contents = (row.content for row in islice(rows, _ROWS))
    return Counter(content if isinstance(content, str) else "" for content in contents)


def check_benchmarks(section: Ingest) -> Iterator[CheckResult]:
    """Read the first texts of the benchmarks that passages are compared with."""
    limit = section.max_row_mb * 1_000_000
    for name, file in section.decontaminate.items():
        subject = f"ingest.decontaminate.{name}"
        try:
            count = sum(1 for _ in islice(read_texts(file, limit), _ROWS))
        except UserError as failure:
            yield error(subject, str(failure))
            continue
        level = ok if count else error
        yield level(subject, f"{file}: {'its first texts are read' if count else 'has no text'}")


def check_gold(setting: str, datasets: Mapping[str, str], else_types: bool = False) -> Iterator[CheckResult]:
    """Read the first passages of each gold data set. setting: such as build.supervised."""
    for name, address in datasets.items():
        subject = f"{setting}.{name}"
        try:
            passages = islice(read_gold(address, else_types, tag_column=tag_column(name)), _PASSAGES)
            counts = [len(passage.entities) for passage in passages]
        except UserError as failure:
            yield error(subject, str(failure))
            continue
        yield ok(subject, f"{address}: the first {len(counts)} passages are read, with {_entities(counts)}")


def _entities(counts: Sequence[int]) -> str:
    total = sum(counts)
    return "1 entity" if total == 1 else f"{total:,} entities"
