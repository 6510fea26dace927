"""Batch records: none is ever overwritten, and those of earlier versions are read."""

import json
from dataclasses import asdict, replace

from uniner.storage.folder import Folder
from uniner.teacher.batch.records import BatchRecord, BatchRecords

RECORD = BatchRecord(number=1, chunks=["a"], requests=2, usd_at_most=0.5, file="file-0")


def test_records_of_two_drivers_with_the_same_number_are_both_kept(tmp_path):
    records = BatchRecords(Folder(str(tmp_path)))
    first = replace(RECORD, suffix="0123456789ab", batch="batch_0")
    second = replace(RECORD, suffix="ba9876543210", batch="batch_1")
    for record in (second, first, replace(second, ended="completed")):
        records.write(record)
    assert records.read() == [first, replace(second, ended="completed")]
    assert records.address(first).endswith("/batches/00001-0123456789ab.json")


def test_a_record_of_an_earlier_version_is_read_and_written_under_its_name(tmp_path):
    records = BatchRecords(Folder(str(tmp_path)))
    old = {name: value for name, value in asdict(RECORD).items() if name != "suffix"}
    Folder(str(tmp_path / "batches")).write_json("00001.json", old)
    assert records.read() == [RECORD]
    records.write(replace(RECORD, ended="completed"))
    records.write(replace(RECORD, number=100_000, suffix="0123456789ab"))
    assert [record.number for record in records.read()] == [1, 100_000]
    assert json.loads((tmp_path / "batches/00001.json").read_text())["ended"] == "completed"
