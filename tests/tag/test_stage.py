"""The real vLLM engine on CPU, alone and inside the whole stage on a real local Ray."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from tokenizers.normalizers import NFC

from uniner.errors import UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.inference.questions import QuestionAsker
from uniner.passages import cut_passages
from uniner.records import PASSAGE, TAGGED_PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage.manifest import StageTotals, Summary, differences, merge
from uniner.storage.model_folders import StudentFacts, student_facts, write_calibrations
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.tag import stage
from uniner.tag.student import entity_rules, read_facts, selected_types
from uniner.tag.tagger import EntityRules, Tagger
from uniner.tag.types import TypeSelection
from uniner.templates import SINGLE_TYPE, SYSTEM, MultiTypeTemplate, Renderer

KNOWN = {"person": ["Anna Kessling"], "city": ["sankt ülm", "Łódź"], "company": [], "river": ["Rhine"]}
"""What the test's model says of any passage."""
TYPES = list(KNOWN)
LINES = [
    "The mayor of Velmora, Anna Kessling, opened the new library of Tarn and Sons on Monday.",
    "Ådne Brekke moved from Łódź to Sankt Ülm; the river Ölsa runs through Sankt Ülm.",
    "Nothing happened here that anybody would remember.",
]


DOCUMENTS = {f"doc-{n}": " ".join([*LINES[n % 2 :], f"Item {n}."]) for n in range(9)}


def pieces(document: str) -> list[tuple[int, int]]:
    """Where a document is cut into two passages, so that offsets must be moved."""
    cut = document.index("moved")
    return [(0, cut), (cut, len(document))]


@pytest.fixture(scope="module")
def model(make_tokenizer, make_llama, tmp_path_factory):
    """A folder with a tiny Llama that has learnt, in seconds, to give every type its one answer."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for more
    texts = [*LINES, SYSTEM, *(SINGLE_TYPE.question([name]) for name in KNOWN)]
    tokenizer = make_tokenizer(texts, 400, pad_token="</s>")
    tokenizer.backend_tokenizer.normalizer = NFC()  # as Qwen's
    renderer = Renderer(tokenizer)
    llama = make_llama(tokenizer, max_position_embeddings=1024, tie_word_embeddings=True)
    optimizer = torch.optim.AdamW(llama.parameters(), lr=4e-3)
    texts = [text[start:end] for text in list(DOCUMENTS.values())[:2] for start, end in pieces(text)]
    rows = [
        renderer.head(f"Text: {text}")
        + renderer.question(SINGLE_TYPE.question([type_name]))
        + renderer.answer(json.dumps(mentions, ensure_ascii=False))
        for text in [*texts, " ".join(LINES)]
        for type_name, mentions in KNOWN.items()
    ]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), renderer.eos)
    labels = torch.full((len(rows), longest), -100)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row.ids)
        labels[number, : len(row)] = torch.tensor(row.ids).where(torch.tensor(row.loss), -100)
    for _ in range(600):
        loss = llama(input_ids=ids, labels=labels).loss
        if loss < 0.003:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    assert loss < 0.003, f"not learnt: {loss}"
    folder = tmp_path_factory.mktemp("model")
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model, loop):
    settings = EngineSettings(
        max_prompt_tokens=512,
        max_answer_tokens=32,
        dtype="float32",
        max_num_seqs=32,
        max_num_batched_tokens=2048,
        gpus=0,
        block_size=32,
    )
    engine = Engine(str(model), settings)
    yield engine
    loop.run_until_complete(engine.close())


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_answers_are_the_same_twice_and_the_passage_is_computed_once(engine, loop):
    asker = QuestionAsker(engine, SINGLE_TYPE)
    passages = [(f"{number}. {' '.join(LINES)}", TYPES) for number in range(12)]
    first = loop.run_until_complete(asker.ask_all(passages))
    again = loop.run_until_complete(asker.ask_all(passages))

    def texts(replies):
        return [[(answer.text, answer.scores) for answer in reply.answers] for reply in replies]

    assert texts(first) == texts(again)
    answers = [answer for reply in first for answer in reply.answers]
    known = [
        answer
        for answer in answers
        if answer.outcome == "ok" and answer.mentions == tuple(KNOWN[answer.type])
    ]
    assert all(0.5 < score <= 1 for answer in known for score in answer.scores.values())
    assert len({score for answer in known for score in answer.scores.values()}) > len(known) / 2
    counts = merge([reply.figures for reply in first])
    assert len(answers) == counts["questions"] <= counts["answer_tokens"] <= 32 * len(answers)
    assert [answer.mentions for answer in first[0].answers] == [
        tuple(mentions) for mentions in KNOWN.values()
    ]
    # Of each passage's four prompts three find the prefix: more than half of all prompt tokens.
    assert counts["cached_tokens"] > 0.5 * counts["prompt_tokens"]


def test_more_questions_than_the_engine_decodes_at_once_all_come_back(engine, loop):
    types = [f"type {n}" for n in range(100)]
    (reply,) = loop.run_until_complete(
        asyncio.wait_for(QuestionAsker(engine, SINGLE_TYPE).ask_all([(LINES[0], types)]), 120)
    )
    assert [answer.type for answer in reply.answers] == [f"type {n}" for n in range(100)]


def test_an_answer_that_is_cut_and_continued_equals_the_uncut_answer(engine, loop, monkeypatch):
    passages = [(" ".join(LINES), TYPES)]
    (whole,) = loop.run_until_complete(QuestionAsker(engine, SINGLE_TYPE).ask_all(passages))
    retrying = replace(engine._settings, max_answer_tokens=4, retry_answer_tokens=32)
    monkeypatch.setattr(engine, "_settings", retrying)
    (again,) = loop.run_until_complete(QuestionAsker(engine, SINGLE_TYPE).ask_all(passages))
    assert [answer.text for answer in again.answers] == [answer.text for answer in whole.answers]
    assert {answer.outcome for answer in again.answers} == {"ok"}
    assert (whole.figures["retried"], again.figures["retried"]) == (0, 3), "the answer [] needs no retry"
    assert again.figures["answer_tokens"] == whole.figures["answer_tokens"]
    assert [list(answer.scores.values()) for answer in again.answers] == [
        pytest.approx(list(answer.scores.values()), abs=1e-4) for answer in whole.answers
    ]


def test_an_overlong_passage_never_reaches_the_engine(engine, loop, monkeypatch):
    asked = []
    ask = engine.ask

    async def watched(prompts):
        asked.extend(prompts)
        return await ask(prompts)

    monkeypatch.setattr(engine, "ask", watched)
    text = "word " * 2000
    passages = [
        Passage(
            passage_id=name,
            doc_id="d",
            passage_index=0,
            char_start=0,
            char_end=len(t),
            text=t,
            n_tokens=1,
            source="",
        )
        for name, t in (("a", text), ("b", LINES[0]))
    ]
    done = loop.run_until_complete(
        Tagger(QuestionAsker(engine, SINGLE_TYPE), TypeSelection(tuple(TYPES)), EntityRules())(
            Chunk("k", to_table(passages, PASSAGE))
        )
    )
    overlong, fine = from_table(done.table, TaggedPassage)
    assert (overlong.outcome, overlong.failed_types, overlong.entities) == ("overlong", tuple(TYPES), ())
    assert fine.outcome != "overlong"
    assert len(asked) == len(TYPES)
    assert max(map(len, asked)) + 32 <= engine.window == 544


def test_a_student_whose_tokenizer_composes_letters_tags_a_text_as_it_is(engine, loop):
    document = unicodedata.normalize("NFD", f"Before. {' '.join(LINES)}")
    (span,) = cut_passages(document[8:], engine.tokenizer, 500)
    passage = replace(span.passage(document[8:], "d-0", "d"), char_start=8, char_end=len(document))
    assert passage.text == document[8:] != unicodedata.normalize("NFC", document[8:])
    tagger = Tagger(QuestionAsker(engine, SINGLE_TYPE), TypeSelection(tuple(TYPES)), EntityRules())
    done = loop.run_until_complete(tagger(Chunk("k", to_table([passage], PASSAGE))))
    (row,) = from_table(done.table, TaggedPassage)
    places = [entity for entity in row.entities if entity.start >= 0]
    assert all(document[entity.start : entity.end] == entity.text for entity in places)
    composed = [(unicodedata.normalize("NFC", entity.text), entity.grounding) for entity in places]
    assert composed == [
        ("Anna Kessling", "exact"),
        ("Łódź", "normalized"),
        ("Sankt Ülm", "normalized"),
        ("Sankt Ülm", "normalized"),
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_engines_processes_end_with_a_killed_parent(tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "from uniner.inference.engine_process import children_watched\n"
        "with children_watched() as watch:\n"
        "    child = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(owner.stdout.readline())
    assert alive(child)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)


# ------------------------------------------------------------------------------------------- the stage


@pytest.fixture
def make_config(make_engine_config):
    def make(root, base, **tag):
        return make_engine_config(root, base, engine={"max_bad_share": 1.0}, tag=tag)

    return make


def make_student(folder: Path, base: Path, template: str = "type") -> Path:
    shutil.copytree(base, folder)
    facts = {"template": template, "group_types": 5, "max_tokens": 512, "base": str(base), "types": TYPES}
    (folder / "uniner.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.ray
def test_the_stage_tags_every_passage_once_with_offsets_into_the_document(
    tmp_path, model, make_config, stage_context, complete_stage, ray_session, capsys
):
    student = make_student(tmp_path / "student", model)
    chunks, passages = [], {}
    for key in range(3):
        some = []
        for doc_id, text in list(DOCUMENTS.items())[3 * key : 3 * key + 3]:
            for index, (start, end) in enumerate(pieces(text)):
                some.append(
                    Passage(
                        passage_id=f"{doc_id}-{index}",
                        doc_id=doc_id,
                        passage_index=index,
                        char_start=start,
                        char_end=end,
                        text=text[start:end],
                        n_tokens=9,
                        source="",
                    )
                )
        passages |= {passage.passage_id: passage for passage in some}
        chunks.append(Chunk(f"{key:05d}-00000", to_table(some, PASSAGE)))
    complete_stage(StageFolder(str(tmp_path)) / "r" / "ingest", chunks)

    def context_with(**settings):
        return stage_context(stage, make_config(tmp_path, model, student=str(student), **settings))

    context = context_with()
    stage.check(context)
    manifest = stage.run(context)

    assert manifest.identity.settings["tag"]["types"] == TYPES
    output = capsys.readouterr().err
    assert "asking for the student's 4 most frequent types: person, city, company, river" in output
    rows = from_table((StageFolder(str(tmp_path)) / "r" / "tag").read_rows(), TaggedPassage)
    assert [row.passage_id for row in rows] == list(passages)
    assert manifest.outcomes == {"ok": 18}
    for row in rows:
        passage, document = passages[row.passage_id], DOCUMENTS[row.doc_id]
        found = {(entity.text, entity.type) for entity in row.entities if entity.start >= 0}
        expected = {("Anna Kessling", "person"), ("Sankt Ülm", "city"), ("Łódź", "city"), ("Rhine", "river")}
        assert found == {(text, type_name) for text, type_name in expected if text in passage.text}
        for entity in row.entities:
            if entity.start >= 0:
                assert document[entity.start : entity.end] == entity.text
                assert passage.char_start <= entity.start < entity.end <= passage.char_end
                assert entity.grounding == ("normalized" if entity.text == "Sankt Ülm" else "exact")
            assert entity.score > 0.9
        twice = [entity.start for entity in row.entities if entity.text == "Sankt Ülm"]
        assert len(twice) == passage.text.count("Sankt Ülm")
    assert manifest.figures["questions"] == len(passages) * len(TYPES)

    stage.run(context)
    assert "tag: already done, 18 passages" in capsys.readouterr().err
    # Other tables are written from the same entities. Parts of a killed writer are removed.
    tag, located = (
        StageFolder(str(tmp_path)) / "r" / "tag",
        sum(e.start >= 0 for row in rows for e in row.entities),
    )
    mentions_by_type = stage.read_tables_manifest(tag)["mentions_by_type"]
    assert sum(mentions_by_type.values()) == located > 0 and not (tag / "entities").tree()
    for settings in ({"entity_table": True}, {"entity_table": True, "partition_by_source": True}):
        (tag / "entities").write("source=x/part-of-a-killed-writer.parquet", b"half")
        if "partition_by_source" in settings:
            tag.remove(["manifest.json"])
        again = stage.run(context_with(**settings))
        assert again.figures == manifest.figures
        assert stage.read_tables_manifest(tag)["mentions_by_type"] == mentions_by_type
        table = pd.read_parquet(f"{tag.url}/entities")
        assert len(table) == manifest.figures["entities"] and (table.start >= 0).sum() == located
        surfaces = pd.read_parquet(f"{tag.url}/aggregate.parquet")
        assert surfaces.mentions.sum() == located and (surfaces.documents <= len(DOCUMENTS)).all()
    before = (tag / "entities").tree()
    stage.run(context)  # a table that is no longer requested stays
    assert (tag / "entities").tree() == before
    with pytest.raises(UserError, match=r"made with other settings: tag\.types"):
        stage.check(context_with(types=["city"]))


def prepared(context):
    """The identity and the pool of a stage."""
    return stage._prepare(context, stage._chunks(context))


def test_a_student_is_asked_by_its_own_template_and_one_that_others_trained_by_the_configs(
    tmp_path, base, make_config, stage_context, complete_stage
):
    complete_stage(StageFolder(str(tmp_path)) / "r" / "ingest")
    for template, expected in (("grouped", MultiTypeTemplate(5)), ("type", SINGLE_TYPE)):
        student = make_student(tmp_path / template, Path(base), template)
        context = stage_context(stage, make_config(tmp_path, Path(base), student=str(student)))
        stage.check(context)
        worker = prepared(context)[1].make_worker
        assert worker.args[:2] == (str(student), expected)
    # Others trained these: no facts.
    foreign = Path(shutil.copytree(base, tmp_path / "foreign"))
    released = Path(shutil.copytree(base, tmp_path / "copies" / "UniNER-7B-type"))
    for folder, expected in ((foreign, MultiTypeTemplate(7)), (released, SINGLE_TYPE)):
        config = make_config(tmp_path, Path(base), student=str(folder), types=["city"])
        section = config.student.model_copy(update={"template": "grouped", "group_types": 7})
        context = stage_context(stage, config.model_copy(update={"student": section}))
        stage.check(context)
        identity, pool = prepared(context)
        assert pool.make_worker.args[:3] == (str(folder), expected, TypeSelection(("city",)))
        assert identity.settings["student"]["template"] == ("grouped" if folder == foreign else "type")
    with pytest.raises(UserError, match=r"lists no types of its own; set tag\.types"):
        stage.check(stage_context(stage, make_config(tmp_path, Path(base), student=str(foreign))))
    (foreign / "config.json").unlink()
    with pytest.raises(UserError, match="is not a model folder"):
        stage.check(stage_context(stage, make_config(tmp_path, Path(base), student=str(foreign))))
    hub = make_config(tmp_path, Path(base), student="Universal-NER/UniNER-7B-type", types=["city"])
    stage.check(stage_context(stage, hub))
    worker = prepared(stage_context(stage, hub))[1].make_worker
    assert worker.args[:2] == ("Universal-NER/UniNER-7B-type", SINGLE_TYPE)
    # This run's student is not trained yet.
    stage.check(stage_context(stage, make_config(tmp_path, Path(base))))


def test_another_prefilter_is_another_run(tmp_path, base, make_config, stage_context, complete_stage):
    complete_stage(StageFolder(str(tmp_path)) / "r" / "ingest")
    student = make_student(tmp_path / "student", Path(base), "type")
    identities = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gliner_config.json").write_text(json.dumps({"name": name}))
        tag = {"student": str(student), "types": ["city"], "prefilter": str(tmp_path / name)}
        for passes in (None, 3):
            config = make_config(tmp_path, Path(base), **tag, prefilter_threshold=0.1, types_per_pass=passes)
            identities.append(prepared(stage_context(stage, config))[0])
    for number, identity in enumerate(identities[1:], 1):
        assert all(differences(identity, earlier) for earlier in identities[:number])
    assert "prefilter" in str(differences(identities[0], identities[2]))


def test_scores_are_calibrated_by_the_name_of_a_data_set(tmp_path, base, make_engine_config, stage_context):
    student = StageFolder(str(tmp_path / "r" / "train" / "student"))
    facts = StudentFacts(template="type", max_tokens=512, base="", types=("a",))
    student.write_json("uniner.json", asdict(facts))
    gold, tag = {"news": "unused.jsonl"}, {"calibration": "news"}
    context = stage_context(stage, make_engine_config(tmp_path, base, tag=tag))
    with pytest.raises(UserError, match="has no calibration for the gold data set 'news'"):
        stage.check(context)
    # evaluate runs before tag.
    with_gold = make_engine_config(tmp_path, base, tag=tag, evaluate={"gold": gold})
    stage.check(stage_context(stage, with_gold))
    write_calibrations(student, {"news": {"slope": 0.5, "intercept": -1.0}})
    stage.check(context)
    assert entity_rules(context, read_facts(context)).calibration == (0.5, -1.0)
    assert student_facts(student.url) == facts
    types = selected_types(context.sections.tag, facts)
    identity = stage._identity(context, facts, types, parents={})
    assert identity.settings["tag"]["calibration"] == (0.5, -1.0)
    context.folder.begin(identity)
    context.folder.write_chunk(Chunk("a", to_table([], TAGGED_PASSAGE)))
    stage.check(context)
    write_calibrations(student, {"news": {"slope": 0.25, "intercept": -1.0}})
    with pytest.raises(UserError, match=r"tag\.calibration was \[0\.5, -1\.0\], now \[0\.25, -1\.0\]"):
        stage.check(context)


def test_chunks_that_do_not_match_the_passages_are_an_error(
    tmp_path, make_engine_config, base, complete_stage
):
    ingest, tag = StageFolder(str(tmp_path / "ingest")), StageFolder(str(tmp_path / "tag"))
    given = [Chunk("a", pa.table({"n": [1, 2, 3]})), Chunk("b", pa.table({"n": [1, 2]}))]
    chunks = complete_stage(ingest, given).chunks
    settings = make_engine_config(tmp_path, base).tag
    for rows in ({"a": 3, "b": 1}, {"a": 3}, {"a": 3, "b": 2, "c": 1}):
        summaries = [Summary(key, count, 1, 0.0) for key, count in rows.items()]
        with pytest.raises(RuntimeError, match=r"chunk [bc] has .* rows for .* passages"):
            stage._results(settings, tag, ingest, chunks, StageTotals(summaries))
