"""Every system through the command line, with tiny models instead of the real ones.

A real checkpoint is another name in the same config: see jobs/configs/benchmark.toml. GLiNER needs an
environment of its own: see test_gliner.py.
"""

import json
from itertools import islice

import pytest

from uniner.evaluate.systems.instructions import INSTRUCTIONS
from uniner.quickstart.corpus import documents
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.prepare import lay_out
from uniner.records import Prediction, from_table
from uniner.storage.model_folders import read_calibrations
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.replay_server import ReplayServer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
TEXTS = [f"Ann Lee of Velmora met {name}." for name in ("Bo", "Cy", "Di")]
TYPES = ("city", "person")


@pytest.fixture
def evaluated(tmp_path, base, run_job):
    """Return a function that evaluates systems, given as TOML, on a gold file: its folder and its scores."""

    def evaluate(gold, names, systems):
        path = tmp_path / "config.toml"
        path.write_text(
            f'[run]\nroot = "{tmp_path}"\nname = "r"\n[student]\nbase = "{base}"\nmax_tokens = 512\n'
            '[ingest]\nshards = ["unused.jsonl.zst"]\n'
            '[engine]\ndtype = "float32"\ngpus = 0\nblock_size = 32\nmax_num_seqs = 32\n'
            "max_num_batched_tokens = 2048\nmax_answer_tokens = 32\n"
            f'[evaluate]\nsystems = {json.dumps(names)}\ngold = {{ones = "{gold}"}}\n{systems}'
        )
        code, output = run_job("evaluate", path)
        assert code == 0, output
        folder = StageFolder(f"{tmp_path}/r/evaluate")
        scores = folder.require_manifest().results["scores"]
        return folder, {name: by_dataset["ones"] for name, by_dataset in scores.items()}

    return evaluate


def make_gold(folder, split, count):
    made = documents(DOMAINS, 2 * count, 0, split, (2, 4))
    short = (document for document in made if len(document.text) <= 500)
    lay_out(StageFolder(str(folder)), [], islice(short, count), 256, seed=0)
    return str(folder / "heldout.jsonl")


@pytest.mark.slow
def test_an_encoder_learns_the_quickstart_s_gold_data(evaluated, tiny_bert, tmp_path):
    train = make_gold(tmp_path / "train", "train", 2500)
    held_out = make_gold(tmp_path / "test", "heldout", 60)
    system = (
        f'[evaluate.system.bert]\nkind = "bert"\nmodel = "{tiny_bert}"\ntrain = {{ones = "{train}"}}\n'
        "epochs = 6\nlearning_rate = 2e-3\nbatch_passages = 6\nmax_tokens = 128\nuse_gpu = false\n"
    )
    folder, scores = evaluated(held_out, ["bert"], system)
    assert scores["bert"]["f1"] >= 0.6, "no name of the held-out passages is in the train split"
    assert scores["bert"]["protocols"]["span"]["f1"] >= 0.6
    rows = from_table((folder / "bert").read_rows(), Prediction)
    assert all(row.text[span.start : span.end] in row.predicted for row in rows for span in row.spans)


@pytest.mark.slow
def test_all_other_systems_answer_all_questions(
    evaluated, base, tiny_t5, trained_encoder, complete_stage, write_gold, tmp_path
):
    encoder = trained_encoder(tmp_path / "r")
    complete_stage(StageFolder(f"{tmp_path}/r/train-encoder"))
    mentions = {"Ann Lee": "person", "Velmora": "city"}
    gold = write_gold(tmp_path / "gold.jsonl", [(text, mentions) for text in TEXTS])
    replies = {INSTRUCTIONS["published"].text(text, TYPES): "city: None | person: Ann Lee" for text in TEXTS}
    with ReplayServer(replies) as server:
        systems = (
            '[evaluate.system.chatty]\nkind = "chat"\n'
            f'teacher = {{model = "m", base_url = "{server.base_url}"}}\n'
            f'[evaluate.system.vicuna]\nkind = "vicuna"\nmodel = "{base}"\ninstruction = "json"\n'
            f'[evaluate.system.alpaca]\nkind = "alpaca"\nmodel = "{base}"\nmax_prompt_tokens = 400\n'
            f'[evaluate.system.uie]\nkind = "instructuie"\nmodel = "{tiny_t5}"\n'
        )
        folder, scores = evaluated(gold, ["base", "chatty", "vicuna", "alpaca", "uie", "encoder"], systems)
    assert {name: system["questions"] for name, system in scores.items()} == dict.fromkeys(scores, 6)
    assert [scores["chatty"][name] for name in ("tp", "fp", "fn")] == [3, 0, 3]
    for name in scores:
        rows = from_table((folder / name).read_rows(), Prediction)
        assert [(row.text, row.type) for row in rows] == [(text, kind) for text in TEXTS for kind in TYPES]
        assert {row.outcome for row in rows} <= {"ok", "unparseable", "too_long"}
        assert any(row.reply or row.spans for row in rows), name
    # What the run's own encoder gets: its scores in its card, and their calibration for tag.
    card = (encoder / "README.md").read_text()
    assert f"| ones | 6 | {scores['encoder']['f1']:.3f} |" in card and "None yet" not in card
    measured, scored = scores["encoder"]["calibration"], read_calibrations(str(encoder))["ones"]
    assert measured["mentions"] > 0 and scored["slope"] == measured["slope"]
    speeds = folder.require_manifest().results["speeds"]
    assert speeds.keys() == scores.keys() and speeds["encoder"]["passages_per_s"] > 0
    assert speeds["chatty"]["passages_per_s"] is None and speeds["base"]["runs_on"] == "CPU"
