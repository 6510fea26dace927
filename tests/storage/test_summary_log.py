"""What a stage's logs save a driver that goes on, and that they never tell it what the chunks do not."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from uniner.records import FAILED
from uniner.storage import filesystem, summary_log
from uniner.storage.chunk_list import ChunkEntry, ChunkList
from uniner.storage.manifest import Identity, Manifest, StageTotals
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.storage.summary_log import SummaryLog


@pytest.fixture(autouse=True)
def short_logs(monkeypatch):
    monkeypatch.setattr(summary_log, "CHUNKS_A_LOG", 3)


@pytest.fixture
def folder(tmp_path):
    return CountingFolder(str(tmp_path / "stage"))


class CountingFolder(StageFolder):
    """Notes which footers are read."""

    def __init__(self, url):
        super().__init__(url)
        self.read_keys = []

    def read_summary(self, key):
        self.read_keys.append(key)
        return super().read_summary(key)

    def resumed(self, **options):
        """Return the summaries that a new driver learns, by key, and the keys whose footers it read."""
        self.read_keys = []
        learned = list(self.summaries(**options))
        assert len(learned) == len({summary.key for summary in learned})
        return {summary.key: summary for summary in learned}, sorted(self.read_keys)


def chunk(key, rows=2, outcome="ok", **figures):
    return Chunk(key, pa.table({"outcome": [outcome] * rows}), 1.5, figures, {"line": rows})


def write(folder, keys, log=None):
    log = log or SummaryLog(folder)
    for number, key in enumerate(keys):
        log.add(folder.write_chunk(chunk(key, number + 1, cost_usd=number / 8)))
    return log


def age(folder, seconds):
    """Move all files' times into the past."""
    for path in Path(folder.url).rglob("*.parquet"):
        moment = path.stat().st_mtime - seconds
        os.utime(path, (moment, moment))


def test_a_driver_that_goes_on_reads_a_log_for_many_chunks_and_footers_of_the_others(folder):
    write(folder, "abcdefg")
    assert len((folder / "summaries").sizes()) == 2
    learned, footers = folder.resumed()
    assert footers == ["g"] and sorted(learned) == list("abcdefg")
    assert learned == {key: folder.read_summary(key) for key in "abcdefg"}
    some, footers = folder.resumed(among=ChunkList.of(ChunkEntry(key=key, rows=1, bytes=1) for key in "bgz"))
    assert sorted(some) == ["b", "g"] and footers == ["g"]


def test_a_chunk_deleted_or_written_anew_is_not_what_the_log_says(folder):
    write(folder, "abc")
    age(folder, 60)
    folder.remove(["chunk-a.parquet"])
    # As large as before and with other values, as where a driver was killed before it logged the chunk.
    before = folder.sizes()["chunk-b.parquet"]
    folder.write_chunk(chunk("b", 2, cost_usd=0.375))
    assert folder.sizes()["chunk-b.parquet"] == before
    learned, footers = folder.resumed()
    assert footers == ["b"] and sorted(learned) == ["b", "c"]
    assert learned["b"].figures == {"cost_usd": 0.375}
    # A size that differs is enough, whatever the times say.
    folder.write_chunk(chunk("c", 40))
    age(folder, 3600)
    assert folder.resumed()[0]["c"].rows == 40


def test_of_the_logs_that_name_a_chunk_those_that_are_older_than_it_do_not_count(folder):
    write(folder, "abc")
    age(folder, 60)
    for key in "abc":
        folder.remove([f"chunk-{key}.parquet"])
    write(folder, "cba")  # other rows under each key
    learned, footers = folder.resumed()
    assert footers == [] and {key: summary.rows for key, summary in learned.items()} == {
        "c": 1,
        "b": 2,
        "a": 3,
    }


@pytest.mark.parametrize("harm", ["bit", "cut", "empty", "foreign", "gone"])
def test_a_damaged_or_missing_log_costs_reading_and_heals(folder, harm, caplog):
    write(folder, "abcdef")
    whole, _ = folder.resumed()
    path = next(Path(folder.url, "summaries").iterdir())
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    foreign = summary_log.sealed_parquet(pa.table({"other": [1]}))
    path.write_bytes({"bit": data, "cut": data[:middle], "empty": b"", "foreign": foreign, "gone": b""}[harm])
    if harm == "gone":
        path.unlink()
    learned, footers = folder.resumed(relog=SummaryLog(folder))
    assert learned == whole and len(footers) == 3
    assert ("is damaged" in caplog.text) == (harm != "gone")
    assert folder.resumed() == (whole, []), "the footers read were logged"


def test_only_chunks_that_stay_as_they_are_are_logged_again(folder):
    for key in "abcd":
        folder.write_chunk(chunk(key, outcome=FAILED if key == "b" else "ok"))
    learned, footers = folder.resumed(relog=SummaryLog(folder))
    assert len(learned) == len(footers) == 4
    assert folder.resumed()[1] == ["b"], "failed rows are asked again, and a log would be stale"


@pytest.mark.ray
def test_a_bucket_is_listed_page_by_page(bucket, monkeypatch):
    folder = CountingFolder(f"{bucket}/paged/stage")
    write(folder, "abcdefg")
    system, _ = filesystem.filesystem(folder.url)
    call, pages = system._client.call_s3, []

    def in_small_pages(method, **options):
        pages.append(method)
        return call(method, MaxKeys=3, **options)

    monkeypatch.setattr(system._client, "call_s3", in_small_pages, raising=False)
    assert folder.chunk_keys() == set("abcdefg") and len(pages) == 3
    learned, footers = folder.resumed()
    assert sorted(learned) == list("abcdefg") and footers == ["g"]
    assert StageFolder(f"{bucket}/paged/missing").sizes() == {}


def test_totals_are_those_of_the_chunks_in_any_order(folder):
    summaries = [folder.write_chunk(chunk(key, n + 1, tokens=n)) for n, key in enumerate("cab")]
    totals = StageTotals(summaries)
    assert (totals.rows, totals.outcomes, totals.figures) == (6, {"ok": 6}, {"tokens": 3})
    assert totals.chunks().keys.to_pylist() == ["a", "b", "c"]
    identity = Identity(stage="stage", settings={})
    assert Manifest.of(identity, totals, 1.0) == Manifest.of(identity, reversed(summaries), 1.0)


def test_a_list_of_chunks_is_a_sequence_and_compares_contents():
    entries = [ChunkEntry(key=key, rows=n, bytes=9 - n, digest=key) for n, key in enumerate("abcd")]
    chunks = ChunkList.of(entries)
    assert list(chunks) == entries and chunks[1] == entries[1] and chunks[-1] == entries[-1]
    assert list(chunks[::2]) == entries[::2] and len(chunks) == 4 and not ChunkList()
    assert list(chunks[1:].largest_first()) == entries[1:]
    assert list(chunks.without(chunks[1:3])) == [entries[0], entries[3]]
    assert chunks[:2].same_contents(chunks) and not chunks.same_contents(chunks[:2])
    assert chunks.same_rows(chunks.largest_first()) and not chunks.same_rows(chunks[1:])
    other = ChunkList.of([ChunkEntry(key="a", rows=0, bytes=1, digest="other")])
    assert not other.same_contents(chunks)
    with pytest.raises(IndexError):
        chunks[4]
