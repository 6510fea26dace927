"""Batch records: none is ever overwritten, and those of earlier versions are read."""

import json
from dataclasses import asdict, replace

import pytest

from uniner.errors import UserError
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


@pytest.mark.parametrize(("before", "after"), [(b'"usd": 0.25', b'"usd": 0.05'), (b'"broken"', b'"brokem"')])
def test_a_changed_record_is_named_with_its_cure(tmp_path, before, after):
    records = BatchRecords(Folder(str(tmp_path)))
    records.write(replace(RECORD, usd=0.25))
    file = tmp_path / "batches/00001.json"
    file.write_bytes(file.read_bytes().replace(before, after))
    with pytest.raises(UserError, match=r"batches/00001\.json: is damaged.*put the file back, or delete it"):
        records.read()


def test_a_record_with_fields_of_another_version_is_named(tmp_path):
    folder = Folder(str(tmp_path))
    (folder / "batches").write_json("00001.json", {**asdict(RECORD), "colour": "red"})
    with pytest.raises(UserError, match=r"batches/00001\.json: is damaged, or of another version.*colour"):
        BatchRecords(folder).read()
