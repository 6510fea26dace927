"""A worker in actors of Ray that stay between calls, for texts from Python."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util import ActorPool

from uniner.errors import UserError
from uniner.runtime import connection
from uniner.runtime.chunk_actor import Worker
from uniner.runtime.gpu import require_gpu
from uniner.runtime.placement import Request, gpu_nodes, node_types, placed
from uniner.storage.stage_folder import Chunk


class ActorWorkers:
    """A worker in each of some actors, which share the chunks.

    They run in the Ray that this process is connected to, else in the one at RAY_ADDRESS, else in a local
    one, which ends with the last of them.

    Raises:
        UserError: there is no room for the actors, or the worker cannot be made.
    """

    def __init__(self, name: str, make: Callable[[], Worker], *, actors: int, cpus: float, gpus: float):
        self._actors: list[Any] = []
        request = Request(cpus, gpus)
        _ray.enter()
        try:
            remote = ray.remote(
                num_cpus=cpus, num_gpus=gpus, label_selector=request.selector() or None, max_restarts=0
            )(_WorkerActor)
            with placed(name, request, actors, advice="lower engine.actors, engine.cpus or engine.gpus"):
                self._actors = [remote.remote(make, gpus > 0) for _ in range(actors)]
                _get(lambda: ray.get([actor.ready.remote() for actor in self._actors]))
        except BaseException:
            self.close()
            raise

    def work(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Work on chunks, and return them in order.

        Raises:
            UserError: the worker raised it, or its process died.
        """
        pool = ActorPool(self._actors)
        return _get(lambda: [*pool.map(lambda actor, chunk: actor.work.remote(chunk), chunks)])

    def close(self) -> None:
        """End the actors, and the local Ray that no other worker uses."""
        if ray.is_initialized():  # at the end of the process Ray may have ended first
            for actor in self._actors:
                ray.kill(actor)
        _ray.leave()


class _WorkerActor:
    """Holds a worker in a process of its own."""

    def __init__(self, make: Callable[[], Worker], on_gpu: bool):
        if on_gpu:
            require_gpu()
        self._worker = make()

    async def ready(self) -> None:
        """Answer once the worker is made."""

    async def work(self, chunk: Chunk) -> Chunk:
        """Work on a chunk."""
        return await self._worker(chunk)


def _get(answer: Callable[[], Any]) -> Any:
    """Return what actors answer, or raise in one line what ended them."""
    try:
        return answer()
    except Exception as error:
        if user_error := connection.user_error_in(error):
            raise user_error from None
        if death := connection.death_in(error):
            raise UserError(f"{death}; then open the tagger again") from None
        raise


class _SharedRay:
    """Connects to Ray for the first worker, and ends a Ray that was started here after the last."""

    def __init__(self) -> None:
        self._stack, self._users, self._lock = contextlib.ExitStack(), 0, threading.Lock()

    def enter(self) -> None:
        """Connect, unless another worker has."""
        with self._lock:
            if not (self._users and ray.is_initialized()):
                self._stack.enter_context(connection.connected())
            self._users += 1

    def leave(self) -> None:
        """Disconnect, where no other worker is left and Ray was started here."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stack.close()


_ray = _SharedRay()


def has_gpus() -> bool:
    """Tell whether the cluster of RAY_ADDRESS or of this process's connection has GPUs, or can start them."""
    _ray.enter()
    try:
        return bool(gpu_nodes() or any(node.resources.get("GPU") for node in node_types() or ()))
    finally:
        _ray.leave()
