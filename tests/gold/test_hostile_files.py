"""Files that are made to hurt, or damaged: one line, in little memory and time, and nothing is invented."""

import gzip
import io
import json
import random
import re
import string
import threading
import zipfile
import zlib

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings, strategies

from uniner.errors import UserError
from uniner.gold.reader import read_gold
from uniner.storage import decompression

MB = 1 << 20


def fault_of(path) -> str:
    """Read a file that must be refused; return the line."""
    with pytest.raises(UserError) as caught:
        list(read_gold(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zeros(size: int, kind: str) -> bytes:
    """Return a compressed file of blanks, without holding them."""
    sink, block = io.BytesIO(), b" " * MB
    writer = (
        gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=9)
        if kind == "gz"
        else zstandard.ZstdCompressor().stream_writer(sink, closefd=False)
    )
    with writer:
        for _ in range(size // MB):
            writer.write(block)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("name", ["gold.conll", "gold.jsonl", "gold.json", "gold.txt"])
def test_a_file_that_expands_without_end_is_refused_early(tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr(decompression, "_ANY_EXPANSION_BYTES", 4 * MB)
    path = tmp_path / f"{name}.{kind}"
    start = b"[\n" if name == "gold.json" else b""
    packed = gzip.compress(start) if kind == "gz" else zstandard.compress(start)
    path.write_bytes(packed + zeros(64 * MB, kind))
    match = re.search(r"bytes of it expand to more than ([\d,]+), over 200 times as many", fault_of(path))
    assert match and int(match[1].replace(",", "")) < 16 * MB, "it read much more than it had to"


def test_repeated_rows_are_read_up_to_a_size(tmp_path):
    row = {"text": "Ann left", "entities": [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]}
    path = tmp_path / "gold.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(row) + "\n").encode() * 20_000))
    assert sum(1 for _ in read_gold(str(path))) == 20_000


def test_a_docbin_that_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("uniner.gold.docbin._SMALL_BYTES", MB)
    (tmp_path / "gold.spacy").write_bytes(zlib.compress(b" " * 64 * MB, 9))
    assert re.search(r"gold\.spacy: expands to more than [\d,]+ bytes", fault_of(tmp_path / "gold.spacy"))


@pytest.mark.parametrize("suffix", [".zip", ".jsonl", ".conll"])
def test_an_archive_is_named_as_one(tmp_path, suffix):
    path = tmp_path / f"gold{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("gold.conll", "Ann B-PER\n")
    assert fault_of(path).endswith("is a zip archive; unpack it, and name the file that is in it")
    path.write_bytes(gzip.compress(b"Ann B-PER\n"))
    assert fault_of(path).endswith("is compressed; give it the ending .gz, or unpack it")


DEEP = "[" * 200_000
ROW = {"text": "Ann left", "entities": [{"start": 0, "end": 3, "text": "Ann", "type": "person"}]}


@pytest.mark.parametrize("name", ["gold.json", "gold.jsonl"])
@pytest.mark.parametrize(
    "data",
    [
        DEEP, DEEP + "]" * len(DEEP), '{"a":' * 100_000 + "1" + "}" * 100_000,
        '[{"text": "x", "entities": ' + DEEP + "]" * len(DEEP) + "}]",
        '{"conversations": ' + DEEP + "]" * len(DEEP) + "}",
        '{"tokens": ["a"], "tags": [' + DEEP + "]" * len(DEEP) + "]}",
    ],
)  # fmt: skip
def test_deep_json_is_one_line(tmp_path, name, data):
    (tmp_path / name).write_text(data)
    fault_of(tmp_path / name)


def test_one_deep_row_among_others_is_left_out_and_counted(tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join([*[json.dumps(ROW)] * 9, f'{{"text": {DEEP}}}']))
    passages = list(read_gold(str(path)))
    assert (len(passages), passages[-1].left_out) == (9, {"bad_row": 1})


HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gold.jsonl", json.dumps(ROW).replace('"end": 3', f'"end": {HUGE}')),
        ("gold.jsonl", json.dumps(ROW).replace('"end": 3', '"end": 1e400')),
        ("gold.jsonl", f'{{"text": "a", "label": [[0, {HUGE}, "x"]]}}'),
        ("gold.jsonl", f'{{"tokenized_text": ["a"], "ner": [[{HUGE}, {HUGE}, "x"]]}}'),
        ("gold.jsonl", f'{{"tokens": ["a"], "tags": [{HUGE}]}}'),
        ("gold.pubtator", f"1|t|Ann left\n1\t0\t{HUGE}\tAnn\tperson\n"),
        ("gold.conllu", f"# text = Ann\n{HUGE}\tAnn\tB-PER\n"),
        ("gold.conll", f"{HUGE} Ann\n"),
    ],
)
def test_a_number_without_end_is_one_line(tmp_path, name, content):
    (tmp_path / "label.json").write_text(f'{{"O": {HUGE}}}')
    (tmp_path / name).write_text(content)
    fault_of(tmp_path / name)


def test_an_id_without_end_is_not_an_id(tmp_path):
    (tmp_path / "gold.jsonl").write_text(json.dumps(ROW)[:-1] + f', "id": {"9" * 200}}}')
    assert [passage.id for passage in read_gold(str(tmp_path / "gold.jsonl"))] == ["0000001"]


BILLION = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
MERGES = "m0: &m0 {x: 1}\n" + "".join(
    f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 10)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    "header",
    [
        BILLION + "dataset_info:\n  features:\n  - name: ner_tags\n    x: *a29\n",
        BILLION + "dataset_info:\n  features:\n  - {name: ner_tags, sequence: {class_label: {names: *a9}}}\n",
        MERGES + "dataset_info: *m29\n",
        "dataset_info: " + DEEP,
        "dataset_info: &a [*a]\n",
        "dataset_info:\n  features:\n  - name: ner_tags\n    names: {'x': 1}\n",
        f"dataset_info:\n  features:\n  - name: ner_tags\n    names: {{{HUGE}: 1}}\n",
        "dataset_info: 3\n",
        "#" * 2 * MB,
    ],
)
def test_a_data_card_that_expands_without_end_is_one_line(tmp_path, header):
    pq.write_table(pa.table({"tokens": [["a"]], "ner_tags": [[1]]}), tmp_path / "gold.parquet")
    (tmp_path / "README.md").write_text(f"---\n{header}---\n")
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(fault_of(tmp_path / "gold.parquet")), daemon=True)
    thread.start()
    thread.join(20)
    assert answers, "it takes for ever"
    assert len(answers[0]) < 1000


def test_a_parquet_file_with_rows_without_end_is_refused(tmp_path):
    rows = pa.array([["a"] * 300_000], pa.list_(pa.string()))
    tags = pa.array([["O"] * 300_000], pa.list_(pa.string()))
    pq.write_table(pa.table({"tokens": rows, "ner_tags": tags}), tmp_path / "gold.parquet")
    assert (tmp_path / "gold.parquet").stat().st_size < 10_000
    assert "300,000 values in 1 rows; a row has at most 100,000 tokens" in fault_of(tmp_path / "gold.parquet")


# Damaged files: whatever is changed, a reader reads, leaves out or refuses in one line.


def words(count: int, draw: random.Random) -> list[str]:
    return ["".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(count)]


def sound_files(draw: random.Random) -> dict[str, bytes]:
    """Return a small sound file of each format, by name; its words are random, so that none is by chance."""
    files: dict[str, str] = dict.fromkeys(FILE_NAMES, "")
    json_rows: dict[str, list[object]] = {}
    for number in range(12):
        tokens = words(6, draw)
        text = " ".join(tokens)
        start, end = text.index(tokens[1]), text.index(tokens[2]) + 5
        mention = text[start:end]
        tags = ["O", "B-person", "I-person", "O", "O", "O"]
        span = {"start": start, "end": end}
        questions = [
            "Text: " + text,
            "I've read this text.",
            "What describes person in the text?",
            f'["{mention}"]',
        ]
        turns = [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(questions)]
        studio = {**span, "text": mention, "labels": ["person"]}
        for name, row in {
            "own.jsonl": {
                "id": number,
                "text": text,
                "entities": [{**span, "text": mention, "type": "person"}],
            },
            "conversations.json": {"id": f"c{number}", "conversations": turns},
            "doccano.jsonl": {"id": number, "text": text, "label": [[start, end, "person"]]},
            "gliner.json": {"tokenized_text": tokens, "ner": [[1, 2, "person"]]},
            "instructuie.json": {
                "sentence": text,
                "entities": [{"name": mention, "type": "person", "pos": [start, end]}],
            },
            "spacy.json": [text, {"entities": [[start, end, "person"]]}],
            "studio.json": {
                "id": number,
                "data": {"text": text},
                "annotations": [{"result": [{"value": studio}]}],
            },
            "tner.jsonl": {"tokens": tokens, "tags": tags},
        }.items():
            json_rows.setdefault(name, []).append(row)
        numbered = list(enumerate(zip(tokens, tags, strict=True), start=1))
        files["gold.conll"] += "".join(f"{token}\tNN\t{tag}\n" for _, (token, tag) in numbered) + "\n"
        files["bare.tsv"] += "".join(f"{token}\t{tag[2:] or 'O'}\n" for _, (token, tag) in numbered) + "\n"
        files["gold.conllu"] += f"# text = {text}\n" + "".join(
            f"{place}\t{token}\t{tag}\t-\n" for place, (token, tag) in numbered
        ) + "\n"  # fmt: skip
        files["gold.pubtator"] += f"{number}|t|{text[:11]}\n{number}|a|{text[12:]}\n"
        files["gold.pubtator"] += f"{number}\t{start}\t{end}\t{mention}\tperson\tD{number}\n\n"
        files[f"brat/{number}.txt"] = text
        files[f"brat/{number}.ann"] = f"T1\tperson {start} {end}\t{mention}\n"
    for name, rows in json_rows.items():
        lines_ = "\n".join(map(json.dumps, rows))
        files[name] = json.dumps(rows) if name.endswith(".json") else lines_
    files["gold.jsonl.gz"] = files["own.jsonl"]
    return {name: text.encode() for name, text in files.items()}


FILE_NAMES = ("gold.conll", "bare.tsv", "gold.conllu", "gold.pubtator")
UNUSUAL = [
    b"\x00",
    b"\xff",
    b"\t",
    b"\n",
    b"\r",
    b"|",
    b'"',
    b"\\",
    b"[",
    b"{",
    b"-",
    b"9",
    b"\xc2\xa0",
    b"\\ud800",
    b" ",
]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Return data with a few flipped bits, cut or repeated lines, swapped columns, or unusual bytes in it."""
    for _ in range(draw.randint(1, 4)):
        parts, place = data.split(b"\n"), draw.randrange(len(data) + 1)
        line = draw.randrange(len(parts))
        change = draw.randrange(7)
        if change == 0 and place < len(data):
            data = data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
        elif change == 1:
            data = data[:place] + draw.choice(UNUSUAL) * draw.choice([1, 1, 50]) + data[place:]
        elif change == 2:
            data = data[:place] + data[place + draw.randint(1, 40) :]
        elif change == 3:
            data = b"\n".join([*parts[:line], *parts[line + 1 :]])
        elif change == 4:
            data = b"\n".join(
                [*parts[:line], parts[line][: draw.randrange(len(parts[line]) + 1)], *parts[line + 1 :]]
            )
        elif change == 5:
            columns = parts[line].split(b"\t")
            draw.shuffle(columns)
            data = b"\n".join([*parts[:line], b"\t".join(columns), *parts[line + 1 :]])
        else:
            data = b"\n".join([*parts[:line], draw.choice(parts), *parts[line:]])
    return data


def texts_in(data: bytes) -> str:
    """Return what a file says: its text, and the strings in it where it is JSON."""
    found = [data.decode(errors="replace")]
    for part in [data, *data.split(b"\n")]:
        try:
            waiting = [msgspec.json.decode(part)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                found.append(value)
            elif isinstance(value, list | dict):
                waiting += [*value, *value.values()] if isinstance(value, dict) else value
    return " ".join("\n".join(found).split())


def read_damaged(tmp_path, name: str, files: dict[str, bytes]) -> str:
    """Read a file; return its outcome. Nothing but a UserError of one line may be raised."""
    address = tmp_path / name.split("/")[0]
    allowed = set(texts_in(files[name]).split())
    if "/" in name:
        allowed = {
            word for other in files if other.startswith("brat/") for word in texts_in(files[other]).split()
        }
    try:
        passages = list(read_gold(str(address)))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2500, error
        return "refused"
    for passage in passages:
        for entity in passage.entities:
            assert passage.text[entity.start : entity.end] == entity.text
            assert entity.type and entity.text.strip() == entity.text != ""
            invented = [word for word in entity.text.split() if not any(word in other for other in allowed)]
            assert not invented, (name, entity)
        passage.text.encode()  # half a surrogate cannot be written
    return "left out" if any(passage.left_out for passage in passages) else "read"


def fuzz(tmp_path, seed: int, rounds: int) -> dict[str, int]:
    draw = random.Random(seed)
    outcomes: dict[str, int] = {}
    for _ in range(rounds):
        files = sound_files(draw)
        for name, data in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        for name in [name for name in files if name.count("/") == 0 or draw.random() < 0.1]:
            content = damaged(files[name], draw)
            packed = gzip.compress(content) if name.endswith(".gz") else content
            if name.endswith(".gz") and draw.random() < 0.5:
                packed = damaged(packed, draw)
            (tmp_path / name).write_bytes(packed)
            outcome = read_damaged(
                tmp_path, name, {**files, name: content + (packed if packed != content else b"")}
            )
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            sound = gzip.compress(files[name]) if name.endswith(".gz") else files[name]
            (tmp_path / name).write_bytes(sound)
    return outcomes


def test_the_sound_files_are_all_read(tmp_path):
    files = sound_files(random.Random(0))
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    for name in {name.split("/")[0] for name in files}:
        passages = list(read_gold(str(tmp_path / name)))
        assert [len(passage.entities) for passage in passages] == [1] * 12, name
        assert not any(passage.left_out for passage in passages)


def test_damaged_files_are_read_left_out_or_refused(tmp_path):
    outcomes = fuzz(tmp_path, seed=15, rounds=25)
    assert outcomes.keys() == {"read", "left out", "refused"} and min(outcomes.values()) > 15, outcomes


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=strategies.integers(0, 2**64))
def test_many_damaged_files_are_read_left_out_or_refused(tmp_path, seed):
    assert fuzz(tmp_path, seed, rounds=1)
