"""The whole stage with the real engine on a real local Ray, and what the check refuses before Ray starts."""

import json
from pathlib import Path

import pytest

from uniner.errors import UserError
from uniner.evaluate import stage
from uniner.records import Prediction, from_table
from uniner.storage.model_folders import model_digest
from uniner.storage.stage_folder import StageFolder

TEXTS = [f"Ann Lee of Velmora met {name} in Tarn." for name in ("Bo", "Cy", "Di", "Ed", "Flo")]


def make_gold(path: Path) -> str:
    lines = []
    for text in TEXTS:
        mentions = [("Ann Lee", "person"), ("Velmora", "city"), ("Tarn", "misc")]
        entities = [
            {
                "start": text.index(mention),
                "end": text.index(mention) + len(mention),
                "text": mention,
                "type": kind,
            }
            for mention, kind in mentions
        ]
        lines.append(json.dumps({"text": text, "entities": entities}))
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def make_config(make_engine_config):
    def make(root, base, **evaluate):
        return make_engine_config(root, base, evaluate={"chunk_passages": 2, **evaluate})

    return make


@pytest.mark.ray
def test_a_system_answers_every_question_once_and_is_scored(tmp_path, base, make_config, ray_session, capsys):
    config = make_config(tmp_path, base, gold={"toy": make_gold(tmp_path / "g.jsonl")}, systems=["base"])
    stage.check(config)
    manifest = stage.run(config)

    folder = StageFolder(str(tmp_path)) / "r" / "evaluate"
    cell = f"toy-{manifest['cells']['toy']}"
    assert (folder / "base").chunk_keys() == {f"{cell}-0000{n}" for n in range(3)}
    rows = from_table((folder / "base").read_rows(), Prediction)
    asked = [(row.passage_id, row.type) for row in rows]
    assert asked == [(f"{n:07d}", kind) for n in range(1, 6) for kind in ("city", "person")]
    assert [row.gold for row in rows] == [("Velmora",), ("Ann Lee",)] * 5
    assert all(row.reply for row in rows)

    scores = manifest["scores"]["base"]["toy"]
    assert (scores["questions"], scores["passages"], manifest["rows"]) == (10, 5, 10)
    assert scores["tp"] + scores["fn"] == 10
    assert "strict" in manifest["protocol"]
    assert (
        f"| **base** | strict | this run | {100 * scores['f1']:.1f} ["
        in folder.read("leaderboard.md").decode()
    )
    assert {"leaderboard.html", "leaderboard.json", "scores.parquet"} <= folder.sizes().keys()
    log = capsys.readouterr().err
    assert f"evaluate: base F1 {scores['f1']:.3f}" in log
    assert "on toy (strict, string sets, 10 questions)" in log

    # A rerun asks nothing, also with all chunks but no manifest.
    before = {key: (tmp_path / f"r/evaluate/base/chunk-{key}.parquet").stat().st_mtime_ns for key in
              (folder / "base").chunk_keys()}  # fmt: skip
    assert stage.run(config) == manifest
    (tmp_path / "r/evaluate/base/manifest.json").unlink()
    assert stage.run(config)["scores"] == manifest["scores"]
    for key, stamp in before.items():
        assert (tmp_path / f"r/evaluate/base/chunk-{key}.parquet").stat().st_mtime_ns == stamp


def test_the_student_s_card_gets_its_scores_and_the_student_stays_the_same(tmp_path):
    student = StageFolder(str(tmp_path))
    stage.write_card(student, {})  # a student without a card gets none
    assert student.sizes() == {}
    student.write("config.json", b"{}")
    before = model_digest(student.url)
    student.write("README.md", b"---\nbase_model: b\n---\n# A student\n\n## Scores\n\nNot measured yet.\n")
    for f1 in (0.5, 0.75):
        stage.write_card(student, {"toy": {"f1": f1, "questions": 1234}})
    card = student.read("README.md").decode()
    assert card.startswith("---\nbase_model: b\n---\n# A student\n\n## Scores\n") and card.endswith(
        "| toy | 1,234 | 0.750 |\n"
    )
    assert "strict" in card and "0.500" not in card and "Not measured" not in card
    assert model_digest(student.url) == before


def test_without_gold_the_stage_is_skipped_and_says_so(tmp_path, base, make_config, capsys):
    config = make_config(tmp_path, base)
    stage.check(config)
    assert stage.run(config) is None
    assert "evaluate: skipped, evaluate.gold names no data set" in capsys.readouterr().err


def test_the_check_refuses_what_cannot_be_scored(tmp_path, base, make_config):
    gold = {"toy": make_gold(tmp_path / "g.jsonl")}
    stage.check(make_config(tmp_path, base, gold=gold))  # this run's student is still to be trained
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        stage.check(make_config(tmp_path, base, gold={"toy": str(tmp_path / "none.jsonl")}))
    late = tmp_path / "late.jsonl"
    late.write_text((tmp_path / "g.jsonl").read_text() + '\n{"text": 3, "entities": []}')
    with pytest.raises(UserError, match=r"late\.jsonl, line 6: "):
        stage.check(make_config(tmp_path, base, gold={"toy": str(late)}))
    with pytest.raises(UserError, match="nowhere"):
        stage.check(make_config(tmp_path, base, gold=gold, systems=[str(tmp_path / "nowhere")]))
    with pytest.raises(UserError, match=r"evaluate\.systems: the names base, base must differ"):
        stage.check(make_config(tmp_path, base, gold=gold, systems=["base", "base"]))
