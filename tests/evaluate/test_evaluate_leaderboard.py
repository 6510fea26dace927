"""The leaderboard: published rows as published, ours beside them, nothing averaged in silence."""

import csv
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from uniner.evaluate import plots
from uniner.evaluate.leaderboard import Cell, boards, mean
from uniner.evaluate.leaderboard_tables import markdown
from uniner.evaluate.leaderboard_writer import publish
from uniner.evaluate.published import protocols, published
from uniner.evaluate.scoring import score
from uniner.gold.catalogue import DOMAINS, catalogue, group_members
from uniner.records import Prediction, Span
from uniner.storage.stage_folder import StageFolder

TEXT = "Ann <Lee> met Bo in Bonn"
PEOPLE = ("Ann <Lee>", "Bo")
STUDENT = 100 * 2 * 75 / (2 * 75 + 15 + 15)  # of 30 passages all people right, each second city wrong


def answer(dataset, passage, type_name, predicted, gold, outcome="ok"):
    spans = tuple(Span(start=TEXT.index(mention), end=TEXT.index(mention) + len(mention)) for mention in gold)
    reply = json.dumps(list(predicted))
    return Prediction(
        dataset=dataset,
        passage_id=passage,
        text=TEXT,
        type=type_name,
        reply=reply,
        predicted=predicted,
        gold=gold,
        gold_spans=spans,
        outcome=outcome,
    )


@pytest.fixture(scope="module")
def scores():
    def system(more, datasets):
        return score(
            one
            for dataset in datasets
            for number in range(30)
            for one in (
                answer(dataset, f"p{number}", "person", PEOPLE + more * (number % 3 > 0), PEOPLE),
                answer(dataset, f"p{number}", "city", ("Bo",) if number % 2 else ("Bonn",), ("Bonn",)),
            )
        )

    return {
        "student": system((), ["crossner_music", "mit_movie", "conll03", "news"]),
        "base": system(("<script>", "Zoe"), ["mit_movie"]),
    }


@pytest.fixture(scope="module")
def found(scores):
    return {board.name: board for board in boards(scores)}


def row(board, system, protocol, source=None):
    (found,) = [
        one
        for one in board.rows
        if (one.system, one.protocol) == (system, protocol) and source in (None, one.source)
    ]
    return found


def test_published_averages_are_their_cells_means_and_the_headline_lies_one_above():
    for one in published():
        assert one.protocol in protocols()
        assert one.f1.keys() <= catalogue().keys() and one.domains.keys() <= set(DOMAINS)
        if one.f1 and one.average is not None:
            places = 2 if one.protocol == "uniner-supervised" else 1
            average = math.fsum(one.f1.values()) / len(one.f1)
            assert abs(average - one.average) <= 0.5 * 10**-places + 1e-9, one.system
    plain = {one.system: one for one in published() if one.table == "UniNER Figure 9"}
    headline = {one.system: one for one in published() if one.domains}
    for system in ("ChatGPT", "UniNER-7B"):
        for domain in DOMAINS:
            values = [plain[system].f1[one.name] for one in group_members("all") if one.domain == domain]
            assert abs(sum(values) / len(values) + 1.0 - headline[system].domains[domain]) <= 0.051, domain
        above = headline[system].average - math.fsum(plain[system].f1.values()) / 49
        assert abs(above - headline[system].offset) < 0.05
    assert {system: one.average for system, one in headline.items()} == {
        "Vicuna-7B": 14.2, "Vicuna-13B": 13.9, "ChatGPT": 34.9, "UniNER-7B": 41.7, "UniNER-13B": 43.4
    }  # fmt: skip


def test_the_zero_shot_board_is_table_3_with_our_rows_beside_it(found):
    board = found["zero-shot-7"]
    names = ["mit-movie", "mit-restaurant", *(f"CrossNER {one}" for one in
             ("AI", "literature", "music", "politics", "science"))]  # fmt: skip
    assert list(board.columns.values()) == names
    table = {
        "Vicuna-7B": [6.0, 5.3, 12.8, 16.1, 17.0, 20.5, 13.0, 13.0],
        "Vicuna-13B": [0.9, 0.4, 22.7, 22.7, 26.6, 27.2, 22.0, 17.5],
        "ChatGPT": [5.3, 32.8, 52.4, 39.8, 66.6, 68.5, 67.0, 47.5],
        "UniNER-7B": [42.4, 31.7, 53.5, 59.4, 65.0, 60.8, 61.1, 53.4],
        "UniNER-13B": [48.7, 36.2, 54.2, 60.9, 64.5, 61.4, 63.5, 55.6],
    }
    for system, values in table.items():
        one = row(board, system, "uniner", "UniNER Table 3")
        assert [one.cells[name].f1 for name in board.columns] + [one.shown.f1] == values
    assert row(board, "GNER-LLaMA-7B", "gner").shown.f1 == 66.1
    short = row(board, "InstructUIE-11B", "uniner")  # the paper's table lacks MIT and an average
    assert (short.stated, short.average.over, short.average.of) == (None, 5, 7)

    ours = row(board, "student", "strict")
    assert list(ours.cells) == ["mit_movie", "crossner_music"]
    assert ours.cells["mit_movie"].f1 == pytest.approx(STUDENT)
    assert ours.cells["mit_movie"].low < STUDENT < ours.cells["mit_movie"].high
    assert (ours.average.f1, ours.average.over, ours.average.of) == (pytest.approx(STUDENT), 2, 7)
    base = row(board, "base", "strict")
    assert base.cells["mit_movie"].f1 == pytest.approx(100 * 2 * 75 / (2 * 75 + 15 + 40 + 15))
    assert row(board, "student", "partial").beside == row(board, "ChatGPT", "uniner-partial").beside
    assert any("mit-movie 30 passages (2,442)" in note for note in board.notes)


def test_the_other_boards_have_their_published_rows_and_ours(found, scores):
    supervised = found["supervised-20"]
    assert [(one.system, one.shown.f1) for one in supervised.rows[:3]] == [
        ("UniNER-7B", 84.78), ("InstructUIE-11B", 81.16), ("BERT-base", 80.09)
    ]  # fmt: skip
    assert row(supervised, "student", "strict").average.over == 2  # conll03 and mit_movie
    assert list(found["all"].columns) == [one.name for one in group_members("all")]
    assert row(found["all"], "UniNER-7B", "uniner").shown.f1 == 40.7
    domains = found["domains"]
    movie, music = (scores["student"][name]["f1"] * 100 for name in ("mit_movie", "crossner_music"))
    ours = row(domains, "student", "strict")
    assert (ours.cells["social media"].f1, ours.cells["general"].f1) == (movie, music)
    assert (ours.cells["social media"].over, ours.cells["social media"].of) == (1, 5)
    assert row(domains, "UniNER-7B", "uniner", "UniNER Figure 5a, +1.0").shown.f1 == 41.7
    assert any("lies 1.0 above" in note for note in domains.notes)
    assert list(found["others"].columns) == ["news"]
    assert "others" not in {board.name for board in boards({})}


def test_an_average_s_interval_takes_its_data_sets_as_independent():
    assert mean([], 3) is None
    one, two = Cell(50.0, 47.0, 56.0), Cell(60.0, 56.0, 68.0)
    assert mean([one, two], 2) == Cell(55.0, 55 - 2.5, 55 + 5.0, 2, 2)
    assert mean([one, Cell(60.0)], 4) == Cell(55.0, None, None, 2, 4)


def test_a_stated_average_that_is_not_its_cells_is_named():
    from uniner.evaluate.leaderboard import Row, _table_notes

    told = Row("s", False, "uniner", "strict", "T", {}, Cell(50.0), 51.0)
    assert _table_notes([told]) == ["T: s's average is 50.00 by its own cells"]


def test_everything_is_written_and_says_its_protocol(tmp_path, scores):
    console = Console(width=200, file=io.StringIO())
    folder = StageFolder(str(tmp_path))
    publish(folder, scores, console)

    plain = json.loads(folder.read("leaderboard.json"))
    assert [board["name"] for board in plain["boards"]] == [
        "zero-shot-7", "supervised-20", "all", "domains", "others"
    ]  # fmt: skip
    used = {one["protocol"] for board in plain["boards"] for one in board["rows"]}
    assert used <= plain["protocols"].keys() and {"strict", "released", "partial", "span"} <= used

    cells = pq.read_table(pa.BufferReader(folder.read("leaderboard.parquet"))).to_pylist()
    ours = [one for one in cells if one["ours"] and one["column"] == "mit_movie"]
    assert {one["board"] for one in ours} == {"zero-shot-7", "supervised-20", "all"}
    figures = pq.read_table(pa.BufferReader(folder.read("scores.parquet"))).to_pylist()
    one = next(one for one in figures if one["by"] == "type" and one["value"] == "city")
    assert (one["system"], one["dataset"], one["domain"], one["f1"]) == (
        "student", "conll03", "general", pytest.approx(50.0)
    )  # fmt: skip
    assert {one["value"] for one in figures if one["by"] == "length"} == {"0-15"}
    lines = list(csv.DictReader(io.StringIO(folder.read("scores.csv").decode())))
    assert [line["f1"] for line in lines] == [str(one["f1"]).removesuffix(".0") for one in figures]

    text = folder.read("leaderboard.md").decode()
    assert "| UniNER-7B | uniner | UniNER Table 3 | 42.4 | 31.7 |" in text
    assert "- **GNER Table 2**: GNER (arXiv 2402.16602), Table 2" in text
    assert "(2 of 7) |" in text and "- **partial**: " in text and "+1.0" in text
    assert text == markdown(boards(scores), plain["protocols"])

    page = folder.read("leaderboard.html").decode()
    parts = [
        "83.3",
        "2 of 7",
        "UniNER Figure 5a, +1.0",
        "<svg",
        "Type confusions",
        "string sets",
        "arXiv 2402.16602",
    ]
    for part in (*parts, "not in text", "Ann &lt;Lee&gt; met <mark>Bo</mark> in"):
        assert part in page, part
    assert "<script" not in page and "&lt;script&gt;" in page and "src=" not in page
    said = console.file.getvalue()
    assert "UniNER-13B" in said and "83.3" in said and "(2 of 7)" in said and "news" in said
    assert "Table 5" not in said  # another protocol: in the files, not in the short table


def test_without_scores_of_ours_the_terminal_stays_quiet_and_the_tables_stand(tmp_path):
    console = Console(width=200, file=io.StringIO())
    publish(StageFolder(str(tmp_path)), {}, console)
    assert console.file.getvalue().count("\n") == 1
    assert "GNER-T5-xxl" in (tmp_path / "leaderboard.html").read_text()


def test_a_type_s_dollar_signs_are_no_formula():
    counts = {"f1": 0.5, "tp": 10, "fn": 10}
    svg = plots.by_type({"d": {"types": {"a$^$": counts, "price ($) in US$": counts}}})
    assert "a$^$" in svg and "price ($) in US$" in svg
