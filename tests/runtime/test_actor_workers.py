"""Workers that stay loaded between calls: in actors of a connected Ray, and when a Ray of our own ends."""

import contextlib
import os

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.runtime import actor_workers
from uniner.runtime.actor_workers import ActorWorkers
from uniner.runtime.held_worker import WorkerHere, uses_ray
from uniner.storage.stage_folder import Chunk


def make_worker():
    """A worker that counts its calls; a key can ask for a mistake or for the end of its process."""
    calls = []

    async def work(chunk):
        calls.append(chunk.key)
        if chunk.key == "wrong":
            raise UserError("the text is wrong; write another")
        if chunk.key == "die":
            os._exit(1)
        return Chunk(chunk.key, pa.table({"pid": [os.getpid()], "calls": [len(calls)]}))

    return work


def refuse():
    raise UserError("this model cannot be loaded; name another")


def chunk(key):
    return Chunk(key, pa.table({"row": [1]}))


@pytest.mark.ray
def test_actors_of_a_connected_ray_keep_their_worker_and_ray_stays(ray_session):
    import ray

    workers = ActorWorkers("tag", make_worker, actors=2, cpus=0.5, gpus=0)
    keys = [f"{number}" for number in range(6)]
    first = workers.work([chunk(key) for key in keys])
    assert [done.key for done in first] == keys
    second = workers.work([chunk(key) for key in keys])
    pids = [{done.table["pid"][0].as_py() for done in each} for each in (first, second)]
    assert len(pids[0]) == 2 and pids[0] == pids[1] and os.getpid() not in pids[0]
    assert sum(done.table["calls"][0].as_py() for done in second) > sum(range(1, 7))  # they counted on
    with pytest.raises(UserError, match=r"^the text is wrong; write another$"):
        workers.work([chunk("wrong")])
    with pytest.raises(UserError, match=r"_WorkerActor.*died .*; then open the tagger again"):
        workers.work([chunk("die"), chunk("die")])
    workers.close()
    with pytest.raises(UserError, match=r"^this model cannot be loaded; name another$"):
        ActorWorkers("tag", refuse, actors=1, cpus=0.5, gpus=0)
    with pytest.raises(
        UserError, match=r"tag: needs 3 GPUs, .*lower engine.actors, engine.cpus or engine.gpus"
    ):
        ActorWorkers("tag", make_worker, actors=1, cpus=0.5, gpus=3)
    assert ray.is_initialized() and uses_ray()


def test_a_ray_that_was_started_ends_with_its_last_worker(monkeypatch):
    events = []

    @contextlib.contextmanager
    def connected():
        events.append("start")
        yield
        events.append("end")

    monkeypatch.setattr(actor_workers.connection, "connected", connected)
    monkeypatch.setattr(
        actor_workers.ray, "is_initialized", lambda: events.count("start") > events.count("end")
    )
    shared = actor_workers._SharedRay()
    shared.enter()
    shared.enter()
    shared.leave()
    assert events == ["start"]
    shared.leave()
    assert events == ["start", "end"]
    shared.enter()
    shared.leave()
    assert events == ["start", "end"] * 2


def test_a_worker_here_stays_loaded_and_its_errors_arrive():
    worker = WorkerHere(make_worker)
    assert [worker.work([chunk("a"), chunk("b")])[-1].table["calls"][0].as_py() for _ in range(2)] == [2, 4]
    with pytest.raises(UserError, match="the text is wrong"):
        worker.work([chunk("wrong")])
    worker.close()
    with pytest.raises(UserError, match="this model cannot be loaded"):
        WorkerHere(refuse)


@pytest.mark.parametrize(("address", "used"), [("", False), ("127.0.0.1:6379", True)])
def test_an_address_of_a_cluster_means_ray(monkeypatch, address, used):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert uses_ray() is used
