"""The page to try a student on: what it shows, and, where Gradio is installed, the page itself."""

import importlib.util
import json
import shutil
import socket
import sys
import urllib.request

import pytest

from uniner.errors import UserError
from uniner.records import TaggedEntity, TaggedPassage
from uniner.tag import text_page

TEXT = "Zoe Ann of Bonn,\r\nOberbonn. \U0001f600 Zoe"
ENTITIES = (
    TaggedEntity(text="Zoe Ann", type="person", start=0, end=7, score=0.987, grounding="exact"),
    TaggedEntity(text="Ann", type="person", start=4, end=7, score=0.5, grounding="exact"),
    TaggedEntity(text="Bonn", type="city", start=11, end=15, score=0.25, grounding="exact"),
    TaggedEntity(text="Rome", type="city", start=-1, end=-1, score=0.125, grounding="ungrounded"),
)
PASSAGES = [
    TaggedPassage(doc_id="", passage_id="0", char_start=0, entities=ENTITIES, outcome="ok", failed_types=()),
    TaggedPassage(
        doc_id="",
        passage_id="1",
        char_start=30,
        entities=(TaggedEntity(text="Zoe", type="person", start=30, end=33, score=0.987, grounding="exact"),),
        outcome="ok",
        failed_types=(),
    ),
]


def test_the_text_is_shown_whole_with_type_and_score_of_what_stands_there():
    pieces, colours = text_page.highlighted(TEXT, PASSAGES)
    assert "".join(text for text, _ in pieces) == TEXT
    assert [piece for piece in pieces if piece[1]] == [
        ("Zoe Ann", "person 0.99"), ("Bonn", "city 0.25"), ("Zoe", "person 0.99"),
    ]  # fmt: skip
    assert colours.keys() == {"person 0.99", "city 0.25"} and len(set(colours.values())) == 2
    assert text_page.highlighted("", []) == ([], {}) and text_page.highlighted("a", []) == ([("a", None)], {})


def test_the_table_has_the_overlapping_and_the_ungrounded_too():
    rows = text_page.entity_rows(PASSAGES)
    assert [row[0] for row in rows] == ["Zoe Ann", "Ann", "Bonn", "Rome", "Zoe"]
    assert rows[2] == ["Bonn", "city", 11, 15, 0.25, "exact"]
    assert text_page.entity_rows(PASSAGES[:1])[0][4] == 0.987


def test_types_are_written_with_commas_or_a_line_each():
    assert text_page.named_types(" person, city\nriver ,, city\n") == ("person", "city", "river")
    assert text_page.named_types(" \n,") == ()


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"tag\.page needs Gradio.*pip install '\.\[page\]'"):
        text_page.serve(None, (), 1)


@pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs Gradio")
def test_the_page_tags_what_is_typed_and_ends_with_the_job(tmp_path, base, job, wait_until):
    student = tmp_path / "student"
    shutil.copytree(base, student)
    facts = {"template": "type", "group_types": 5, "max_tokens": 512, "types": ["person", "city"]}
    (student / "uniner.json").write_text(json.dumps(facts))
    config = tmp_path / "c.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "r"\n[student]\nbase = "{base}"\nmax_tokens = 512\n'
        '[engine]\ndtype = "float32"\ngpus = 0\nblock_size = 32\nmax_answer_tokens = 32\n'
        f'[tag]\nstudent = "{student}"\n'
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = job("tag", config, f"tag.page={port}")
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: process.poll() is not None or _answers(address))
    body = json.dumps({"data": ["Ann Lee of Velmora met Bo in Tarn.", "person, city"]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/gradio_api/call/tag", body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/tag/{event}", timeout=200) as response:
        said = response.read().decode()
    assert "event: complete" in said, said
    shown, *_ = json.loads(said.split("data: ")[-1])
    pieces = shown["value"] if isinstance(shown, dict) else shown
    assert "".join(piece["token"] for piece in pieces) == "Ann Lee of Velmora met Bo in Tarn."
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"the page is at {address}" in output and not (tmp_path / "runs").exists()


def _answers(address):
    try:
        return bool(urllib.request.urlopen(address, timeout=5))
    except OSError:
        return False
