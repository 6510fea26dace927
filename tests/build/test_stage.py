"""The build stage on Ray: teacher and gold data together, reproducible bytes, and the data card."""

import json

import pytest
from PIL import Image

from uniner.build import stage
from uniner.config.loader import load
from uniner.config.schema import Build
from uniner.errors import UserError
from uniner.records import ANNOTATION, CONVERSATION, Annotation, Conversation, Entity, from_table, to_table
from uniner.storage.stage_folder import Chunk, StageFolder

pytestmark = pytest.mark.ray

NAMES = ["Ann", "Bob", "Bonn", "Rome"]


def annotation(number: int) -> Annotation:
    name, other = NAMES[number % 4], NAMES[(number + 1) % 4]
    text = f"{number}: {name} and {other}."
    start = text.index(other)
    entities = (
        Entity(
            text=name,
            type="cities" if number % 5 else "city",
            start=text.index(name),
            end=text.index(name) + len(name),
        ),
        Entity(text=other, type="person", start=start, end=start + len(other)),
        Entity(text="nowhere", type="place", start=-1, end=-1),
    )
    outcome = "unparseable" if number % 10 == 9 else "ok"
    return Annotation(
        passage_id=f"p{number:03d}",
        doc_id="d",
        text=text,
        outcome=outcome,
        reply="",
        entities=entities,
        model="some-teacher",
        tokens_in=5,
        tokens_out=5,
        cost_usd=0.0,
        attempts=1,
    )


@pytest.fixture
def gold(tmp_path):
    path = tmp_path / "gold.jsonl"
    rows = [
        {"id": str(n), "text": "Eve sat.", "entities": [{"start": 0, "end": 3, "text": "Eve", "type": "PER"}]}
        for n in range(30)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_config(tmp_path, base, root, *words):
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{root}"\nname = "r"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["none"]\n'
        '[teacher]\nmodel = "some-teacher"\n[build]\nvalidation_share = 0.1\nsingular_types = true\n'
    )
    return load([str(path), *words])


@pytest.fixture
def annotate(complete_stage):
    """Return a function that writes a complete annotate stage."""

    def write(root) -> None:
        chunks = [
            Chunk(f"{key:05d}-00000", to_table([annotation(40 * key + n) for n in range(40)], ANNOTATION))
            for key in range(6)
        ]
        complete_stage(StageFolder(str(root)) / "r" / "annotate", chunks)

    return write


def conversations(folder: StageFolder) -> list[Conversation]:
    return from_table(folder.read_rows(), Conversation)


def test_teacher_and_gold_data_become_one_training_set_and_a_card(
    tmp_path, base, gold, annotate, stage_context, ray_session
):
    annotate(tmp_path)
    config = make_config(
        tmp_path, base, tmp_path, f'build.supervised={{news = "{gold}"}}', 'build.labels={PER = "person"}',
        "build.supervised_examples=20", "build.train_json=true", "build.negatives_per_passage=1",
    )  # fmt: skip
    context = stage_context(stage, config)
    stage.check(context)
    manifest = stage.run(context)
    folder = StageFolder(str(tmp_path)) / "r" / "build"
    built = conversations(folder)
    figures = manifest.figures
    assert len([c for c in built if c.dataset == "teacher"]) == 216
    assert len([c for c in built if c.dataset == "news"]) == figures["from_news"] == 20
    assert (figures["passages"], figures["dropped_unparseable"], figures["mentions_not_in_passage"]) == (
        240,
        24,
        216,
    )
    assert json.loads(folder.read("types.json")) == {"city": 216, "person": 216}
    published = json.loads(folder.read("train.json"))
    assert [row["id"] for row in published] == [c.id for c in built if c.split == "train"]
    assert published[0]["conversations"] == list(built[0].conversations)
    card = folder.read("README.md").decode()
    for text in ("236 conversations", "`some-teacher`", "| news | 20 |", "| unparseable | 24 |", "{passage}"):
        assert text in card
    (tmp_path / "card.png").write_bytes(folder.read("card.png"))
    with Image.open(tmp_path / "card.png") as image:
        assert len(image.getcolors(1 << 24)) > 10


def test_ray_writes_the_same_bytes_as_one_process(
    tmp_path, base, gold, annotate, stage_context, ray_session, monkeypatch
):
    written = {}
    for mode in ("ray", "alone"):
        root = tmp_path / mode
        annotate(root)
        config = make_config(tmp_path, base, root, f'build.supervised={{news = "{gold}"}}')
        if mode == "alone":
            monkeypatch.setattr(stage.chunk_pipeline, "make_chunks", make_alone)
            monkeypatch.setattr(stage.chunk_pipeline, "gather", lambda items, function: map(function, items))
        stage.run(stage_context(stage, config))
        folder = root / "r" / "build"
        written[mode] = {file.name: file.read_bytes() for file in folder.glob("chunk-*.parquet")}
    assert written["ray"] == written["alone"]
    assert len(written["ray"]) == 7


def make_alone(folder, items, make):
    for item in reversed(items):
        yield from (folder.write_chunk(chunk) for chunk in make(item))


def test_without_a_teacher_annotate_need_not_have_run(
    tmp_path, base, gold, stage_context, ray_session, monkeypatch
):
    monkeypatch.chdir(gold.parent)  # Ray's workers do not change folder: they need the absolute path
    words = ("build.teacher_weight=0", 'build.supervised={news = "gold.jsonl"}', "build.dataset_line=false")
    context = stage_context(stage, make_config(tmp_path, base, tmp_path, *words))
    stage.check(context)
    assert stage.run(context).rows == 30
    built = conversations(StageFolder(str(tmp_path)) / "r" / "build")
    assert built[0].conversations[0]["value"] == "Text: Eve sat."
    assert to_table(built, CONVERSATION).num_rows == 30


def test_a_build_stays_as_it_is_when_the_corpus_grows(
    tmp_path, base, annotate, stage_context, monkeypatch, grow_stage, caplog
):
    monkeypatch.setattr(stage.chunk_pipeline, "make_chunks", make_alone)
    monkeypatch.setattr(stage.chunk_pipeline, "gather", lambda items, function: map(function, items))
    annotate(tmp_path)
    context = stage_context(stage, make_config(tmp_path, base, tmp_path))
    built = stage.run(context)
    more = Chunk("00009-00000", to_table([annotation(1000)], ANNOTATION))
    grow_stage(StageFolder(str(tmp_path)) / "r" / "annotate", [more])
    caplog.clear()
    assert stage.run(context) == built
    assert "of the corpus before it grew; they and their student stay as they are" in caplog.text
    other = stage_context(stage, make_config(tmp_path, base, tmp_path, "build.negatives_per_passage=1"))
    with pytest.raises(UserError, match=r"other settings: build\.negatives_per_passage"):
        stage.run(other)
    context.folder.remove(["manifest.json"])
    with pytest.raises(UserError, match="other settings: the output of annotate was"):
        stage.run(context)


def test_missing_input_is_refused_before_ray_starts(tmp_path, base, stage_context):
    def check(word):
        stage.check(stage_context(stage, make_config(tmp_path, base, tmp_path, word)))

    with pytest.raises(UserError, match="leave nothing to train on"):
        check("build.teacher_weight=0")
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        check('build.supervised={news = "gone.jsonl"}')


def test_types_to_drop_are_normalized_like_all_types():
    filters, *_ = stage._count_mentions(None, Build(drop_types=["MISC", " Else "]))
    assert filters.drop_types == {"misc", "else"}


def test_a_file_with_its_own_questions_is_trained_on_in_its_own_words(tmp_path):
    turns = ["Text: C here", "I've read this text.", "What describes programlang in the text?", '["C"]']
    conversation = [
        {"from": speaker, "value": turn} for speaker, turn in zip(("human", "gpt") * 2, turns, strict=True)
    ]
    (tmp_path / "train.json").write_text(json.dumps([{"id": "a", "conversations": conversation}]))
    build = stage._ConversationBuilder(
        annotations=None,
        settings=Build(labels={"programlang": "language"}),
        gold={"crossner_ai": f"{tmp_path}/train.json"},
        sampler=None,
        conversation=stage.ConversationSettings(0, validation_share=0),
        filters=None,
    )
    (built,) = from_table(build(f"{stage._GOLD}crossner_ai").table, Conversation)
    assert built.positive_types == ("programlang",), "evaluate asks for the same word"
