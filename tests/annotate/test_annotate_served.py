"""A teacher that the annotate actors serve themselves: the real vLLM on CPU, started once for this file."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from uniner import cli
from uniner.annotate.annotator import Annotator
from uniner.errors import Stopped, UserError
from uniner.inference.engine import Engine, EngineSettings
from uniner.records import PASSAGE, Annotation, Passage, from_table, to_table
from uniner.runtime.rate_limits import Limits, Meter, local
from uniner.storage.model_folders import model_fingerprint
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.teacher.openai_client import Teacher
from uniner.teacher.prompts import SYSTEM, published
from uniner.teacher.replies import Replies
from uniner.teacher.reply_cache import ReplyCache
from uniner.teacher.vllm_client import engine_of

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
PLACES = ["Ülm", "Łódź", "Rome", "York", "Ghent"]
TEXTS = [f"Ann {n} met Bob in Bonn, {place}." for n, place in enumerate(PLACES)]
TOO_LONG = "Ann met Bob. " * 100
ALL = [*TEXTS, TOO_LONG, TEXTS[0]]
REPLY_TOKENS = 40
ENGINE = {"dtype": "float32", "gpus": 0, "block_size": 32, "max_num_seqs": 16, "max_num_batched_tokens": 2048}


@pytest.fixture(scope="module")
def model(make_tokenizer, make_llama, tmp_path_factory):
    """A folder with a tiny random Llama whose tokenizer has a chat template."""
    import torch

    texts = [SYSTEM, published("type").user, *TEXTS]
    tokenizer = make_tokenizer(texts, 500, ("<|start|>", "<|end|>"), pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    # initializer_range: far apart enough that no two tokens are as good as equal
    llama = make_llama(tokenizer, seed=2, initializer_range=0.3)
    with torch.no_grad():
        llama.lm_head.weight[tokenizer.eos_token_id] *= 2  # some replies end by themselves, some are cut
    folder = tmp_path_factory.mktemp("teacher")
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def named(model):
    return f"{model.name}@{model_fingerprint(str(model))}"


def teacher_of(model, **changes):
    settings = {
        "model": named(model), "base_url": None, "prompt": published("type"), "reply_format": "tuples",
        "temperature": 0.0, "max_reply_tokens": REPLY_TOKENS, "in_flight": 1, "timeout_s": 1.0, "retries": 0,
        "usd_per_million_in": 1.0, "usd_per_million_out": 2.0,
    }  # fmt: skip
    return Teacher(**{**settings, **changes})


def serve(model, max_tokens=400, **changes):
    return engine_of(
        teacher_of(model, **changes), str(model), EngineSettings(**ENGINE, max_prompt_tokens=max_tokens)
    )


def chunk_of(texts):
    passages = [
        Passage(
            passage_id=f"p{n}",
            doc_id=f"d{n}",
            passage_index=0,
            char_start=0,
            char_end=len(text),
            text=text,
            n_tokens=9,
            source="",
        )
        for n, text in enumerate(texts)
    ]
    return Chunk("00000", to_table(passages, PASSAGE))


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def engine(model, loop):
    """The engine; the first test that asks it starts it."""
    engine = serve(model, reply_format="json_schema")
    yield engine
    loop.run_until_complete(engine.close())


@pytest.fixture(scope="module")
def expected(model):
    """What transformers' own greedy generation makes of the passages: (reply, tokens in, tokens out)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llama = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for text in TEXTS:
        messages = published("type").messages(text)
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        ids = asked.input_ids
        with torch.no_grad():
            out = llama.generate(ids, max_new_tokens=REPLY_TOKENS, do_sample=False)[0, ids.shape[1] :]
        said = tokenizer.decode(out, skip_special_tokens=True)
        found.append((said.strip(), ids.shape[1], len(out)))
    return found


@pytest.fixture(scope="module")
def kept(model, engine, loop, tmp_path_factory):
    """A cache that holds the replies to all passages, with the rows, figures and the engine's answers."""
    folder, teacher, seen = tmp_path_factory.mktemp("cache"), teacher_of(model), []
    ask = engine.ask

    async def watched(prompts, *how):
        answers = await ask(prompts, *how)
        seen.extend(answers)
        return answers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "ask", watched)
        cache = ReplyCache(StageFolder(str(folder)), teacher.request(""))
        annotator = Annotator(Replies(teacher, cache=cache, run="first", engine=engine))
        done = loop.run_until_complete(annotator(chunk_of(ALL)))
    return folder, from_table(done.table, Annotation), done.figures, seen


def test_replies_and_counts_are_those_of_greedy_generation_and_every_passage_has_an_outcome(kept, expected):
    _, rows, figures, seen = kept
    assert [row.text for row in rows] == ALL
    served = [row for row in rows if row.text != TOO_LONG]
    assert [(row.reply, row.tokens_in, row.tokens_out) for row in served] == [*expected, expected[0]]
    cut = [row.tokens_out == REPLY_TOKENS for row in served]
    assert True in cut
    assert False in cut
    assert [row.outcome == "too_long" for row in served] == cut
    overlong = rows[len(TEXTS)]
    assert (overlong.outcome, overlong.attempts, overlong.tokens_in) == ("rejected", 0, 0)
    assert "tokens, and 400 are allowed; it was not sent" in overlong.reply
    assert figures["requests"] == len(TEXTS) == len(seen), "what comes twice is asked once"
    tokens_in, tokens_out = (sum(counts) for counts in list(zip(*expected, strict=True))[1:])
    assert (figures["tokens_in"], figures["tokens_out"]) == (tokens_in, tokens_out)
    assert figures["cost_usd"] == pytest.approx((tokens_in + 2 * tokens_out) / 1e6)
    assert sum(answer.cached >= 32 for answer in seen) >= len(TEXTS) - 1, "the prompt's beginning is shared"


def test_a_json_schema_binds_the_reply(model, engine, loop):
    annotator = Annotator(Replies(teacher_of(model, reply_format="json_schema"), engine=engine))
    rows = from_table(loop.run_until_complete(annotator(chunk_of(TEXTS))).table, Annotation)
    assert {row.outcome for row in rows} <= {"ok", "too_long"}
    whole = [json.loads(row.reply) for row in rows if row.outcome == "ok"]
    assert whole
    assert all(list(said) == ["entities"] for said in whole)
    assert all(row.reply.startswith("{") for row in rows)


@pytest.fixture
def run(model, kept, tmp_path, base):
    """Return a function that runs the job on passages that stand as ingest leaves them."""
    config = tmp_path / "config.toml"
    engine = "".join(f"{name} = {json.dumps(value)}\n" for name, value in ENGINE.items())
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["x"]\n'
        f'[annotate]\nserved = true\nmodel = "{model}"\ncache = "{kept[0]}"\nmax_bad_share = 1.0\n'
        f"max_reply_tokens = {REPLY_TOKENS}\n[teacher]\nmax_prompt_tokens = 400\n{engine}"
    )
    folder = StageFolder(f"{tmp_path}/runs/a/ingest")
    folder.finish({"stage": "ingest", "config": {}, "parents": {}}, [folder.write_chunk(chunk_of(ALL))])
    return lambda *words: cli.run(["annotate"], [str(config), *words])


@pytest.mark.ray
def test_the_stage_makes_no_request_and_loads_no_model_where_all_replies_are_kept(
    run, kept, model, ray_session, tmp_path
):
    # No engine starts with such blocks.
    assert run("teacher.block_size=7") == 0
    folder = StageFolder(f"{tmp_path}/runs/a/annotate")
    rows, before = from_table(folder.read_rows(), Annotation), kept[1]
    assert [(row.text, row.outcome, row.reply) for row in rows] == [
        (row.text, row.outcome, row.reply) for row in before
    ]
    assert {(row.model, row.cost_usd) for row in rows} == {(named(model), 0.0)}
    figures = folder.require_manifest()["figures"]
    assert (figures["cache_hits"], figures["cache_misses"]) == (len(TEXTS), 1)
    assert (figures["requests"], figures["cost_usd"]) == (0, 0)
    assert folder.require_manifest()["config"]["teacher"] == {"dtype": "float32", "max_prompt_tokens": 400}


def test_the_plan_knows_the_teacher_by_its_content_and_starts_nothing(
    run, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    assert run("annotate.plan=true", "teacher.gpus=4", "annotate.actors=2") == 0
    told = capsys.readouterr().out
    assert f"teacher   {named(model)}" in told
    assert "1 to ask of 7 (0 done, 6 in the cache)" in told
    assert "price     that of the machines" in told
    assert "engines   2 of 4 GPUs each" in told
    other = shutil.copytree(model, tmp_path / model.name)
    assert run("annotate.plan=true", f"annotate.model={other}") == 0
    assert f"teacher   {named(model)}" in capsys.readouterr().out, "a folder may move"
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert run("annotate.plan=true", f"annotate.model={other}") == 0
    told = capsys.readouterr().out
    assert f"teacher   {named(other)}" in told
    assert "7 to ask of 7" in told, "another model's replies are its own"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["annotate.base_url=http://127.0.0.1:9/v1"], "leave out annotate.base_url"),
        (["annotate.model=gpt-4o-mini"], "gpt-4o-mini: is no model folder"),
        (["teacher.gpus=2.5"], "teacher.gpus = 2.5: .*whole number"),
    ],
)
def test_what_cannot_be_served_is_refused_before_ray_starts(run, words, message, capsys, monkeypatch):
    monkeypatch.setattr("uniner.runtime.connection.connected", None)
    assert run(*words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_model_that_cannot_be_asked_so_is_refused_before_it_is_loaded(model, base, tmp_path):
    with pytest.raises(UserError, match=r"no chat template; name a model that follows instructions"):
        serve(Path(base))
    picky = shutil.copytree(model, tmp_path / "picky")
    (picky / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(UserError, match=r"refuses the prompt \(no system role\); .*annotate\.prompt"):
        serve(picky)
    with pytest.raises(UserError, match=r"prompt alone has \d+ tokens, 50 are .*raise teacher\.max_prompt"):
        serve(model, max_tokens=50)
    with pytest.raises(UserError, match=r"takes 512 tokens, .*lower .*annotate\.max_reply_tokens"):
        serve(model, max_reply_tokens=512)
    with pytest.raises(UserError, match=r"attention heads \(2\) must be divisible by .* size \(3\)"):
        Engine(str(model), EngineSettings(max_prompt_tokens=400, gpus=3))


def test_an_engine_that_does_not_start_is_tried_once_and_without_money_not_at_all(model, monkeypatch):
    started = []

    def start(engine):
        started.append(engine)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Engine, "_start", start)
    poor = local(Meter(Limits(budget_usd=1e-9)))
    with pytest.RaisesGroup(pytest.RaisesExc(Stopped), flatten_subgroups=True):
        asyncio.run(Annotator(Replies(teacher_of(model), ask=poor, engine=serve(model)))(chunk_of(TEXTS[:1])))
    assert started == []
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(Annotator(Replies(teacher_of(model), engine=serve(model)))(chunk_of(TEXTS)))
    assert "out of memory" in str(caught.value.exceptions[0])
    assert len(started) == 1
