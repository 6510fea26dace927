"""The whole job as one command on a small corpus of the quickstart's kind, and again: nothing to do."""

import json
import time

import pytest
import zstandard

from uniner.quickstart.prepare import write
from uniner.report.collect import collect
from uniner.report.render import render_html
from uniner.storage.model_folders import read_calibrations
from uniner.storage.stage_folder import StageFolder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
DOCUMENTS = 120


@pytest.fixture(scope="module")
def config(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("pipeline")
    corpus = StageFolder(str(folder / "corpus"))
    write(corpus, DOCUMENTS, 12, max_tokens=256)
    path = folder / "config.toml"
    path.write_text(
        f'[run]\nroot = "{folder}/runs"\nname = "small"\n[student]\nbase = "{base}"\nmax_tokens = 512\n'
        f'[ingest]\nshards = ["{corpus.path("shard-*.jsonl.zst")}"]\nchunk_passages = 64\n'
        f'[teacher]\nkind = "recording"\npath = "{corpus.path("teacher.jsonl.gz")}"\n'
        '[train]\nmax_steps = 6\nbatch_conversations = 16\nlearning_rate = 1e-3\ndtype = "float32"\n'
        "workers = 2\nuse_gpu = false\ncheck_export = false\nvalidation_questions = 20\n"
        '[engine]\ndtype = "float32"\ngpus = 0\nblock_size = 32\nmax_answer_tokens = 32\n'
        'max_bad_share = 1.0\n[tag]\ntypes = ["person", "company", "city", "song", "river"]\n'
        f'[evaluate]\ngold = {{held-out = "{corpus.path("heldout.jsonl")}"}}\nsystems = ["student"]\n'
    )
    return path


@pytest.fixture(scope="module")
def first(config, run_job):
    """The first run's exit code, output and seconds."""
    started = time.monotonic()
    return *run_job("pipeline", config), time.monotonic() - started


@pytest.fixture(scope="module")
def run(config, first):
    return StageFolder(str(config.parent / "runs" / "small"))


def test_one_command_runs_every_stage_and_says_what_it_did(first, run):
    code, output, _ = first
    assert code == 0, output
    for stage in ("ingest", "annotate", "build", "train", "evaluate", "tag"):
        assert (run / stage).manifest(), stage
        assert f" INFO {stage}: " in output
    assert "held-out: F1" in output
    assert f"report: {run.path('report.html')}" in output


def test_every_passage_is_annotated_and_tagged_exactly_once(run):
    ids = (run / "ingest").read_rows().column("passage_id").to_pylist()
    assert len(set(ids)) == len(ids) >= DOCUMENTS
    for stage in ("annotate", "tag"):
        assert (run / stage).read_rows().column("passage_id").to_pylist() == ids


def test_every_grounded_entity_is_the_documents_text_and_nothing_is_cut(config, run):
    texts = {}
    for number, shard in enumerate(sorted((config.parent / "corpus").glob("shard-*.jsonl.zst"))):
        data = zstandard.ZstdDecompressor().stream_reader(shard.read_bytes(), read_across_frames=True)
        for row, line in enumerate(data.read().splitlines()):
            texts[f"{number:05d}-{row:09d}"] = json.loads(line)["text"]
    entities = [
        (texts[row["doc_id"]], entity)
        for row in (run / "tag").read_rows().to_pylist()
        for entity in row["entities"]
        if entity["grounding"] != "ungrounded"
    ]
    assert entities
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for text, entity in entities)
    manifest = (run / "tag").require_manifest()
    passages = (run / "ingest").read_rows().column("text").to_pylist()
    assert manifest.rows == len(passages)
    assert manifest.figures["characters"] == sum(map(len, passages))
    assert manifest.figures["cut_characters"] == 0


def test_the_student_carries_what_was_measured_of_its_scores(run):
    measured = (run / "evaluate").require_manifest().results["scores"]["student"]["held-out"]["calibration"]
    assert read_calibrations(f"{run.url}/train/student") == ({"held-out": measured} if measured else {})


def test_the_teachers_flaws_are_counted(run):
    annotated, built = (run / "annotate").require_manifest(), (run / "build").require_manifest()
    assert annotated.outcomes["unparseable"] > 0
    figures = built.figures
    assert figures["dropped_unparseable"] == annotated.outcomes["unparseable"]
    assert figures["mentions_else_type"] > 0
    assert figures["mentions_not_in_passage"] > 0
    assert built.rows == figures["conversations"] <= figures["passages"] - figures["dropped_unparseable"]
    assert "misc" not in (run / "build").read_json("types.json")


def test_no_shard_has_a_name_of_the_gold_data(config, run):
    gold = [json.loads(line) for line in (config.parent / "corpus" / "heldout.jsonl").open()]
    names = {e["text"] for row in gold for e in row["entities"] if e["type"] in ("person", "company", "city")}
    corpus = "\n".join((run / "ingest").read_rows().column("text").to_pylist())
    assert names
    assert not {name for name in names if name in corpus}


def test_the_page_shows_the_same_as_the_terminal(first, run):
    page = run.read("report.html").decode()
    report = collect(run, "small")
    assert page == render_html(report)
    assert [row.stage for row in report.stages] == ["ingest", "annotate", "build", "train", "evaluate", "tag"]
    assert len(report.examples) == 5
    for row in report.stages:
        assert row.figure.split(",")[0] in page
    for example in report.examples:
        for entity in example.entities:
            assert example.text[entity.start : entity.end] == entity.text
    assert "http://" not in page


def test_a_second_run_is_a_no_op(config, first, run, run_job):
    before = {stage: (run / stage).digest() for stage in ("ingest", "annotate", "build", "train", "tag")}
    started = time.monotonic()
    code, output = run_job("pipeline", config)
    assert code == 0, output
    assert output.count("already done") >= 5
    assert {stage: (run / stage).digest() for stage in before} == before
    assert time.monotonic() - started < first[2] / 2


@pytest.mark.slow
def test_sigterm_ends_with_code_3_and_the_same_command_goes_on(config, first, job, run_job, wait_until):
    chunks = config.parent / "runs" / "stopped" / "ingest"
    words = [config, "run.name=stopped", "ingest.chunk_passages=2"]
    process = job("ingest", *words)
    wait_until(lambda: process.poll() is not None or len(list(chunks.glob("chunk-*"))) >= 3)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert "the same command goes on from here" in output
    code, output = run_job("ingest", *words)
    assert code == 0, output
    assert (StageFolder(str(chunks)).require_manifest()).rows >= DOCUMENTS
