"""What tests of the annotator share: a teacher's settings, and actors that annotate texts with them."""

import asyncio

import pytest

from uniner.annotate.annotator import Annotator
from uniner.records import PASSAGE, Annotation, Passage, from_table, to_table
from uniner.runtime.rate_limits import Limits, Meter, local
from uniner.storage.stage_folder import Chunk
from uniner.teacher.openai_client import Teacher
from uniner.teacher.prompts import published
from uniner.teacher.replies import Replies
from uniner.teacher.reply_cache import ReplyCache


@pytest.fixture
def teacher():
    """Return a function that makes the settings of a teacher that a server (or its address) serves."""

    def make(server, **changes):
        settings = {
            "model": "m", "base_url": getattr(server, "base_url", server), "prompt": published("type"),
            "reply_format": "tuples", "temperature": 0.0, "max_reply_tokens": 50, "in_flight": 32,
            "timeout_s": 1.0, "retries": 12, "usd_per_million_in": 1.0, "usd_per_million_out": 1.0,
        }  # fmt: skip
        return Teacher(**{**settings, **changes})

    return make


def chunks_of(texts, rows):
    """Passages of these texts, so many a chunk."""
    chunks = []
    for start in range(0, len(texts), rows):
        some = enumerate(texts[start : start + rows], start)
        passages = [
            Passage(
                passage_id=f"p{n}",
                doc_id=f"d{n}",
                passage_index=0,
                char_start=0,
                char_end=len(text),
                text=text,
                n_tokens=3,
                source="",
            )
            for n, text in some
        ]
        chunks.append(Chunk(f"{start:05d}", to_table(passages, PASSAGE)))
    return chunks


@pytest.fixture
def annotate():
    """Return a function that annotates texts as a cluster would: actors that share a meter and a cache."""

    def run(settings, texts, limits=None, actors=1, chunk_rows=50, cache=None, run="run", rejected=None):
        """Return the rows, in order, and each chunk's figures."""

        async def work_on(worker, chunks):
            return [await worker(chunk) for chunk in chunks]

        async def work():
            scope = settings.request("")
            index = ReplyCache(cache, scope).read_index(run) if cache else None
            ask = local(Meter(limits or Limits()))

            def worker():
                kept = cache and ReplyCache(cache, scope, index)
                return Annotator(Replies(settings, "key", ask, kept, run, rejected=rejected))

            workers = [worker() for _ in range(actors)]
            chunks = chunks_of(texts, chunk_rows)
            try:
                done = await asyncio.gather(*(work_on(w, chunks[n::actors]) for n, w in enumerate(workers)))
            finally:
                await asyncio.gather(*(worker.close() for worker in workers))
            return sorted((chunk for some in done for chunk in some), key=lambda chunk: chunk.key)

        done = asyncio.run(work())
        return [row for c in done for row in from_table(c.table, Annotation)], [c.figures for c in done]

    return run
