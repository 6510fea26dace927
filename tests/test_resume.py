"""The driver is killed with SIGKILL in the middle of a stage; the same command goes on.

What comes out equals an undisturbed run's, row for row (times and attempts aside), and no finished chunk is
done twice.
"""

import json
import shutil
import signal
from collections import Counter

import pytest

from uniner.evaluate.systems.instructions import INSTRUCTIONS
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.prompts import passage_in
from uniner.teacher.replay_server import ReplayServer

pytestmark = pytest.mark.ray


class GatedTeacher(ReplayServer):
    """Answers some requests at once and the others only once the gate is open; counts each passage's."""

    def __init__(self, replies, free):
        super().__init__(replies)
        self.free, self.gate, self.passages = free, None, Counter()

    async def _complete(self, request):
        import asyncio

        passage = passage_in((await request.json())["messages"][-1]["content"])
        self.passages[passage] += 1
        if self.gate is None:
            self.gate = asyncio.Event()
        if sum(self.passages.values()) > self.free:
            await self.gate.wait()
        return await super()._complete(request)

    def open(self):
        self.free = 10**9
        self._loop.call_soon_threadsafe(self.gate.set)


@pytest.fixture(scope="module")
def config(tmp_path_factory, base):
    import zstandard

    folder = tmp_path_factory.mktemp("resume")
    for shard in range(2):
        rows = [
            {"text": f"Ann {n} of shard {shard} met Bob {n * 7} in Bonn.", "meta": {}} for n in range(200)
        ]
        data = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{shard}.jsonl.zst").write_bytes(zstandard.compress(data.encode()))
    path = folder / "config.toml"
    path.write_text(
        f'[run]\nroot = "{folder}/runs"\nname = "killed"\n[student]\nbase = "{base}"\nmax_tokens = 256\n'
        f'[ingest]\nshards = ["{folder}/*.jsonl.zst"]\nchunk_passages = 4\n'
        "[teacher]\nin_flight = 8\n"
        '[engine]\ndtype = "float32"\ngpus = 0\nblock_size = 32\nmax_num_seqs = 64\nmax_answer_tokens = 8\n'
        "chunks_in_flight = 1\nmax_bad_share = 1.0\n"
        '[tag]\ntypes = ["person", "city"]\n'
    )
    return path


def runs(config):
    return config.parent / "runs"


def rows_of(folder, without=()):
    table = StageFolder(str(folder)).read_rows()
    return table.drop_columns([name for name in without if name in table.schema.names]).to_pylist()


def kill_after(process, folder, chunks, wait_until):
    """Kill the driver once this many chunks exist. Returns their files with the times of change."""
    wait_until(lambda: process.poll() is not None or len(list(folder.glob("chunk-*.parquet"))) >= chunks, 240)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "manifest.json").exists(), "killed too late: the stage was done"
    return {path: path.stat().st_mtime_ns for path in folder.glob("chunk-*.parquet")}


def require_untouched(existing):
    assert existing
    assert {path: path.stat().st_mtime_ns for path in existing} == existing, "a finished chunk was done twice"


@pytest.fixture(scope="module")
def ingested(config, run_here):
    """The run that is killed and an undisturbed one, both ingested."""
    code, output = run_here("ingest", config, "run.name=whole")
    assert code == 0, output
    return config


def test_ingest(ingested, job, run_job, wait_until, run_here):
    folder = runs(ingested) / "killed" / "ingest"
    existing = kill_after(job("ingest", ingested), folder, 5, wait_until)
    code, output = run_job("ingest", ingested)
    assert code == 0, output
    require_untouched(existing)
    assert rows_of(folder) == rows_of(runs(ingested) / "whole" / "ingest")
    assert len(rows_of(folder)) == 400
    code, output = run_here("ingest", ingested)
    assert (code, "already done" in output) == (0, True)


def test_annotate(ingested, job, run_here, wait_until):
    texts = [row["text"] for row in rows_of(runs(ingested) / "whole" / "ingest")]
    replies = {text: f'[("{text[:5]}", "person"), ("Bonn", "city")]' for text in texts}
    for name in ("whole", "killed"):
        if not (runs(ingested) / name / "ingest" / "manifest.json").exists():
            shutil.copytree(runs(ingested) / "whole" / "ingest", runs(ingested) / name / "ingest")
    with ReplayServer(replies) as teacher:
        code, output = run_here(
            "annotate", ingested, "run.name=whole", f"teacher.base_url={teacher.base_url}"
        )
        assert code == 0, output
    folder = runs(ingested) / "killed" / "annotate"
    with GatedTeacher(replies, free=200) as teacher:
        # A cache of its own: in the other run's, all replies are.
        words = [f"teacher.base_url={teacher.base_url}", f"teacher.cache={runs(ingested)}/cache-of-killed"]
        existing = kill_after(job("annotate", ingested, *words), folder, 20, wait_until)
        teacher.open()
        finished = {row["text"] for path in existing for row in read(path)}
        code, output = run_here("annotate", ingested, *words)
        assert code == 0, output
        require_untouched(existing)
        assert {teacher.passages[text] for text in finished} == {1}, "a finished chunk was paid for twice"
        again = sum(count - 1 for count in teacher.passages.values())
        assert again <= 2 * 4, "more than an actor's two chunks in flight was asked for again"
    aside = ("attempts",)
    assert rows_of(folder, aside) == rows_of(runs(ingested) / "whole" / "annotate", aside)


def test_evaluate(config, job, run_here, wait_until):
    """A chat model's questions are paid for, so they are counted; vLLM's are cut and kept the same way."""
    texts = [f"Ann {number} met Bob in Bonn." for number in range(200)]
    gold = config.parent / "gold.jsonl"
    person = {"start": 0, "end": 3, "text": "Ann", "type": "person"}
    gold.write_text("".join(json.dumps({"text": text, "entities": [person]}) + "\n" for text in texts))
    asked = {text: INSTRUCTIONS["published"].text(text, ["person"]) for text in texts}
    replies = dict.fromkeys(asked.values(), "person: Ann")
    words = [config, "run.name=evaluated", f'evaluate.gold={{ones = "{gold}"}}', "evaluate.chunk_passages=4"]
    words.append('evaluate.systems=["chatty"]')
    folder = runs(config) / "evaluated" / "evaluate" / "chatty"
    with GatedTeacher(replies, free=100) as server:
        teacher = f'{{model = "m", base_url = "{server.base_url}", in_flight = 8}}'
        words.append(f'evaluate.system.chatty={{kind = "chat", teacher = {teacher}}}')
        existing = kill_after(job("evaluate", *words), folder, 10, wait_until)
        server.open()
        finished = {row["text"] for path in existing for row in read(path)}
        code, output = run_here("evaluate", *words)
        assert code == 0, output
        require_untouched(existing)
        counts = {text: server.passages[asked[text]] for text in texts}
    assert {counts[text] for text in finished} == {1}, "a finished chunk was paid for twice"
    assert min(counts.values()) == 1 and sum(counts.values()) - len(texts) <= 2 * 4
    assert sorted(row["text"] for row in rows_of(folder)) == sorted(texts)
    scores = json.loads((folder.parent / "manifest.json").read_text())["results"]["scores"]["chatty"]["ones"]
    assert (scores["questions"], scores["f1"]) == (200, 1)


def read(path):
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tag(ingested, base, job, run_here, wait_until):
    student = ingested.parent / "student"
    if not student.exists():
        shutil.copytree(base, student)
        facts = {"template": "type", "max_tokens": 256, "base": "base", "types": ["person", "city"]}
        (student / "uniner.json").write_text(json.dumps(facts))
    for name in ("tagged-whole", "tagged-killed"):
        shutil.copytree(runs(ingested) / "whole" / "ingest", runs(ingested) / name / "ingest")
    words = [ingested, f"tag.student={student}"]
    code, output = run_here("tag", *words, "run.name=tagged-whole")
    assert code == 0, output
    folder = runs(ingested) / "tagged-killed" / "tag"
    existing = kill_after(job("tag", *words, "run.name=tagged-killed"), folder, 3, wait_until)
    code, output = run_here("tag", *words, "run.name=tagged-killed")
    assert code == 0, output
    require_untouched(existing)
    tagged, whole = rows_of(folder), rows_of(runs(ingested) / "tagged-whole" / "tag")
    assert tagged == whole
    assert len({row["passage_id"] for row in tagged}) == len(tagged) == 400
