"""The whole stage with the real engine on a real local Ray, and what the check refuses before Ray starts."""

from pathlib import Path

import pyarrow as pa
import pytest

from uniner.errors import UserError
from uniner.evaluate import stage
from uniner.records import Prediction, from_table
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.model_folders import model_digest
from uniner.storage.stage_folder import MANIFEST, Chunk, StageFolder

TEXTS = [f"Ann Lee of Velmora met {name} in Tarn." for name in ("Bo", "Cy", "Di", "Ed", "Flo")]


MENTIONS = {"Ann Lee": "person", "Velmora": "city", "Tarn": "misc"}


@pytest.fixture
def gold(write_gold, tmp_path):
    """A gold data set by its name."""
    return {"toy": write_gold(tmp_path / "g.jsonl", [(text, MENTIONS) for text in TEXTS])}


@pytest.fixture
def make_context(make_engine_config, stage_context, tmp_path, base):
    """Return a function that makes the stage's context for these settings of `evaluate`."""

    def make(**evaluate):
        evaluate = {"chunk_passages": 2, **evaluate}
        return stage_context(stage, make_engine_config(tmp_path, base, evaluate=evaluate))

    return make


@pytest.mark.ray
def test_a_system_answers_every_question_once_and_is_scored(make_context, gold, ray_session, capsys):
    context = make_context(gold=gold, systems=["base"])
    stage.check(context)
    manifest = stage.run(context)

    folder = context.folder
    cell = f"toy-{manifest.results['cells']['toy']}"
    assert (folder / "base").chunk_keys() == {f"{cell}-0000{n}" for n in range(3)}
    rows = from_table((folder / "base").read_rows(), Prediction)
    asked = [(row.passage_id, row.type) for row in rows]
    assert asked == [(f"{n:07d}", kind) for n in range(1, 6) for kind in ("city", "person")]
    assert [row.gold for row in rows] == [("Velmora",), ("Ann Lee",)] * 5
    assert all(row.reply for row in rows)

    scores = manifest.results["scores"]["base"]["toy"]
    assert (scores["questions"], scores["passages"], manifest.rows) == (10, 5, 10)
    assert scores["tp"] + scores["fn"] == 10
    assert "strict" in manifest.results["protocol"]
    leaderboard = folder.read("leaderboard.md").decode()
    assert f"| **base** | strict | this run | {100 * scores['f1']:.1f} [" in leaderboard
    assert {"leaderboard.html", "leaderboard.json", "scores.parquet"} <= folder.sizes().keys()
    log = capsys.readouterr().err
    assert f"evaluate: base F1 {scores['f1']:.3f}" in log
    assert "on toy (strict, string sets, 10 questions)" in log

    # A rerun asks nothing, also with all chunks but no manifest.
    chunks = [Path(f"{folder.url}/base/chunk-{key}.parquet") for key in (folder / "base").chunk_keys()]
    before = [chunk.stat().st_mtime_ns for chunk in chunks]
    assert stage.run(context) == manifest
    (folder / "base").remove([MANIFEST])
    assert stage.run(context).results["scores"] == manifest.results["scores"]
    assert [chunk.stat().st_mtime_ns for chunk in chunks] == before


def test_the_student_s_card_gets_its_scores_and_the_student_stays_the_same(tmp_path):
    student = StageFolder(str(tmp_path))
    stage._write_card_scores(student, {})  # a student without a card gets none
    assert student.sizes() == {}
    student.write("config.json", b"{}")
    before = model_digest(student.url)
    student.write("README.md", b"---\nbase_model: b\n---\n# A student\n\n## Scores\n\nNot measured yet.\n")
    for f1 in (0.5, 0.75):
        stage._write_card_scores(student, {"toy": {"f1": f1, "questions": 1234}})
    card = student.read("README.md").decode()
    assert card.startswith("---\nbase_model: b\n---\n# A student\n\n## Scores\n")
    assert card.endswith("| toy | 1,234 | 0.750 |\n")
    assert "strict" in card and "0.500" not in card and "Not measured" not in card
    assert model_digest(student.url) == before


def test_without_gold_the_stage_is_skipped_and_says_so(make_context, capsys):
    context = make_context()
    stage.check(context)
    assert stage.run(context) is None
    assert "evaluate: skipped, evaluate.gold names no data set" in capsys.readouterr().err


def test_the_check_refuses_what_cannot_be_scored(tmp_path, make_context, gold):
    stage.check(make_context(gold=gold))  # this run's student is still to be trained
    late = tmp_path / "late.jsonl"
    late.write_text((tmp_path / "g.jsonl").read_text() + '\n{"text": 3, "entities": []}' * 2)
    for settings, message in (
        ({"gold": {"toy": str(tmp_path / "none.jsonl")}}, r"none\.jsonl: no such file"),
        ({"gold": {"toy": str(late)}}, r"late\.jsonl, line 6: "),
        ({"gold": gold, "systems": [str(tmp_path / "nowhere")]}, "nowhere"),
        (
            {"gold": gold, "systems": ["encoder"]},
            r"evaluate\.systems: encoder is this run's encoder, but encoder\.base is not set; set it,",
        ),
        ({"gold": gold, "systems": ["base", "base"]}, r"evaluate\.systems: the names base, base must differ"),
    ):
        with pytest.raises(UserError, match=message):
            stage.check(make_context(**settings))


def test_one_wrong_row_of_a_data_set_is_left_out_and_named(tmp_path, make_context, gold, capsys):
    url = tmp_path / "g.jsonl"
    url.write_text(url.read_text() + '\n{"text": 3, "entities": []}')
    stage.check(make_context(gold=gold))
    log = capsys.readouterr().err
    assert f"{url}: left out 1 rows or annotations that are wrong; the first: {url}, line 6: Expected" in log


@pytest.fixture
def columns(tmp_path):
    path = tmp_path / "gold.conll"
    path.write_text("Ann B-PER\nof O\nBonn B-CITYNAME\n")
    return str(path)


def asked_types(context, dataset, url):
    folder = stage._cut_gold(context, dataset, url)
    return folder.url, folder.read_rows().column("type").unique().to_pylist()


def test_labels_are_asked_for_in_plain_words_which_evaluate_can_change(make_context, columns):
    plain, types = asked_types(make_context(), "toy", columns)
    assert types == ["cityname", "person"]
    own, types = asked_types(make_context(labels={"CITYNAME": "city"}), "toy", columns)
    assert types == ["city", "person"] and own != plain, "other words are other questions"
    context = make_context(labels={})
    context.sections.build.labels["CITYNAME"] = "town"
    assert asked_types(context, "toy", columns) == (plain, ["cityname", "person"])
    context = make_context()
    context.sections.build.labels["CITYNAME"] = "town"
    assert asked_types(context, "toy", columns)[1] == ["person", "town"], "unset: build's"


def test_types_that_a_student_was_not_trained_on_are_said(make_context, columns, tmp_path, base, capsys):
    student = StageFolder(str(tmp_path / "student"))
    student.write_json(
        "uniner.json", {"template": "type", "max_tokens": 256, "base": base, "types": ["person", "city name"]}
    )
    context = make_context(systems=["base", str(tmp_path / "student")])
    stage._say_unknown_types(stage._systems(context), {"toy": stage._cut_gold(context, "toy", columns)})
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "evaluate: " in line)
    assert "toy for " in line and "student: 1 of 2 types are not among the 2 most frequent ones" in line
    assert "'cityname' (nearest: 'city name')" in line and "evaluate.labels" in line


def test_a_data_set_of_the_benchmark_that_lost_types_is_refused_until_it_is_trusted(make_context, columns):
    gold = {"conll03": columns}
    with pytest.raises(UserError, match=r"gold\.conll: has 2 types \(cityname, person\), and its"):
        stage.check(make_context(gold=gold))
    stage.check(make_context(gold=gold, trust_gold=["conll03"]))


def test_a_data_set_of_numbers_is_refused_until_it_is_trusted(make_context, tmp_path):
    path = tmp_path / "numbers.jsonl"
    path.write_text('{"text": "7 8 of", "entities": [{"start": 0, "end": 1, "text": "7", "type": "day"}]}')
    gold = {"toy": str(path)}
    with pytest.raises(UserError, match="2 of 3 words are numbers"):
        stage.check(make_context(gold=gold))
    context = make_context(gold=gold, trust_gold=["toy"])
    stage.check(context)
    assert asked_types(context, "toy", str(path))[1] == ["day"]


@pytest.mark.parametrize(
    ("retry", "wanted", "listed", "complete"),
    [
        (False, {"a-0": 1}, {"a-0", "b-0"}, True),
        (True, {"a-0": 1}, {"a-0", "b-0"}, True),
        (True, {"b-0": 1}, {"a-0", "b-0"}, False),
        # The failed rows of data set b, whose questions this run does not read, stay out of the list.
        (False, {"c-0": 1}, {"a-0", "c-0"}, False),
        (False, {"b-0": 1, "c-0": 1}, {"a-0", "b-0", "c-0"}, False),
    ],
)
def test_failed_rows_are_asked_again_where_the_run_has_their_questions(
    tmp_path, retry, wanted, listed, complete
):
    folder, identity = StageFolder(str(tmp_path / "evaluate/chat")), Identity(stage="evaluate", settings={})
    folder.begin(identity)
    summaries = [
        folder.write_chunk(Chunk(key, pa.table({"outcome": [outcome]})))
        for key, outcome in (("a-0", "ok"), ("b-0", "failed"))
    ]
    folder.write_manifest(Manifest.of(identity, summaries, 1.0))
    assert stage._reopen(folder, identity, wanted, retry).keys() == listed
    assert (folder.manifest() is not None) == complete
