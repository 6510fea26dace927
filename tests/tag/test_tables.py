"""The tables that people query: DuckDB and pandas read them, counts are right, memory is bounded."""

import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniner.records import PASSAGE, TAGGED_PASSAGE, Passage, TaggedEntity, TaggedPassage, to_table
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.tag import tables
from uniner.tag.tables import SurfaceCounts, TablePartWriter, divide_into_parts, source_folder, write_top

SOURCES = ["Pile-CC", "a/b c=d%", "łąka", ""]
SURFACES = ["Ann Lee", "ANN  lee", "Łódź", "Straße", "STRASSE", "x\x00y", "new\r\nline"]


def write_run(
    root: str, documents: int = 30
) -> tuple[StageFolder, StageFolder, tuple[str, ...], list[tuple]]:
    """Write tagged chunks; documents begin and end within them or span several.

    Returns the folders of ingest and tag, the chunks' keys and all entities as tuples.
    """
    random.seed(5)
    ingest, tag, everything = StageFolder(root) / "ingest", StageFolder(root) / "tag", []
    passages, tagged = [], []
    for number in range(documents):
        doc, source = f"d{number}", SOURCES[number % len(SOURCES)]
        for index in range(random.choice([1, 2, 3, 20])):
            entities = tuple(
                TaggedEntity(
                    text=text,
                    type=random.choice(["person", "city"]),
                    start=9,
                    end=9 + len(text),
                    score=0.5,
                    grounding="exact",
                )
                for text in random.choices(SURFACES, k=random.choice([0, 1, 3]))
            ) + (
                TaggedEntity(text="gone", type="city", start=-1, end=-1, score=0.25, grounding="ungrounded"),
            ) * (index % 2)
            passages.append(
                Passage(
                    passage_id=f"{doc}-{index}",
                    doc_id=doc,
                    passage_index=index,
                    char_start=0,
                    char_end=1,
                    text="a",
                    n_tokens=1,
                    source=source,
                )
            )
            tagged.append(
                TaggedPassage(
                    doc_id=doc,
                    passage_id=f"{doc}-{index}",
                    char_start=0,
                    entities=entities,
                    outcome="ok",
                    failed_types=(),
                )
            )
            everything += [
                (doc, f"{doc}-{index}", source, e.type, e.text, e.start, e.end, e.score, e.grounding)
                for e in entities
            ]
    keys = []
    for place in range(0, len(passages), 7):
        keys.append(f"00000-{place:05d}")
        ingest.write_chunk(Chunk(keys[-1], to_table(passages[place : place + 7], PASSAGE)))
        tag.write_chunk(Chunk(keys[-1], to_table(tagged[place : place + 7], TAGGED_PASSAGE)))
    return ingest, tag, tuple(keys), everything


def part_writer(tag, ingest, keys, entity_table, by_source=False):
    return TablePartWriter(
        tagged=tag, passages=ingest, keys=keys, entity_table=entity_table, by_source=by_source
    )


def test_chunks_are_divided_into_parts_by_their_rows():
    assert divide_into_parts([]) == []
    assert divide_into_parts([5]) == [[0, 1]]
    assert divide_into_parts([15_000, 4_000, 2_000, 30_000, 1]) == [[0, 3], [3, 4], [4, 5]]


@pytest.mark.parametrize("chunks_a_part", [1, 4, 1000])
def test_counts_of_documents_and_mentions_do_not_depend_on_the_parts(tmp_path, chunks_a_part):
    ingest, tag, keys, everything = write_run(str(tmp_path))
    parts = part_writer(tag, ingest, keys, entity_table=False)
    surfaces = SurfaceCounts(1000, max_pending_rows=3)
    for start in reversed(range(0, len(keys), chunks_a_part)):  # parts come in any order
        surfaces.add(parts.write([start, min(start + chunks_a_part, len(keys))]))
    write_top(tag, surfaces, 100)
    mentions, documents = Counter(), defaultdict(set)
    for doc, _, _, type_name, text, start, *_ in everything:
        if start >= 0:
            surface = type_name, " ".join(text.split()).casefold()
            mentions[surface] += 1
            documents[surface].add(doc)
    table = pd.read_parquet(tag.path("aggregate.parquet"))
    assert {(row.type, row.text): (row.mentions, row.documents) for row in table.itertuples()} == {
        surface: (count, len(documents[surface])) for surface, count in mentions.items()
    }
    assert ("city", "strasse") in mentions and ("city", "gone") not in mentions
    by_type = Counter()
    for (type_name, _), count in mentions.items():
        by_type[type_name] += count
    assert surfaces.mentions == by_type and not surfaces.understated
    assert list(dict.fromkeys(table.type)) == [name for name, _ in by_type.most_common()]
    for _, rows in table.groupby("type"):
        assert rows.mentions.is_monotonic_decreasing
    assert not (tag / "entities").tree()


def test_top_surfaces_of_a_type_and_a_bound_of_the_dropped_mentions():
    truth, surfaces = Counter(), SurfaceCounts(limit=20, max_pending_rows=30)
    random.seed(1)
    for _ in range(60):
        part = Counter(f"{min(int(random.paretovariate(0.7)), 5000)}" for _ in range(40))
        truth.update(part)
        surfaces.add({"type": ["t"] * len(part), "text": list(part), "mentions": list(part.values()),
                      "documents": [1] * len(part)})  # fmt: skip
    top = surfaces.top(5).to_pylist()
    assert len(top) == 5 and surfaces.mentions == {"t": 2400}
    assert [row["text"] for row in top] == [text for text, _ in truth.most_common(5)]
    assert surfaces._surfaces.num_rows <= 20 and surfaces.understated["t"] > 0
    for row in surfaces._surfaces.to_pylist():
        assert truth[row["text"]] - surfaces.understated["t"] <= row["mentions"] <= truth[row["text"]]


COLUMNS = ["doc_id", "passage_id", "source", "type", "text", "start", "end", "score", "grounding"]


@pytest.mark.parametrize("by_source", [False, True])
def test_duckdb_and_pandas_read_the_entity_table(tmp_path, by_source):
    ingest, tag, keys, everything = write_run(str(tmp_path))
    parts = part_writer(tag, ingest, keys, entity_table=True, by_source=by_source)
    for item in ([0, 3], [3, len(keys)], [0, 3]):  # a part that is made again replaces itself
        parts.write(item)
    folder = f"{tag.url}/entities"
    frame = pd.read_parquet(folder)
    listed = ", ".join(f'"{name}"' for name in COLUMNS)
    files = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = {by_source})"
    found = duckdb.sql(f"select {listed} from {files}").fetchall()
    for rows in (frame[COLUMNS].astype(object).itertuples(index=False, name=None), found):
        assert sorted(rows) == sorted(
            (doc, passage, source or ("(none)" if by_source else ""), *rest)
            for doc, passage, source, *rest in everything
        )
    if by_source:
        ((count,),) = duckdb.sql(f"select count(*) from {files} where source = 'a/b c=d%'").fetchall()
        assert count == sum(row[2] == "a/b c=d%" for row in everything) > 0
        assert any(name.startswith("source=a%2Fb%20c%3Dd%25/part-") for name in (tag / "entities").tree())


def test_parts_are_the_same_on_disk_and_s3_for_any_source_name(root):
    ingest, tag, keys, everything = write_run(root)
    parts = part_writer(tag, ingest, keys, entity_table=True, by_source=True)
    parts.write([0, len(keys)])
    names = (tag / "entities").tree()
    assert sorted({unquote(name.split("/")[0]) for name in names}) == sorted(
        f"source={s or '(none)'}" for s in SOURCES
    )
    assert {name.split("/")[1] for name in names} == {f"part-{keys[0]}.parquet"}
    rows = sum(pq.read_metadata(pa.BufferReader((tag / "entities").read(name))).num_rows for name in names)
    assert rows == len(everything)
    (tag / "entities").remove_all()
    assert (tag / "entities").tree() == [] and tag.chunk_keys() == set(keys)


def test_chunks_read_with_duckdb_as_the_readme_says(tmp_path):
    _, tag, _, everything = write_run(str(tmp_path))
    chunks = f"read_parquet('{tag.url}/chunk-*.parquet')"
    rows = duckdb.sql(f"select doc_id, unnest(entities, recursive := true) from {chunks}").fetchall()
    assert Counter(row[:3] for row in rows) == Counter((row[0], row[4], row[3]) for row in everything)


def documented():
    """Return the tables of docs/output.md, by their order: column to type."""
    lines = (Path(__file__).parents[2] / "docs" / "output.md").read_text().splitlines()
    tables, row = [], re.compile(r"\| `(\w+)` \| `([\w<>]+)` \|")
    for line in lines:
        if line.startswith("|---"):
            tables.append({})
        elif found := row.match(line):
            tables[-1][found[1]] = found[2]
    return [table for table in tables if table]


def written(schema):
    return {field.name: re.sub(r"<.*struct.*>", "<struct>", str(field.type)).replace("<element: ", "<")
            for field in schema}  # fmt: skip


def test_the_files_have_the_columns_that_are_documented(tmp_path):
    ingest, tag, keys, _ = write_run(str(tmp_path))
    surfaces = SurfaceCounts(9)
    surfaces.add(part_writer(tag, ingest, keys, entity_table=True).write([0, len(keys)]))
    write_top(tag, surfaces, 9)
    chunk, part, top = (
        pq.read_schema(tag.path(name))
        for name in (f"chunk-{keys[0]}.parquet", f"entities/part-{keys[0]}.parquet", "aggregate.parquet")
    )
    entity = chunk.field("entities").type.value_type
    assert documented() == [written(chunk), written(entity), written(part), written(top)]


def test_a_chunk_without_entities_is_a_table_without_rows(tmp_path):
    ingest, tag = StageFolder(str(tmp_path)) / "ingest", StageFolder(str(tmp_path)) / "tag"
    for key, ids in (("0", ["a"]), ("1", [])):
        passages = [
            Passage(
                passage_id=name,
                doc_id=name,
                passage_index=0,
                char_start=0,
                char_end=1,
                text="a",
                n_tokens=1,
                source="",
            )
            for name in ids
        ]
        ingest.write_chunk(Chunk(key, to_table(passages, PASSAGE)))
        rows = [
            TaggedPassage(
                doc_id=name, passage_id=name, char_start=0, entities=(), outcome="ok", failed_types=()
            )
            for name in ids
        ]
        tag.write_chunk(Chunk(key, to_table(rows, TAGGED_PASSAGE)))
    parts = part_writer(tag, ingest, ("0", "1"), entity_table=True)
    assert parts.write([0, 2]) == {"type": [], "text": [], "mentions": [], "documents": []}
    assert list(pd.read_parquet(tag.path("entities")).columns) == COLUMNS


def test_tagged_passages_of_another_chunk_are_refused(tmp_path):
    ingest, tag, keys, _ = write_run(str(tmp_path))
    with pytest.raises(ValueError, match="not those of the chunk"):
        tables.entity_rows(tag.read_chunk(keys[0]).table, ingest.read_chunk(keys[1]).table)


def test_a_source_that_is_too_long_for_a_folder_s_name_is_cut_and_stays_unique(tmp_path):
    long = ["ü" * 300 + end for end in "ab"]
    folders = {source_folder(source) for source in long}
    assert len(folders) == 2 and all(len(folder) <= 160 for folder in folders)
    assert all(unquote(folder).startswith("üüü") and "\N{REPLACEMENT CHARACTER}" not in unquote(folder)
               for folder in folders)  # fmt: skip
    assert source_folder("x" * 160) == "x" * 160 and source_folder("") == "(none)"
    Folder(str(tmp_path)).write(f"entities/source={min(folders)}/part-0.parquet", b"x")
