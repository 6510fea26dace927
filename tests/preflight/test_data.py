"""Shards and gold data by their first rows."""

import json

import pytest

from uniner.config.schema import Ingest
from uniner.preflight.data import check_benchmarks, check_gold, check_shards
from uniner.preflight.results import Check, results_of

ROWS = [{"text": f"Ada met Grace {number} times."} for number in range(80)]


def check(*shards, **settings):
    section = Ingest(shards=[str(shard) for shard in shards], **settings)
    return [*results_of(Check("ingest.shards", lambda: check_shards(section)))]


def test_shards_are_counted_and_their_first_rows_read(write_shard, tmp_path):
    for number in range(3):
        write_shard(tmp_path / f"{number}.jsonl.zst", ROWS)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    (result,) = check(tmp_path / "*.zst")
    assert result.level == "ok"
    assert f"3 shards, {size:,} bytes; the first rows of 3 (150 in all) are read" in result.found


def test_of_many_shards_some_are_read_from_first_to_last(tmp_path):
    for number in range(41):
        (tmp_path / f"{number:02d}.jsonl").write_text(
            json.dumps({"text": "Ada"} if number < 39 else {"body": ""})
        )
    (result,) = check(tmp_path / "*.jsonl", max_reject_share=0.5)
    assert "41 shards" in result.found and "the first rows of 14 (14 in all)" in result.found
    (result,) = check(tmp_path / "*.jsonl")
    assert result.level == "warning" and "1 of 14 first rows are rejected (1 no_text" in result.found


def test_shards_in_a_bucket_are_read(bucket, write_shard, tmp_path):
    from uniner.storage.folder import Folder

    shard = tmp_path / "a.jsonl.zst"
    write_shard(shard, ROWS)
    Folder(f"{bucket}/{tmp_path.name}").write("a.jsonl.zst", shard.read_bytes())
    (result,) = check(f"{bucket}/{tmp_path.name}/*.zst")
    assert result.level == "ok" and "1 shard," in result.found


def test_an_unreadable_shard_is_named_and_the_others_counted(write_shard, tmp_path):
    write_shard(tmp_path / "a.jsonl.zst", ROWS)
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "b.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    broken, counted = check(tmp_path / "*.zst")
    assert broken.level == "error" and "b.jsonl.zst" in broken.found
    assert counted.level == "ok" and "2 shards" in counted.found


def test_a_text_field_that_no_row_has_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "Ada"}\n' * 9)
    (result,) = check(tmp_path / "a.jsonl")
    assert result.level == "error" and "none of 9 first rows has a text (9 no_text" in result.found
    assert check(tmp_path / "a.jsonl", text_field="body")[0].level == "ok"


def test_an_empty_shard_and_a_missing_one_are_errors(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    (result,) = check(tmp_path / "a.jsonl")
    assert result.level == "error" and "no row in the first 1" in result.found
    (result,) = check(tmp_path / "*.parquet")
    assert result.level == "error" and "the glob matches no file" in result.found


def test_benchmarks_to_decontaminate_from_are_read(tmp_path):
    (tmp_path / "good.jsonl").write_text('{"text": "Ada"}\n')
    (tmp_path / "bad.jsonl").write_text('{"body": "Ada"}\n')
    names = {name: str(tmp_path / f"{name}.jsonl") for name in ("good", "bad", "absent")}
    results = {result.subject: result for result in check_benchmarks(Ingest(decontaminate=names))}
    levels = {name: results[f"ingest.decontaminate.{name}"].level for name in names}
    assert levels == {"good": "ok", "bad": "error", "absent": "error"}


@pytest.mark.parametrize(
    ("content", "level", "text"),
    [
        (
            '{"text": "Ada", "entities": [{"start": 0, "end": 3, "text": "Ada", "type": "person"}]}',
            "ok",
            "1 entity",
        ),
        ("{", "error", "gold.jsonl"),
        ("", "error", "contains no passages"),
        (None, "error", "no such file"),
    ],
)
def test_gold_data_is_read_to_its_first_passages(tmp_path, content, level, text):
    path = tmp_path / "gold.jsonl"
    if content is not None:
        path.write_text(content)
    (result,) = check_gold("evaluate.gold", {"news": str(path)})
    assert (result.level, result.subject) == (level, "evaluate.gold.news") and text in result.found


def test_all_bad_gold_data_sets_are_told_at_once(tmp_path):
    results = [*check_gold("build.supervised", {"a": f"{tmp_path}/a.jsonl", "b": f"{tmp_path}/b.jsonl"})]
    assert [result.level for result in results] == ["error", "error"]
