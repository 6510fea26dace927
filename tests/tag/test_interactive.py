"""Texts tagged in this process: in the terminal and on the page. Only the engine is a stand-in."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import sys
import urllib.request

import pytest
from rich.console import Console
from typer.testing import CliRunner

from uniner import cli
from uniner.errors import UserError
from uniner.inference.engine import EngineAnswer
from uniner.inference.mention_scores import AnswerPiece
from uniner.records import TaggedEntity, TaggedPassage
from uniner.tag import interactive, stage


class Engine:
    """Answers that Ann and Bob are persons. Bob occurs in no text here."""

    max_prompt_tokens = 512

    def __init__(self, model, settings, lazy):
        from uniner.storage.model_folders import load_tokenizer

        self.tokenizer = load_tokenizer(model)

    @contextlib.asynccontextmanager
    async def admitted(self, questions):
        yield

    async def ask(self, prompts):
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        answers = ['["Ann", "Bob"]' if "person" in text else "[]" for text in texts]
        return [EngineAnswer(text, "stop", (AnswerPiece(text, -0.1),), 4, 5) for text in answers]

    async def close(self):
        Engine.closed = True


@pytest.mark.parametrize("from_input", [False, True])
def test_a_text_is_printed_with_its_entities_and_no_run_is_touched(
    config, tmp_path, stage_context, monkeypatch, capsys, from_input
):
    text = "Ann went home. " + "Then it rained for a long while. " * 20 + "So Ann stayed.\n"
    monkeypatch.setattr(interactive, "Engine", Engine)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "latin-1"))
    stage.tag_text(stage_context(stage, config()), "-" if from_input else text)
    output = capsys.readouterr().out
    assert output.startswith("Ann [person] went home. Then it") and "So Ann [person] stayed.\n" in output
    assert "not in the text: Bob [person]" in output
    assert output.replace(" [person]", "").startswith(text.rstrip())
    assert Engine.closed and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_a_terminal_shows_colours_unless_no_color_is_set(monkeypatch, no_color, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, color_system="truecolor", width=80)
    entity = TaggedEntity(text="Ann", type="person", start=7, end=10, score=0.9, grounding="exact")
    interactive.print_text(
        "First\n\nAnn [b]sleeps[/b].\n",
        interactive.TextTags(
            [
                TaggedPassage(
                    doc_id="", passage_id="0", char_start=7, entities=(entity,), outcome="ok", failed_types=()
                )
            ],
            ["line 2 (city, deny): dropped 1: Bonn (city)"],
        ),
        console,
    )
    shown = terminal.getvalue()
    assert ("\x1b[30;48;2;255;214;165mAnn [person]" in shown) == coloured
    assert ("48;2;" in shown) == coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == (
        "First\n\nAnn [person] [b]sleeps[/b].\n"
        "person: Ann 0.90\nline 2 (city, deny): dropped 1: Bonn (city)\n"
    )


def test_a_student_without_types_is_an_error(config, tmp_path, stage_context, monkeypatch):
    facts = json.loads((tmp_path / "student" / "uniner.json").read_text())
    (tmp_path / "student" / "uniner.json").write_text(json.dumps({**facts, "types": []}))
    monkeypatch.setattr(interactive, "Engine", Engine)
    context = stage_context(stage, config())
    for refuse in (stage.check, lambda context: stage.tag_text(context, "Ann")):
        with pytest.raises(UserError, match=r"lists no types of its own; set tag\.types"):
            refuse(context)


def wrong_students(folder):
    """Model folders that are none, each with what is said of it."""
    for name in ("empty", "half", "broken"):
        (folder / name).mkdir()
    (folder / "file").write_text("x")
    (folder / "half/config.json").write_text('{"model_type": "llama"}')
    (folder / "broken/config.json").write_text('{"model_type": "llama"}')
    (folder / "broken/tokenizer.json").write_text("{}")
    return {
        "absent": "tag.student: absent is not a model folder (no config.json)",
        "file": "file is not a model folder (no config.json)",
        "empty": "empty is not a model folder (no config.json)",
        "half": "half cannot be loaded as a model: ",
        "broken": "broken cannot be loaded as a model: ",
    }


@pytest.fixture
def refused_mode(tmp_path, base, capsys):
    """Return a function that asks for a text to be tagged and for the page; both must be refused alike."""
    config = tmp_path / "c.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "r"\n[student]\nbase = "{base}"\n[engine]\ngpus = 0\n'
        'dtype = "float32"\n[tag]\ntypes = ["person"]\n'
    )

    def refuse(*words, modes=(("--text", "Ann"), ("--serve", "7860"))):
        lines = set()
        for mode in modes:
            result = CliRunner().invoke(cli.app, ["tag", str(config), *words, *mode])
            assert result.exit_code == 2, result.output
            lines.add(capsys.readouterr().err + result.output)
        (line,) = lines
        assert line.startswith("error: ") and line.count("\n") == 1
        return line

    return refuse


def test_a_text_and_the_page_refuse_what_is_no_student(refused_mode, tmp_path):
    for name, message in wrong_students(tmp_path).items():
        student = name if name == "absent" else tmp_path / name
        assert message in refused_mode(f"tag.student={student}", "engine.gpus=0")
    assert "is not a student folder (no uniner.json)" in refused_mode()
    assert "absent.txt: no such file" in refused_mode(f"tag.types_file={tmp_path}/absent.txt")


def test_a_text_and_the_page_check_the_engine_and_the_types(config, refused_mode, tmp_path, monkeypatch):
    config()  # makes the student
    student = f"tag.student={tmp_path}/student"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "sees no GPU on this machine; set engine.gpus=0 to run on CPUs" in refused_mode(
        student, "engine.gpus=1"
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert "engine.gpus = 2, but torch" in refused_mode(student, "engine.gpus=2")
    line = refused_mode(student, "tag.min_score_of_type={persons=0.5, date=0.5}")
    assert "tag.min_score_of_type: 'persons', 'date' are not among the 1 types" in line
    assert "(nearest: 'person')" in line


def test_a_text_that_is_not_utf_8_is_one_line(config, refused_mode, tmp_path, monkeypatch):
    config()
    student = f"tag.student={tmp_path}/student"
    typed = refused_mode(student, modes=[("--text", os.fsdecode(b"caf\xe9"))])
    assert "the text is not UTF-8 (character 4); convert it" in typed
    with pytest.raises(UserError, match=r"the text is not UTF-8 \(character 2\)"):
        interactive.read_input(io.BytesIO(b"a\xff"))
    assert interactive.read_input(io.BytesIO("Łódź".encode())) == "Łódź"


TEXT = "Zoe Ann of Bonn,\r\nOberbonn. \U0001f600 Zoe"
PAGE_ENTITIES = (
    TaggedEntity(text="Zoe Ann", type="person", start=0, end=7, score=0.987, grounding="exact"),
    TaggedEntity(text="Ann", type="person", start=4, end=7, score=0.5, grounding="exact"),
    TaggedEntity(text="Bonn", type="city", start=11, end=15, score=0.25, grounding="exact"),
    TaggedEntity(text="Rome", type="city", start=-1, end=-1, score=0.125, grounding="ungrounded"),
)
PASSAGES = [
    TaggedPassage(
        doc_id="", passage_id="0", char_start=0, entities=PAGE_ENTITIES, outcome="ok", failed_types=()
    ),
    TaggedPassage(
        doc_id="",
        passage_id="1",
        char_start=30,
        entities=(TaggedEntity(text="Zoe", type="person", start=30, end=33, score=0.987, grounding="exact"),),
        outcome="ok",
        failed_types=(),
    ),
]


def test_the_page_shows_the_whole_text_with_type_and_score_of_each_entity():
    pieces, colours = interactive.highlighted(TEXT, PASSAGES)
    assert "".join(text for text, _ in pieces) == TEXT
    assert [piece for piece in pieces if piece[1]] == [
        ("Zoe Ann", "person 0.99"), ("Bonn", "city 0.25"), ("Zoe", "person 0.99"),
    ]  # fmt: skip
    assert colours.keys() == {"person 0.99", "city 0.25"} and len(set(colours.values())) == 2
    assert interactive.highlighted("", []) == ([], {}) and interactive.highlighted("a", []) == (
        [("a", None)],
        {},
    )


def test_the_table_has_overlapping_and_ungrounded_entities_too():
    rows = interactive.entity_rows(PASSAGES)
    assert [row[0] for row in rows] == ["Zoe Ann", "Ann", "Bonn", "Rome", "Zoe"]
    assert rows[2] == ["Bonn", "city", 11, 15, 0.25, "exact"]
    assert interactive.entity_rows(PASSAGES[:1])[0][4] == 0.987


def test_types_are_separated_by_commas_or_line_breaks():
    assert interactive.parse_types(" person, city\nriver ,, city\n") == ("person", "city", "river")
    assert interactive.parse_types("\ufeffperson\u200b,\u202ecity") == ("person", "city")
    assert interactive.parse_types(" \n,") == ()


def test_without_gradio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"the page needs Gradio.*pip install 'uniner\[page\]'"):
        interactive.serve_page(None, (), None, 1)


@pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs Gradio")
def test_the_page_tags_a_typed_text_and_ends_with_the_job(tmp_path, base, job, wait_until):
    student = tmp_path / "student"
    shutil.copytree(base, student)
    facts = {"template": "type", "group_types": 5, "max_tokens": 512, "base": "", "types": ["person", "city"]}
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
    process = job("tag", config, "--serve", port)
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: process.poll() is not None or _answers(address))
    body = json.dumps({"data": ["Ann Lee of Velmora met Bo in Tarn.", "person, city"]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/gradio_api/call/tag", body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/tag/{event}", timeout=200) as response:
        events = response.read().decode()
    assert "event: complete" in events, events
    shown, *_ = json.loads(events.split("data: ")[-1])
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


def test_the_terminal_gets_no_control_characters_of_the_text():
    entity = TaggedEntity(
        text="x\x1b[2J", type="a\u202eb", start=-1, end=-1, score=0.5, grounding="ungrounded"
    )
    passage = TaggedPassage(
        passage_id="0", doc_id="", char_start=0, outcome="ok", failed_types=(), entities=(entity,)
    )
    sink = io.StringIO()
    interactive.print_text("Ann\x1b[2J", interactive.TextTags([passage], []), Console(file=sink, width=100))
    assert (
        sink.getvalue() == "Ann\ufffd[2J\na\ufffdb: x\ufffd[2J 0.50\nnot in the text: x\ufffd[2J [a\ufffdb]\n"
    )


@pytest.mark.parametrize("words", [["--text", "Ann", "--estimate"], ["--text", "Ann", "--serve", "7860"]])
def test_one_thing_is_done_at_a_time(words, tmp_path):
    result = CliRunner().invoke(cli.app, ["tag", str(tmp_path / "c.toml"), *words])
    assert result.exit_code == 2 and "take one of --estimate, --text and --serve" in result.output
