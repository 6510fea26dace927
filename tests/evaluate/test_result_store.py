"""A chat model through the stage on a real local Ray: cells are added over several runs."""

import shutil

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from uniner.evaluate import stage
from uniner.storage.stage_folder import MANIFEST
from uniner.teacher.replay_server import ReplayServer

pytestmark = pytest.mark.ray
NAMES = ("Bo", "Cy", "Di", "Ed")


class Server(ReplayServer):
    """A chat model that knows one person. After `max_requests` answers it ends the run with an error."""

    def __init__(self, max_requests):
        super().__init__({})
        self.max_requests, self.questions = max_requests, []

    async def _complete(self, request):
        self.asked += 1
        body = await request.json()
        question = body["messages"][-1]["content"]
        if self.asked > self.max_requests:
            return web.json_response({"error": {"message": "gone"}}, status=401)
        self.questions.append(question)
        return web.json_response(self._completion(body["model"], question, "city: None | person: Ann Lee"))


@pytest.fixture
def make_context(make_engine_config, stage_context, write_gold, base, tmp_path, monkeypatch):
    """Return a function that makes the stage's context for these data sets and chat models of a server."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")

    def passages(city):
        types = {"Ann Lee": "person", city: "city"}
        return [(f"Ann Lee of {city} met {name}.", {**types, name: "person"}) for name in NAMES]

    addresses = {
        dataset: write_gold(tmp_path / f"{city}.jsonl", passages(city))
        for dataset, city in (("one", "Velmora"), ("two", "Tarn"))
    }

    def make(server, gold=("one",), systems=("chatty",)):
        teacher = {"model": "m", "base_url": server.base_url, "in_flight": 1, "retries": 0}
        chat = {"kind": "chat", "teacher": teacher}
        evaluate = {
            "gold": {name: addresses[name] for name in gold},
            "systems": list(systems),
            "system": {"chatty": chat, "other": chat},
            "chunk_passages": 2,
        }
        return stage_context(stage, make_engine_config(tmp_path, base, evaluate=evaluate))

    return make


def test_cells_are_added_over_runs_and_no_question_is_paid_twice(make_context, ray_session, tmp_path):
    both_gold = ("one", "two")
    with Server(max_requests=3) as server:
        context = make_context(server)
        stage.check(context)
        with pytest.raises(Exception, match="refuses the key"):
            stage.run(context)
        assert len(server.questions) == 3
        server.max_requests = 10**6
        manifest = stage.run(context)
        assert len({*server.questions}) == len(server.questions) == 4, "answers before the error are kept"
        scores = manifest.results["scores"]["chatty"]["one"]
        counts = [scores[name] for name in ("questions", "tp", "fp", "fn", "broken")]
        assert counts == [8, 4, 0, 8, 0]

        both = stage.run(make_context(server, both_gold))
        assert len(server.questions) == 8, "only the added data set's questions are asked"
        assert both.results["scores"]["chatty"]["one"] == scores
        assert stage.run(make_context(server, ("two",))) == both
        datasets = pq.read_table(tmp_path / "r/evaluate/scores.parquet").column("dataset").to_pylist()
        assert {*datasets} == {"one", "two"}, "data sets of earlier runs are shown too"
        # As after a run that was stopped while it added cells.
        (tmp_path / "r/evaluate/chatty" / MANIFEST).unlink()
        other = stage.run(make_context(server, systems=("other",)))
        assert other.results["scores"].keys() == {"chatty", "other"}
        assert len(server.questions) == 8, "the same model was asked in the same way"
        shutil.rmtree(tmp_path / "r/evaluate/other")
        (tmp_path / "r/evaluate" / MANIFEST).unlink()
        again = stage.run(make_context(server, both_gold))
        assert again.results["scores"] == both.results["scores"]
        assert len(server.questions) == 8

        gold = tmp_path / "Velmora.jsonl"
        gold.write_text(gold.read_text().replace("Ann Lee", "Ann Low"))
        changed = stage.run(make_context(server, both_gold))
        assert len(server.questions) == 12, "a changed file is another cell"
        assert changed.results["cells"]["one"] != both.results["cells"]["one"]
        assert changed.results["scores"]["chatty"]["one"]["tp"] == 0
