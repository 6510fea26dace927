"""A chat model through the stage on a real local Ray: its cells fill in over runs."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from uniner.evaluate import stage
from uniner.storage.stage_folder import MANIFEST
from uniner.teacher.replay_server import ReplayServer

pytestmark = pytest.mark.ray
NAMES = ("Bo", "Cy", "Di", "Ed")


def make_gold(path, city):
    lines = []
    for name in NAMES:
        text = f"Ann Lee of {city} met {name}."
        entities = [
            {"start": text.index(said), "end": text.index(said) + len(said), "text": said, "type": kind}
            for said, kind in (("Ann Lee", "person"), (city, "city"), (name, "person"))
        ]
        lines.append(json.dumps({"text": text, "entities": entities}))
    path.write_text("\n".join(lines))
    return str(path)


class Server(ReplayServer):
    """A chat model that knows one person; the server ends the run with an error after so many answers."""

    def __init__(self, most):
        super().__init__({})
        self.most, self.said = most, []

    async def _complete(self, request):
        self.asked += 1
        body = await request.json()
        question = body["messages"][-1]["content"]
        if self.asked > self.most:
            return web.json_response({"error": {"message": "gone"}}, status=401)
        self.said.append(question)
        return web.json_response(self._completion(body["model"], question, "city: None | person: Ann Lee"))


@pytest.fixture
def make_config(make_engine_config, base, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    one, two = (make_gold(tmp_path / f"{city}.jsonl", city) for city in ("Velmora", "Tarn"))

    def make(server, gold=("one",), systems=()):
        addresses = {"one": one, "two": two}
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


def test_a_chat_model_s_cells_fill_in_and_no_question_is_paid_twice(make_config, ray_session, tmp_path):
    with Server(most=3) as server:
        config = make_config(server, systems=["chatty"])
        stage.check(config)
        with pytest.raises(Exception, match="refuses the key"):
            stage.run(config)
        assert len(server.said) == 3
        server.most = 10**6
        manifest = stage.run(config)
        assert sorted(server.said) == sorted({*server.said}), "what was answered before the end is kept"
        assert len(server.said) == 4
        one = manifest["scores"]["chatty"]["one"]
        assert (one["questions"], one["tp"], one["fp"], one["fn"], one["broken"]) == (8, 4, 0, 8, 0)

        both = stage.run(make_config(server, gold=("one", "two"), systems=["chatty"]))
        assert len(server.said) == 8, "of the data set that came later, its questions alone"
        assert both["scores"]["chatty"]["one"] == one
        assert stage.run(make_config(server, gold=("two",), systems=["chatty"])) == both
        shown = pq.read_table(tmp_path / "r/evaluate/scores.parquet").column("dataset").to_pylist()
        assert {*shown} == {"one", "two"}, "what is left out is shown all the same"
        (tmp_path / "r/evaluate/chatty" / MANIFEST).unlink()  # as where it is stopped at more cells
        other = stage.run(make_config(server, gold=("one",), systems=["other"]))
        assert other["scores"].keys() == {"chatty", "other"}
        assert len(server.said) == 8, "it is the same model, asked in the same way"
        shutil.rmtree(tmp_path / "r/evaluate/other")
        (tmp_path / "r/evaluate" / MANIFEST).unlink()
        assert (
            stage.run(make_config(server, gold=("one", "two"), systems=["chatty"]))["scores"]
            == both["scores"]
        )
        assert len(server.said) == 8

        gold = tmp_path / "Velmora.jsonl"
        gold.write_text(gold.read_text().replace("Ann Lee", "Ann Low"))
        changed = stage.run(make_config(server, gold=("one", "two"), systems=["chatty"]))
        assert len(server.said) == 12, "a file that changed is another cell"
        assert changed["cells"]["one"] != both["cells"]["one"]
        assert changed["scores"]["chatty"]["one"]["tp"] == 0
