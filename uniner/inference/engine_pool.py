"""The actor pool of a worker that holds an engine, and how many chunks and questions are in its hands."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uniner.config import base, schema
    from uniner.runtime.chunk_actor import Worker
    from uniner.runtime.chunk_pipeline import Pool

# Of tiny chunks, such as a test's: each one in an actor's hands is read, and is lost with the actor.
_MOST_IN_FLIGHT = 64


def engine_pool(
    section: "schema.EngineSection", make_worker: "Callable[[], Worker]", chunk_questions: float
) -> "Pool":
    """Return the actor pool of a worker that holds an engine, as the config section describes it.

    chunk_questions: the mean number of questions of a chunk.
    """
    from uniner.runtime.chunk_pipeline import Pool

    return Pool(
        make_worker=make_worker,
        actors=section.actors,
        min_actors=section.min_actors,
        cpus=section.cpus,
        gpus=section.gpus,
        chunks_in_flight=chunks_in_flight(section, chunk_questions),
        max_chunk_crashes=section.max_chunk_crashes,
    )


def chunks_in_flight(section: "base.Serving", chunk_questions: float) -> int:
    """Return how many chunks an actor works on at once, so that its engine never waits for one that ends.

    While the last answers of a chunk come and it is written, the questions of the others fill the engine. It
    takes a chunk's questions in order, so with large chunks two are enough: one ends, the other goes on.
    """
    if section.chunks_in_flight is not None:
        return section.chunks_in_flight
    return min(_MOST_IN_FLIGHT, 1 + math.ceil(engine_slots(section.max_num_seqs) / max(1.0, chunk_questions)))


def engine_slots(max_num_seqs: int) -> int:
    """Return how many questions an engine is given at once.

    A quarter more than it decodes: it never waits for questions, and few enough passages are in progress that
    the cache still holds their prefixes when their last questions run.
    """
    return max_num_seqs + max(1, max_num_seqs // 4)
