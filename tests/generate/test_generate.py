"""The teacher writes passages by briefs: each another one, the same again by the seed, paid for once."""

import asyncio
import re
from collections import Counter

import pytest
from aiohttp import web

from uniner import cli
from uniner.annotate import stage as annotate
from uniner.config.loader import load
from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.generate.briefs import ASPECTS, PROMPT, Briefs
from uniner.generate.generator import Generator, judge
from uniner.generate.stage import _by_domain
from uniner.ingest.stage import _recipe
from uniner.records import GeneratedPassage, from_table
from uniner.storage.stage_folder import StageFolder, Summary
from uniner.teacher.openai_client import Teacher
from uniner.teacher.replay_server import RecordedTeacher
from uniner.teacher.replies import Replies
from uniner.teacher.reply_cache import ReplyCache

DOMAINS = {"contract law": 30, "beekeeping": 25}


class Author(RecordedTeacher):
    """Writes a passage by its brief; `fates` are other replies, by domain and number, each to (finish, text).

    After `free` requests the key is refused. `briefs` counts what was answered.
    """

    def __init__(self, fates=None, free=10**9):
        super().__init__({})
        self.fates, self.free, self.briefs, self.bodies = fates or {}, free, Counter(), []

    async def _complete(self, request):
        self.asked += 1
        if self.asked > self.free:
            return web.json_response({"error": {"message": "no"}}, status=401)
        body = await request.json()
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        brief = prompt[prompt.index("Domain: ") :]
        self.briefs[brief] += 1
        domain = re.search("Domain: (.*)", brief)[1]
        number = int(re.search("Brief number: (.*)", brief)[1])
        written = f"  In {domain}, Ann Smith met {number} people of Acme in Bonn on that day.\n"
        finish, text = self.fates.get((domain, number), ("stop", written))
        if finish == "rejected":
            return web.json_response({"error": {"message": text}}, status=400)
        completion = self._completion(body["model"], prompt, text)
        completion["choices"][0]["finish_reason"] = finish
        return web.json_response(completion)


def briefs(**changes):
    made = {"domains": DOMAINS, "seed": 0, "words": 100, "aspects": ASPECTS, "chunk_passages": 8}
    return Briefs(**{**made, **changes})


def texts(of):
    return {brief.text: brief.source for key in of.chunks() for brief in of.of(key)}


def generate(author, of, cache, run="run"):
    """Have all chunks written as an actor would. Returns the passages and the figures of each chunk."""
    teacher = Teacher("m", author.base_url, PROMPT, "tuples", 1.0, 500, 4, 5.0, 2, 1.0, 2.0)

    async def work():
        worker = Generator(Replies(teacher, "key", None, ReplyCache(cache, teacher.request("")), run))
        return [await worker(chunk) for key in of.chunks() for chunk in of.read(key)]

    done = asyncio.run(work())
    return [row for chunk in done for row in from_table(chunk.table, GeneratedPassage)], [
        chunk.figures for chunk in done
    ]


def test_a_brief_that_kills_a_served_teacher_keeps_its_place_and_says_why():
    (chunk,) = briefs().read(next(iter(briefs().chunks())))
    teacher = Teacher("m", "http://nowhere", PROMPT, "tuples", 1.0, 500, 4, 5.0, 2, 1.0, 2.0)
    done = Generator(Replies(teacher, "key")).set_aside(chunk, "the reason")
    rows = from_table(done.table, GeneratedPassage)
    assert len(rows) == chunk.table.num_rows
    assert {(row.outcome, row.reply, row.text) for row in rows} == {("poison", "the reason", "")}


def test_briefs_are_all_different_and_come_again_by_the_seed():
    whole = texts(briefs())
    assert Counter(whole.values()) == {"generated:contract law": 30, "generated:beekeeping": 25}
    assert texts(briefs()) == whole
    assert not texts(briefs(seed=1)).keys() & whole.keys()
    more = texts(briefs(domains={"aviation": 3, "contract law": 40, "beekeeping": 25}, chunk_passages=7))
    assert whole.items() <= more.items(), "what was paid for is of use to a larger run"
    assert len(more) == 3 + 40 + 25
    without_number = Counter(re.sub("Brief number: .*", "", text) for text in whole)
    assert max(without_number.values()) == 1, "they differ in what they ask for, not in the number alone"
    for name, values in ASPECTS.items():
        drawn = {re.search(f"{name}: (.*)", text)[1] for text in texts(briefs(domains={"law": 300}))}
        assert drawn == set(values)
    lengths = [int(re.search(r"about (\d+) words", text)[1]) for text in whole]
    assert 50 <= min(lengths) < 65 < 135 < max(lengths) <= 150
    own = texts(briefs(aspects={"Kind of text": ["court ruling"]}))
    assert all("Kind of text: court ruling" in text and "Place" not in text for text in own)


def test_a_bad_reply_is_an_outcome_and_no_passage(tmp_path):
    sorry = "I'm sorry, but I cannot write that."
    fates = {
        ("contract law", 2): ("length", "In the year"),
        ("contract law", 3): ("stop", sorry),
        ("contract law", 4): ("content_filter", "In the"),
        ("contract law", 5): ("rejected", "not this one"),
        ("contract law", 6): ("stop", "<think>A passage. How?</think>\n "),
        ("contract law", 7): ("stop", "<think>A passage. How?</think>\nThe court of Bonn."),
    }
    with Author(fates) as author:
        rows, figures = generate(author, briefs(domains={"contract law": 8}), StageFolder(str(tmp_path)))
    found = {int(row.doc_id[-7:]): (row.outcome, row.text, row.reply) for row in rows}
    written = "In contract law, Ann Smith met {} people of Acme in Bonn on that day."
    assert found[1] == ("ok", written.format(1), f"  {written.format(1)}\n")
    assert found[2] == ("too_long", "", "In the year")
    assert found[3] == ("refused", "", sorry)
    assert found[4][:2] == ("filtered", "")
    assert found[5][:2] == ("rejected", "")
    assert "not this one" in found[5][2]
    assert found[6][:2] == ("empty", "")
    assert found[7][:2] == ("ok", "The court of Bonn.")
    assert {row.source for row in rows} == {"generated:contract law"}
    assert sum(row.cost_usd for row in rows) == pytest.approx(figures[0]["cost_usd"]) != 0
    long_letter = "I am sorry to tell you that the hive is lost. " * 9
    assert judge(long_letter, "stop", "", 100) == ("ok", long_letter.strip())
    assert judge("Text.", "stop", "No.", 100) == ("refused", "")


def test_what_was_written_before_the_stage_broke_off_is_not_paid_for_again(tmp_path):
    of, cache = briefs(), StageFolder(str(tmp_path))
    with Author(free=20) as author, pytest.raises(ExceptionGroup):
        generate(author, of, cache)
    with Author() as again:
        rows, figures = generate(again, of, cache)
        assert author.briefs + again.briefs == Counter(dict.fromkeys(texts(of), 1))
        assert len(author.briefs) == 20
        assert sum(figure["requests"] for figure in figures) == len(rows) == 55, "paid for by the same run"
        # Temperature 1 would write something else: only what is kept can come again.
        assert generate(again, of, cache, "other")[0] == rows
        assert again.asked == 35


@pytest.fixture
def config(tmp_path, base, write_shard):
    rows = [{"text": f"Bob {n} lives in Rome.", "name": f"bob-{n}"} for n in range(40)]
    path = tmp_path / "config.toml"
    path.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n'
        '[generate]\ndomains = {"contract law" = 30, beekeeping = 25}\nchunk_passages = 25\n'
        "max_reply_tokens = 40\n"  # a request holds little of the budget
        f'[ingest]\nshards = ["{write_shard(tmp_path / "0.jsonl.zst", rows)}"]\nid_field = "name"\n'
        "sample = 0.5\ndedupe = true\nmax_reject_share = 0.05\n"
        "[annotate]\nin_flight = 4\nusd_per_million_in = 500\nusd_per_million_out = 1500\n"
    )
    return path


@pytest.mark.ray
def test_generated_passages_go_through_ingest_like_all_others(
    config, tmp_path, ray_session, capsys, monkeypatch
):
    fates = {
        ("contract law", 3): ("length", "It breaks off"),
        ("beekeeping", 5): ("stop", "The same hive. "),
        ("beekeeping", 6): ("stop", " The same hive."),
        ("beekeeping", 7): ("stop", "One bad\x00character."),
    }
    folder = StageFolder(str(tmp_path / "runs/a/generate"))
    with Author(fates) as author:
        words = [str(config), f"annotate.base_url={author.base_url}"]
        assert cli.run(["generate", "ingest"], [*words, "annotate.budget_usd=2.5"]) == 3
        assert "annotate.budget_usd is 2.5: raise it" in capsys.readouterr().err
        assert 0 < author.asked < 55
        assert folder.manifest() is None
        for _ in range(2):  # the second time there is nothing to do
            assert cli.run(["generate", "ingest"], words) == 0
            assert author.briefs == Counter(dict.fromkeys(texts(briefs(words=150)), 1)), "none is paid twice"
        assert {body["temperature"] for body in author.bodies} == {1.0}
    manifest = folder.require_manifest()
    assert manifest["domains"] == {"beekeeping": {"ok": 25}, "contract law": {"ok": 29, "too_long": 1}}
    assert manifest["figures"]["requests"] == 55
    assert manifest["figures"]["cost_usd"] > 2.5
    # The budget is the whole run's: what generating took is not there for annotating.
    spent = []

    def note(*given):
        spent.append(given[-1])
        raise UserError("noted")

    monkeypatch.setattr(annotate, "pool", note)
    with pytest.raises(UserError, match="noted"):
        annotate.run(load(words))
    assert spent == [manifest["figures"]["cost_usd"]]
    ingest = StageFolder(str(tmp_path / "runs/a/ingest"))
    written = {row["doc_id"]: row for row in folder.read_rows().to_pylist() if row["outcome"] == "ok"}
    rows = ingest.read_rows().to_pylist()
    sources = Counter(row["source"] for row in rows)
    assert 5 < sources.pop("") < 35, "the sample is of the shards; what was paid for is all taken"
    assert sources == {"generated:contract law": 29, "generated:beekeeping": 25 - 2}
    found = {row["doc_id"]: (row["text"], row["source"]) for row in rows if row["source"]}
    assert all((written[name]["text"], written[name]["source"]) == row for name, row in found.items())
    figures = ingest.require_manifest()["figures"]
    assert (figures["dropped_duplicate"], figures["rejected_nul_character"]) == (1, 1)
    assert figures["lines"] == 40 + 54
    # Asking for another number is refused before anything is spent: ingest has read this one.
    assert cli.run(["ingest"], [*words, "generate.domains.beekeeping=26"]) == 2
    assert "generated.beekeeping was 25, now 26" in capsys.readouterr().err
    assert cli.run(["generate"], [*words, "run.name=none", "generate.domains={}"]) == 0
    assert "generate: skipped, generate.domains names no domain" in capsys.readouterr().err


def test_the_plan_and_what_is_wrong_is_told_before_ray_starts(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    (tmp_path / "own.txt").write_text("System: You write.\n\nWrite in Latin.\n\n{brief}\n")
    (tmp_path / "wrong.txt").write_text("Write in Latin.\n")
    words = [str(config), "annotate.base_url=http://127.0.0.1:9/v1"]
    own = f"generate.prompt={tmp_path}/own.txt"
    assert cli.run(["generate", "ingest", "annotate"], [*words, own, "annotate.plan=true"]) == 0
    told = capsys.readouterr().out
    assert "55 to ask of 55 (0 done, 0 in the cache)" in told
    assert "and 2,200 out" in told  # 55 passages of 150 words, but of at most 40 tokens
    assert "  system: You write.\n  user: Write in Latin.\n\nDomain: beekeeping\n" in told
    assert StageFolder(str(tmp_path / "runs")).tree() == []
    for name, word, message in (
        ("generate", f"generate.prompt={tmp_path}/wrong.txt", "has no {brief}"),
        ("generate", "annotate.recording=x.jsonl", "annotate.recording has no passages to give"),
        ("generate", "generate.domains.bees=0", "generate.domains.bees = 0"),
        ("generate", "generate.aspects={Tone = []}", "generate.aspects.Tone = []"),
        ("ingest", "generate.domains={}", "ingest.shards: names no file"),
    ):
        assert cli.run([name], [*words, "ingest.shards=[]", word]) == 2
        assert message in capsys.readouterr().err


def test_a_domain_of_which_nothing_came_fails_the_stage():
    of = briefs(domains={"a": 8, "b": 90})
    summaries = [Summary(key, rows, 0, 0.0, {"ok": rows}) for key, rows in of.chunks().items()]
    assert _by_domain(of, StageFolder("x"), summaries) == {"domains": {"a": {"ok": 8}, "b": {"ok": 90}}}
    summaries[0] = Summary("000-00000", 8, 0, 0.0, {"refused": 8})
    with pytest.raises(UserError, match=r"no passage of the domain 'a' came \(8 refused\)"):
        _by_domain(of, StageFolder("x"), summaries)


def test_another_share_of_a_generated_source_is_taken_where_it_is_asked_for():
    ingest = {"sample": 0.1, "sample_of_source": {"generated:bees": 0.3, "Pile-CC": 0}}
    tree = {"run": {"name": "a"}, "student": {"base": "b"}, "ingest": ingest}
    config = Config.model_validate({**tree, "generate": {"domains": {"bees": 5, "law": 5}}})
    shares = _recipe(config, digests=False).sampling.of_source
    assert shares == {"generated:bees": 0.3, "generated:law": 1.0, "Pile-CC": 0}
