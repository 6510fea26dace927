"""The Python door with an encoder: the entities of the job, without Ray, in a notebook's event loop too."""

import asyncio
import json

import pytest

import uniner
from uniner.config.schema import Config
from uniner.encoder.folder import save_encoder
from uniner.errors import UserError
from uniner.records import PASSAGE, TaggedPassage, from_table, to_table
from uniner.runtime import held_worker
from uniner.storage.stage_folder import Chunk
from uniner.tag import stage, student, texts

TEXTS = ["Ann Lee of Velmora met Bo-Jon in Tarn . " * 12, " \n", "The river Tarn <b>flows</b> by Velmora ."]
TYPES = ["person", "city", "river"]


@pytest.fixture(scope="module")
def folder(make_encoder, tmp_path_factory):
    """A folder in GLiNER's format."""
    encoder = make_encoder()
    folder = tmp_path_factory.mktemp("door") / "gliner"
    save_encoder(folder, encoder, encoder.model.state_dict())
    return folder


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """These tests are of a process that is not connected to Ray, whatever ran before."""
    monkeypatch.setattr(texts, "uses_ray", lambda: False)


def of_job(folder, stage_context, given, **tag):
    """The rows that the tag stage's worker gives for the same texts."""
    config = Config.model_validate(
        {
            "run": {"root": str(folder.parent / "runs"), "name": "r"},
            "student": {"base": "unused"},
            "engine": {"gpus": 0, "dtype": "float32"},
            "tag": {"student": str(folder), "types": TYPES, **tag},
        }
    )
    context = stage_context(stage, config)
    facts = student.read_facts(context)
    rules, types = student.entity_rules(context, facts), student.selected_types(context.sections.tag, facts)
    worker = student.worker_of(context, facts, types, rules)[0]()
    passages = [texts.whole_text(text, str(number))[0] for number, text in enumerate(given) if text.strip()]
    return from_table(asyncio.run(worker(Chunk("c", to_table(passages, PASSAGE)))).table, TaggedPassage)


def test_texts_have_the_entities_of_the_job(folder, stage_context):
    tagged = uniner.tag_texts(TEXTS, folder, TYPES)
    long, short = of_job(folder, stage_context, TEXTS)
    assert len(long.entities) > 20 and short.entities
    assert [document.entities for document in tagged] == [long.entities, (), short.entities]
    for document, text in zip(tagged, TEXTS, strict=True):
        assert document.text == text and document.outcome == "ok"
        assert all(text[entity.start : entity.end] == entity.text for entity in document.entities)


def test_a_loaded_encoder_tags_again_with_its_settings_and_in_a_running_event_loop(
    folder, stage_context, monkeypatch
):
    loads = []
    make = held_worker.WorkerHere.__init__
    monkeypatch.setattr(
        held_worker.WorkerHere, "__init__", lambda self, maker: (loads.append(1), make(self, maker))[1]
    )

    async def in_a_notebook():
        with uniner.open_tagger(str(folder), TYPES, settings={"tag.min_score": 0.6}) as tagger:
            return tagger(TEXTS), tagger(TEXTS[2:]), tagger

    first, second, tagger = asyncio.run(in_a_notebook())
    assert loads == [1] and first[2] == second[0]
    expected = of_job(folder, stage_context, TEXTS, min_score=0.6)
    assert first[0].entities == expected[0].entities
    assert len(first[0].entities) < len(of_job(folder, stage_context, TEXTS)[0].entities)
    with pytest.raises(UserError, match="the tagger is closed; open another"):
        tagger(TEXTS)


def test_a_runs_folder_means_its_encoder_and_its_own_types(folder, tmp_path, make_encoder):
    encoder = make_encoder()
    own = tmp_path / "runs" / "news" / "train-encoder" / "encoder"
    save_encoder(own, encoder, encoder.model.state_dict())
    facts = {
        "template": "encoder",
        "max_tokens": 128,
        "base": "",
        "types": ["river", "city"],
        "threshold": 0.4,
    }
    (own / "uniner.json").write_text(json.dumps(facts))
    tagged = uniner.tag_texts(TEXTS, tmp_path / "runs" / "news")
    types = {entity.type for document in tagged for entity in document.entities}
    assert types and types <= {"river", "city"}
    assert tagged[2] == uniner.tag_texts(TEXTS[2:], own, settings={"tag.min_score": 0.4})[0]


def test_what_the_encoder_cannot_do_is_one_line(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(
        UserError, match=r"^types: .*gliner lists no types of its own; name some, such as types="
    ):
        uniner.tag_texts(TEXTS, folder)
    with pytest.raises(UserError, match=r"engine.gpus = 1, but torch .* set engine.gpus=0 to run on CPUs"):
        uniner.tag_texts(TEXTS, folder, TYPES, settings={"engine.gpus": 1})
    with pytest.raises(UserError, match=r"ingest.max_tokens decides nothing for an encoder; leave it out"):
        uniner.tag_texts(TEXTS, folder, TYPES, settings={"ingest.max_tokens": 9})
    with pytest.raises(UserError, match=r"the type 'person person .* the encoder reads types of at most"):
        uniner.tag_texts(TEXTS, folder, ["person " * 99 + "x"])
