"""What annotate spends and keeps when the teacher fails for a while, or a driver is killed or stopped."""

import asyncio
import json
import re
import signal
from collections import Counter

import pytest
from aiohttp import web

from uniner import cli
from uniner.runtime import cluster_meter
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.prompts import PROBE, passage_in
from uniner.teacher.replay_server import ReplayServer

TEXTS = [f"Ann {n} met Bob in Bonn" + " again" * (n % 9) for n in range(96)]
REPLIES = {text: f'[("{text[:5]}", "person"), ("Bonn", "city")]' for text in TEXTS}
PRICES = ["teacher.usd_per_million_in=500", "teacher.usd_per_million_out=1500"]

pytestmark = pytest.mark.ray


class CountingServer(ReplayServer):
    """Bills each request that it takes. Passages in `dead` meet a dead backend. After `free` requests
    others wait for `release`."""

    def __init__(self, dead=()):
        super().__init__(REPLIES)
        self.dead, self.free, self.bills, self.gate = set(dead), 10**9, [], asyncio.Event()
        self.pause_s = 0

    async def _complete(self, request):
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        if self.pause_s:
            wait, self.pause_s = {"Retry-After": str(self.pause_s)}, 0
            return web.json_response({}, status=429, headers=wait)
        if passage_in(prompt) in self.dead:
            return web.json_response({"error": {"message": "backend is gone"}}, status=503)
        usage = self._completion("m", prompt, self._replies.get(passage_in(prompt), "Yes"))["usage"]
        usd = (usage["prompt_tokens"] * 500 + usage["completion_tokens"] * 1500) / 1e6
        self.bills.append((passage_in(prompt), usd))
        if len(self.bills) > self.free and prompt != PROBE:
            await self.gate.wait()
        return await super()._complete(request)

    def billed(self):
        return sum(usd for _, usd in self.bills)

    def asked_about(self):
        return Counter(text for text, _ in self.bills if text in REPLIES)

    def release(self):
        self.free = 10**9
        self._loop.call_soon_threadsafe(self.gate.set)

    def __exit__(self, *error):
        self.release()
        super().__exit__(*error)


@pytest.fixture
def config(tmp_path, annotate_config, write_passages):
    write_passages(StageFolder(f"{tmp_path}/runs/a/ingest"), TEXTS, 12)
    return annotate_config


def test_rows_that_met_a_dead_backend_are_asked_again(config, tmp_path, ray_session, capsys, monkeypatch):
    monkeypatch.setattr(cluster_meter, "_LONG_PAUSE_S", 1.0)
    folder = StageFolder(f"{tmp_path}/runs/a/annotate")
    dead = {TEXTS[3], TEXTS[40]}

    def annotate(*words, **options):
        words = [str(config), f"teacher.base_url={server.base_url}", "teacher.retries=1", *words]
        code = cli.run(["annotate"], words, **options)
        return code, capsys.readouterr().err

    def outcomes():
        return Counter(folder.read_rows().column("outcome").to_pylist())

    with CountingServer(dead) as server:
        server.pause_s = 3
        code, said = annotate("annotate.max_bad_share=0")
        assert (code, "2 failed" in said) == (1, True)
        pause = r"annotate: teacher gpt-3\.5-turbo asks to wait [23] s, until [\d:]{8} \(Retry-After\)"
        assert re.search(pause, said), "a long pause is said"
        server.dead = {TEXTS[40]}
        # The stage is not complete: the same command asks again, and pays for nothing that it has.
        code, said = annotate("annotate.max_bad_share=0.5")
        assert code == 0
        assert "1 failed for a reason that may pass, and uniner annotate CONFIG --retry-failed asks" in said
        assert outcomes() == {"ok": len(TEXTS) - 1, "failed": 1}
        server.dead = set()
        code, said = annotate()
        assert (code, "already done" in said, "1 failed for a reason that may pass" in said) == (
            0,
            True,
            True,
        )
        assert server.asked_about()[TEXTS[40]] == 0
        files = {name: folder.read(name) for name in folder.tree() if name.startswith("chunk-")}
        code, said = annotate(retry_failed=True)
        assert (code, "asks again about 1 failed rows" in said, "--retry-failed" in said) == (0, True, False)
        assert outcomes() == {"ok": len(TEXTS)}
        changed = [name for name, data in files.items() if folder.read(name) != data]
        assert len(changed) == 1, "only the chunk with the failed row is made anew"
        code, said = annotate(retry_failed=True)
        assert (code, "already done" in said) == (0, True)
        assert server.asked_about() == Counter(dict.fromkeys(TEXTS, 1)), "nothing is paid for twice"


@pytest.mark.slow
def test_killed_and_stopped_the_run_knows_what_it_spent(config, tmp_path, job, run_here, wait_until):
    """A driver is killed with requests at the server, the next is stopped and waits for its requests, and the
    third finishes. By the server's count the budget holds, and only what was in flight at the kill is paid
    for twice."""
    folder = tmp_path / "runs/a/annotate"

    def spending():
        return json.loads((folder / "spending.json").read_text())

    with CountingServer() as server:
        words = [config, f"teacher.base_url={server.base_url}", *PRICES, "run.budget_usd=40"]
        server.free = 30
        killed = job("annotate", *words)
        wait_until(lambda: len(server.bills) == 30 + 6, 120)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert spending()["exact"] is False
        assert server.billed() <= spending()["spent_usd"]
        in_flight = {text for text, _ in server.bills[30:]}
        before, after_kill = len(server.bills), spending()["spent_usd"]

        server.free = before + 20
        stopped = job("annotate", *words)
        wait_until(lambda: len(server.bills) == before + 26, 120)
        stopped.send_signal(signal.SIGTERM)
        said = []
        for line in stopped.stdout:
            said.append(line)
            if re.search(r"waiting up to 30 s for \d+ requests in flight; press Ctrl-C again", line):
                server.release()
        assert stopped.wait(60) == 3, "".join(said)
        assert "stopped by SIGTERM; the same command goes on" in "".join(said)
        assert len(server.bills) == before + 26, "no request is sent any more"
        second = sum(usd for _, usd in server.bills[before:])
        assert spending()["spent_usd"] == pytest.approx(after_kill + second)
        assert spending()["exact"] is True

        code, output = run_here("annotate", *words)
        assert code == 0, output
        asked = server.asked_about()
        assert set(asked) == set(TEXTS)
        twice = {text for text, count in asked.items() if count > 1}
        # The last second's replies may not have been written when the driver was killed.
        assert in_flight <= twice and len(twice) <= 30 + 6 and max(asked.values()) == 2
        figures = StageFolder(str(folder)).require_manifest().figures
        assert figures["cost_usd"] == pytest.approx(spending()["spent_usd"])
        assert server.billed() <= figures["cost_usd"] <= 40
        assert figures["cost_usd"] - figures["unanswered_usd"] == pytest.approx(
            sum(StageFolder(str(folder)).read_rows().column("cost_usd").to_pylist())
        )
        assert f"of which {figures['unanswered_usd']:.2g} USD for requests without a reply" in output
