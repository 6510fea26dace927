"""The stages train-encoder and tag on a real local Ray, with workers that are killed and come back."""

import random
from itertools import pairwise

import pytest

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.records import PASSAGE, Passage, TaggedPassage, from_table, to_table
from uniner.storage.stage_folder import Chunk
from uniner.tag import stage as tag_stage
from uniner.train.encoder import stage, worker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def config_of(tmp_path):
    """Return a function that makes the config of a job's run."""

    def make(job, workers=1, **tag) -> Config:
        encoder = job.encoder.model_dump() | {"workers": workers, "max_failures": 0, "shard_workers": None}
        engine = {"gpus": 0, "cpus": 1, "dtype": "float32", "max_bad_share": 1.0}
        return Config.model_validate(
            {
                "run": {"root": str(tmp_path), "name": "run"},
                "student": {"base": "unused"},
                "encoder": encoder,
                "engine": engine,
                "tag": tag,
            }
        )

    return make


def killed_at(step, mark):
    """A training function whose worker 0 ends at a step, once."""

    def train(job, session):
        import os
        import signal

        import torch.distributed as dist

        from uniner.train.encoder import worker

        class KilledSession:
            preempted, say = session.preempted, session.say
            measure, checkpointed = session.measure, session.checkpointed

            def report(self, done, steps, note):
                session.report(done, steps, note)
                if done == step and dist.get_rank() == 0 and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

        return worker.train(job, KilledSession())

    return train


def test_an_encoder_is_trained_and_tags_every_passage_once(
    make_job, config_of, stage_context, complete_stage, tmp_path, caplog
):
    config = config_of(make_job(epochs=4))
    context = stage_context(stage, config)
    stage.check(context)
    manifest = stage.run(context)
    assert manifest.rows == 21 and manifest.figures["steps"] == 16
    assert manifest.figures["validation_f1"] == 0 and "finds no entity of the validation" in caplog.text
    assert stage.run(context) == manifest  # the second run does nothing
    assert not (context.folder / "checkpoints").tree()

    document = "Berlin and Ada Lovelace met in Nairobi. " * 40
    bounds = list(pairwise(range(0, len(document) + 1, len(document) // 8)))
    passages = [
        Passage(
            passage_id=str(number), doc_id="d", passage_index=number, char_start=start, char_end=end,
            text=document[start:end], n_tokens=9, source="",
        )
        for number, (start, end) in enumerate(bounds)
    ]  # fmt: skip
    chunks = [Chunk(f"0000{half}-00000", to_table(passages[half::2], PASSAGE)) for half in range(2)]
    complete_stage(context.run_folder / "ingest", chunks)
    tagging = stage_context(
        tag_stage, config_of(make_job(), student="encoder", types=["type 1", "type 0"], min_score=0.001)
    )
    tag_stage.check(tagging)
    tagged = tag_stage.run(tagging)
    rows = from_table(tagging.folder.read_rows(), TaggedPassage)
    assert sorted(row.passage_id for row in rows) == sorted(passage.passage_id for passage in passages)
    entities = [entity for row in rows for entity in row.entities]
    assert entities and tagged.outcomes == {"ok": len(passages)}
    for entity in entities:
        assert document[entity.start : entity.end] == entity.text and entity.grounding == "exact"
        assert 0.001 <= entity.score <= 1
    by_place = sorted((entity.start, entity.end) for entity in entities)
    assert all(end <= start for (_, end), (start, _) in pairwise(by_place))  # an encoder's rule is flat
    with pytest.raises(UserError, match=r"made with other settings: tag\.min_score"):
        tag_stage.check(
            stage_context(tag_stage, config_of(make_job(), student="encoder", types=["type 1", "type 0"]))
        )


@pytest.mark.slow
def test_two_workers_then_one_then_two_give_the_curve_of_one(
    group, make_job, local_session, config_of, stage_context, tmp_path, monkeypatch
):
    chance = random.Random(20261126)
    job = make_job(epochs=5, eval_steps=4)
    alone = worker.train(job, local_session()).figures
    expected = job.folder.read_json("history.json")
    job.folder.remove_all()
    steps = sorted(chance.sample(range(4, alone.steps - 2), 2))
    print(f"worker 0 is killed after steps {steps}")
    for number, (workers, step) in enumerate(zip((2, 1), steps, strict=True)):
        with monkeypatch.context() as patch:
            patch.setattr(worker, "train", killed_at(step, tmp_path / f"killed{number}"))
            with pytest.raises(UserError, match="goes on from the last checkpoint"):
                stage.run(stage_context(stage, config_of(job, workers)))
    manifest = stage.run(stage_context(stage, config_of(job, 2)))
    history = job.folder.read_json("history.json")
    assert manifest.figures["resumed"] == 2
    for name in ("loss", "grad_norm", "learning_rate", "tokens", "answer_tokens"):
        figures = [[each[name] for each in run["steps"]] for run in (history, expected)]
        assert figures[0] == pytest.approx(figures[1], abs=1e-5, rel=1e-5)
    assert history["validation"] == [pytest.approx(each, abs=1e-5) for each in expected["validation"]]


def test_what_an_encoder_cannot_be_is_one_line(make_job, config_of, stage_context, complete_stage):
    config = config_of(make_job(), student="encoder")
    context = stage_context(tag_stage, config)
    complete_stage(context.run_folder / "ingest", [Chunk("00000-00000", to_table([], PASSAGE))])
    with pytest.raises(UserError, match="the stage train-encoder is not complete"):
        tag_stage.run(context)
    engine = config.engine.model_copy(update={"quantization": "fp8"})
    with pytest.raises(UserError, match="an encoder has neither"):
        tag_stage.check(stage_context(tag_stage, config.model_copy(update={"engine": engine})))
