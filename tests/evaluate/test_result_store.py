"""A chat model through the stage on a real local Ray: cells are added over several runs."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from uniner.evaluate import stage
from uniner.storage.stage_folder import MANIFEST

pytestmark = pytest.mark.ray
NAMES = ("Bo", "Cy", "Di", "Ed")


def make_gold(path, city):
    lines = []
    for name in NAMES:
        text = f"Ann Lee of {city} met {name}."
        entities = [
            {
                "start": text.index(mention),
                "end": text.index(mention) + len(mention),
                "text": mention,
                "type": kind,
            }
            for mention, kind in (("Ann Lee", "person"), (city, "city"), (name, "person"))
        ]
        lines.append(json.dumps({"text": text, "entities": entities}))
    path.write_text("\n".join(lines))
    return str(path)


class Server(RecordedTeacher):
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
def make_config(make_engine_config, base, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    first, second = (make_gold(tmp_path / f"{city}.jsonl", city) for city in ("Velmora", "Tarn"))

    def make(server, gold=("one",), systems=()):
        addresses = {"one": first, "two": second}
        chat = {"kind": "chat", "model": "m", "base_url": server.base_url, "in_flight": 1, "retries": 0}
        return make_engine_config(
            tmp_path,
            base,
            evaluate={
                "gold": {name: addresses[name] for name in gold},
                "systems": list(systems),
                "system": {"chatty": chat, "other": chat},
                "chunk_passages": 2,
            },
        )

    return make


def test_cells_are_added_over_runs_and_no_question_is_paid_twice(make_config, ray_session, tmp_path):
    with Server(max_requests=3) as server:
        config = make_config(server, systems=["chatty"])
        stage.check(config)
        with pytest.raises(Exception, match="refuses the key"):
            stage.run(config)
        assert len(server.questions) == 3
        server.max_requests = 10**6
        manifest = stage.run(config)
        assert sorted(server.questions) == sorted({*server.questions}), (
            "answers from before the error are kept"
        )
        assert len(server.questions) == 4
        scores = manifest["scores"]["chatty"]["one"]
        counts = [scores[name] for name in ("questions", "tp", "fp", "fn", "broken")]
        assert counts == [8, 4, 0, 8, 0]

        both = stage.run(make_config(server, gold=("one", "two"), systems=["chatty"]))
        assert len(server.questions) == 8, "only the added data set's questions are asked"
        assert both["scores"]["chatty"]["one"] == scores
        assert stage.run(make_config(server, gold=("two",), systems=["chatty"])) == both
        datasets = pq.read_table(tmp_path / "r/evaluate/scores.parquet").column("dataset").to_pylist()
        assert {*datasets} == {"one", "two"}, "data sets of earlier runs are shown too"
        (
            tmp_path / "r/evaluate/chatty" / MANIFEST
        ).unlink()  # as after a run that was stopped while adding cells
        other = stage.run(make_config(server, gold=("one",), systems=["other"]))
        assert other["scores"].keys() == {"chatty", "other"}
        assert len(server.questions) == 8, "the same model was asked in the same way"
        shutil.rmtree(tmp_path / "r/evaluate/other")
        (tmp_path / "r/evaluate" / MANIFEST).unlink()
        assert (
            stage.run(make_config(server, gold=("one", "two"), systems=["chatty"]))["scores"]
            == both["scores"]
        )
        assert len(server.questions) == 8

        gold = tmp_path / "Velmora.jsonl"
        gold.write_text(gold.read_text().replace("Ann Lee", "Ann Low"))
        changed = stage.run(make_config(server, gold=("one", "two"), systems=["chatty"]))
        assert len(server.questions) == 12, "a changed file is another cell"
        assert changed["cells"]["one"] != both["cells"]["one"]
        assert changed["scores"]["chatty"]["one"]["tp"] == 0
