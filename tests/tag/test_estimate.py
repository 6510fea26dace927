"""An estimate of tagging, measured on a few chunks of the corpus."""

import contextlib
import json

import pytest

from uniner.config.schema import EngineSection
from uniner.errors import UserError
from uniner.inference import gpu_sharing
from uniner.inference.gpu_sharing import ModelSizes
from uniner.records import PASSAGE, TAGGED_PASSAGE, Passage, TaggedEntity, TaggedPassage, from_table, to_table
from uniner.runtime.placement import NodeType
from uniner.storage.manifest import Summary
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.tag import estimate, stage, student


def test_an_estimate_measures_chunks_spread_over_the_corpus():
    chunks = {f"{n:03d}": 100 for n in range(100)}
    assert estimate.sample_chunks(chunks) == ["000", "033", "066"]
    assert estimate.sample_chunks({"a": 5000}) == ["a"] and estimate.sample_chunks({"a": 1, "b": 2}) == [
        "a",
        "b",
    ]
    assert len(estimate.sample_chunks({"a": 1, "b": 1, "c": 400, "d": 1, "e": 300})) >= 3


def test_an_estimate_gives_time_and_price():
    figures = {
        "questions": 1000.0,
        "prompt_tokens": 36000.0,
        "cached_tokens": 30000.0,
        "answer_tokens": 4000.0,
    }
    arrivals = [
        (110.0, Summary("a", 50, 1, 10.0, {}, figures)),
        (120.0, Summary("b", 50, 1, 15.0, {}, figures)),
    ]
    trial = estimate.measure(arrivals)
    assert (trial.passages, trial.seconds) == (100, 20.0)
    text = estimate.describe(trial, total=36_100, done=100, engines=4, gpus=2, usd_per_gpu_hour=3.0)
    assert "passages  36,000 to tag of 36,100 (100 done)" in text
    assert "questions about 720,000" in text
    assert "25,920,000 of prompts (4,320,000 to compute), 2,880,000 of answers" in text
    assert "5.00 passages/s and 4,000 tokens/s per engine" in text
    assert "30.0 minutes with engine.actors=4" in text and "2.0 hours of an engine, 4.0 GPU-hours" in text
    assert "about 12.00 USD at 3 USD a GPU-hour" in text
    assert "set engine.usd_per_gpu_hour" in estimate.describe(
        trial, total=200, done=100, engines=1, gpus=1, usd_per_gpu_hour=None
    )


LLAMA_7B = ModelSizes(parameters=6_738_149_376, kept=2 * 32 * 4096)
SMALL = ModelSizes(parameters=600_000_000, kept=2 * 16 * 1024)
TRIAL = estimate.TagTrial(
    passages=300,
    seconds=10.0,
    figures={"questions": 3000, "prompt_tokens": 960_000, "cached_tokens": 780_000, "answer_tokens": 24_000},
)


@pytest.mark.parametrize(
    ("sizes", "gpu", "settings", "cpus", "expected"),
    [
        (LLAMA_7B, "H100", {}, 24, "1 a GPU, as engine.gpus=1 has it"),
        (SMALL, "H100", {}, 24, "better 4 a GPU than 1, with engine.gpus=0.25 engine.actors=8"),
        (SMALL, "H100", {"gpus": 0.25}, 24, "4 a GPU, as engine.gpus=0.25 has it"),
        (SMALL, "H100", {"gpus": 0.12}, 24, "better 4 a GPU than 8, with engine.gpus=0.25 engine.actors=1"),
        (SMALL, "H100", {"cpus": 8}, 24, "better 3 a GPU than 1, with engine.gpus=0.33 engine.actors=6"),
        (SMALL, "H100", {"max_num_seqs": 3072}, 24, "better 3 a GPU than 1"),  # the KV cache is the limit
        (SMALL, "A100-40", {}, 24, "1 a GPU, as engine.gpus=1 has it"),
    ],
)
def test_an_estimate_recommends_how_many_engines_share_a_gpu(sizes, gpu, settings, cpus, expected):
    engine = EngineSection(actors=2, **settings)
    text = estimate.describe_sharing(sizes, gpu, trial=TRIAL, engine=engine, cpus_per_gpu=cpus)
    assert expected in text and f"an {gpu} can compute about " in text
    whole = estimate.describe(
        TRIAL, total=600, done=300, engines=1, gpus=1, usd_per_gpu_hour=None, sharing=text
    )
    assert f"sharing   {text}" in whole


def test_the_recommendation_comes_from_the_nodes_and_the_student_s_config(
    config, stage_context, monkeypatch, tmp_path
):
    sizes = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
             "intermediate_size": 3072, "num_key_value_heads": 8, "head_dim": 128,
             "vocab_size": 151_936, "tie_word_embeddings": True}  # fmt: skip
    nodes = [NodeType("g", {"CPU": 96.0, "GPU": 8.0, "accelerator_type:H100": 1.0}, {}, 1)]
    monkeypatch.setattr(stage, "gpu_nodes", lambda: nodes)
    context = stage_context(stage, config(engine={"gpus": 1}))
    (tmp_path / "student" / "config.json").write_text(json.dumps(sizes))
    assert "engine.gpus=0.25 engine.actors=4" in stage._sharing(context, TRIAL)
    monkeypatch.setattr(stage, "gpu_nodes", list)
    assert stage._sharing(context, TRIAL) == ""


def test_the_sizes_of_a_model_are_counted_by_its_config(base):
    from transformers import AutoConfig

    from uniner.train.model import empty_model

    config = AutoConfig.from_pretrained(base)
    sizes = gpu_sharing.read_sizes(str(base))
    assert sizes.parameters == pytest.approx(empty_model(config).num_parameters(), rel=0.01)
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    assert sizes.kept == 2 * config.num_hidden_layers * heads
    assert gpu_sharing.sizes_of({"hidden_size": 64, "num_experts": 8}) is None
    assert gpu_sharing.sizes_of({"model_type": "mamba", "hidden_size": 64}) is None
    assert [gpu_sharing.share_of_gpu(count) for count in (1, 2, 3, 6, 8)] == [1, 0.5, 0.33, 0.16, 0.12]


@pytest.fixture
def empty_tagger(monkeypatch):
    """Put a worker that finds nothing in the engine's place."""

    def make(*arguments):
        class EmptyTagger:
            async def __call__(self, chunk):
                passages = from_table(chunk.table, Passage)
                rows = [
                    TaggedPassage(
                        doc_id=p.doc_id,
                        passage_id=p.passage_id,
                        char_start=p.char_start,
                        entities=(),
                        outcome="ok",
                        failed_types=(),
                    )
                    for p in passages
                ]
                return Chunk(chunk.key, to_table(rows, TAGGED_PASSAGE), figures={"questions": 9})

        return EmptyTagger()

    monkeypatch.setattr(student, "make_tagger", make)


def passages_chunk(key):
    passages = [
        Passage(
            passage_id=f"{key}-{n}",
            doc_id="d",
            passage_index=n,
            char_start=0,
            char_end=4,
            text="Ann.",
            n_tokens=2,
            source="",
        )
        for n in range(200)
    ]
    return Chunk(key, to_table(passages, PASSAGE))


@pytest.mark.ray
def test_chunks_are_joined_for_a_student_and_stay_so_when_the_corpus_grows(
    config, tmp_path, stage_context, complete_stage, grow_stage, ray_session, monkeypatch, empty_tagger
):
    monkeypatch.setattr(stage, "_CHUNKS", 2)  # by default, at least
    run = StageFolder(str(tmp_path / "runs")) / "r"
    complete_stage(run / "ingest", [passages_chunk(f"00000-{n:07d}") for n in range(5)])
    context = stage_context(stage, config(entity_table=True))
    first = stage.run(context)
    assert first.rows_of_chunk == {"00000-0000000x3": 600, "00000-0000003x2": 400}
    written = (run / "tag").sizes()
    grow_stage(run / "ingest", [passages_chunk(f"00001-{n:07d}") for n in range(4)])
    grown = stage.run(context)
    assert grown.rows_of_chunk == {
        **first.rows_of_chunk,
        "00001-0000000x3": 600,  # as large as before, though half of the run would now be 900
        "00001-0000003": 200,
    }
    assert grown.grown_from == (first.digest,) and first.chunks.same_contents(grown.chunks)
    assert {name: size for name, size in written.items() if name.startswith("chunk-")}.items() <= (
        (run / "tag").sizes().items()
    )
    assert grown.results["input"] == {"chunks": 4, "rows": 1800}
    ingested = (run / "ingest").read_rows()["passage_id"]
    assert (run / "tag").read_rows()["passage_id"].equals(ingested)
    with pytest.raises(UserError, match=r"tag\.chunk_passages was 500, now 100"):
        stage.run(stage_context(stage, config(chunk_passages=100)))


def test_an_estimate_of_a_corpus_without_passages_is_one_line(
    config, tmp_path, stage_context, complete_stage, monkeypatch, empty_tagger
):
    run = StageFolder(str(tmp_path / "runs")) / "r"
    complete_stage(run / "ingest", [Chunk("00000-0000000", to_table([], PASSAGE))])
    monkeypatch.setattr(stage, "connected", contextlib.nullcontext)
    line = stage.estimate(stage_context(stage, config()))
    assert line.startswith("tag: ") and "have no passages, so there is nothing to measure" in line


def test_the_trial_s_passages_are_counted_by_each_template(config, tmp_path, stage_context, complete_stage):
    run = StageFolder(str(tmp_path / "runs")) / "r"
    complete_stage(run / "ingest", [passages_chunk("0")])
    entity = TaggedEntity(text="Ann", type="person", start=0, end=3, score=0.9, grounding="exact")
    rows = [
        TaggedPassage(
            doc_id="d", passage_id=f"0-{n}", char_start=0, entities=(entity,), outcome="ok", failed_types=()
        )
        for n in range(200)
    ]
    complete_stage(run / "tag", [Chunk("0", to_table(rows, TAGGED_PASSAGE))])
    context = stage_context(stage, config(types=["person", "city"]))
    text = stage._templates(context, run / "ingest", ["0"])
    assert text.startswith("a passage takes about ") and " by words, prompt and answer, with 2 types" in text


@pytest.mark.ray
def test_chunks_tagged_for_an_estimate_count_as_done(
    config, tmp_path, stage_context, complete_stage, ray_session, empty_tagger
):
    run = StageFolder(str(tmp_path / "runs")) / "r"
    complete_stage(run / "ingest", [passages_chunk(f"{n}") for n in range(5)])
    context = stage_context(stage, config())
    estimated = stage.estimate(context)
    assert "passages  600 to tag of 1,000 (400 done)" in estimated
    assert "\ntemplates a passage takes about " in estimated
    tag = run / "tag"
    assert tag.chunk_keys() == {"0", "2"} and tag.manifest() is None
    before = tag.sizes()
    manifest = stage.run(context)
    assert manifest.rows == 1000 and manifest.figures == {"questions": 45}
    assert manifest.results["input"] == {"chunks": 5, "rows": 1000}
    assert before.items() <= tag.sizes().items()
