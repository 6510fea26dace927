"""Run a function on every machine of the cluster."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Value = TypeVar("Value")
_PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class NodeAnswer(Generic[Value]):
    """A machine's answer: the function's value, or why there is none.

    machine: its host name and address. before, moment, after: the machine's clock (seconds since 1970)
    between two readings of this machine's clock; all 0 without a value.
    """

    machine: str
    value: Value | None = None
    error: str = ""
    before: float = 0.0
    moment: float = 0.0
    after: float = 0.0


def on_every_node(function: Callable[[], Value], patience_s: float = _PATIENCE_S) -> list[NodeAnswer[Value]]:
    """Call a function once on every machine of the cluster that this process is connected to.

    It takes no CPU, so that it also runs on a head that does no work, and starts no machine. patience_s: for
    all answers together.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    tasks = [_task(node, function) for node in nodes]
    ray.wait(tasks, num_returns=len(tasks), timeout=patience_s)
    return [_answer(node, task) for node, task in zip(nodes, tasks, strict=True)]


def _task(node: Any, function: Callable[[], Any]) -> Any:
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(_call)
    return remote.options(scheduling_strategy=here).remote(function)


def _call(function: Callable[[], Any]) -> Any:
    return function()


def _now() -> float:
    return time.time()


def _answer(node: Any, task: Any) -> NodeAnswer[Any]:
    machine = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    try:
        value = ray.get(task, timeout=0)
        # Only now: the first task waited for a process to start.
        before = time.time()
        moment = ray.get(_task(node, _now), timeout=_PATIENCE_S)
        return NodeAnswer(machine=machine, value=value, before=before, moment=moment, after=time.time())
    except exceptions.GetTimeoutError:
        return NodeAnswer(machine=machine, error="does not answer")
    except exceptions.RayError as error:
        cause = error.cause if isinstance(error, exceptions.RayTaskError) else error
        return NodeAnswer(
            machine=machine, error=f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
        )
