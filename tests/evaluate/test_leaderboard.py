"""The leaderboard: published rows as published, ours beside them, averages with their data sets."""

import csv
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from uniner.evaluate import plots
from uniner.evaluate.leaderboard import (
    LeaderboardCell,
    LeaderboardRow,
    LeaderboardTable,
    _table_notes,
    leaderboard_tables,
    mean_cell,
)
from uniner.evaluate.leaderboard_writer import FIGURES, markdown, spreadsheet, write_leaderboard
from uniner.evaluate.published import published_protocols, published_rows
from uniner.evaluate.scoring import score
from uniner.evaluate.speeds import SystemSpeed, speed_rows
from uniner.gold.catalogue import DOMAINS, catalogue, group_members
from uniner.metrics.counts import Counts
from uniner.records import Prediction, Span
from uniner.storage.stage_folder import StageFolder

TEXT = "Ann <Lee> met Bo in Bonn"
PEOPLE = ("Ann <Lee>", "Bo")
# In 30 passages all people are right, and every second city is wrong.
STUDENT = 100 * 2 * 75 / (2 * 75 + 15 + 15)


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
    def system(extra, datasets):
        return score(
            prediction
            for dataset in datasets
            for number in range(30)
            for prediction in (
                answer(dataset, f"p{number}", "person", PEOPLE + extra * (number % 3 > 0), PEOPLE),
                answer(dataset, f"p{number}", "city", ("Bo",) if number % 2 else ("Bonn",), ("Bonn",)),
            )
        )

    return {
        "student": system((), ["crossner_music", "mit_movie", "conll03", "news"]),
        "base": system(("<script>", "Zoe"), ["mit_movie"]),
    }


@pytest.fixture(scope="module")
def tables(scores):
    return {table.name: table for table in leaderboard_tables(scores)}


def find_row(table, system, protocol, source=None):
    (row,) = [
        row
        for row in table.rows
        if (row.system, row.protocol) == (system, protocol) and source in (None, row.source)
    ]
    return row


def test_published_averages_are_the_means_of_their_cells_and_the_headline_is_one_higher():
    for row in published_rows():
        assert row.protocol in published_protocols()
        assert row.f1.keys() <= catalogue().keys() and row.domains.keys() <= set(DOMAINS)
        if row.f1 and row.average is not None:
            places = 2 if row.protocol == "uniner-supervised" else 1
            average = math.fsum(row.f1.values()) / len(row.f1)
            assert abs(average - row.average) <= 0.5 * 10**-places + 1e-9, row.system
    plain = {row.system: row for row in published_rows() if row.table == "UniNER Figure 9"}
    headline = {row.system: row for row in published_rows() if row.domains}
    for system in ("ChatGPT", "UniNER-7B"):
        for domain in DOMAINS:
            names = [dataset.name for dataset in group_members("all") if dataset.domain == domain]
            values = [plain[system].f1[name] for name in names]
            assert abs(sum(values) / len(values) + 1.0 - headline[system].domains[domain]) <= 0.051, domain
        above = headline[system].average - math.fsum(plain[system].f1.values()) / 49
        assert abs(above - headline[system].offset) < 0.05
    assert {system: row.average for system, row in headline.items()} == {
        "Vicuna-7B": 14.2, "Vicuna-13B": 13.9, "ChatGPT": 34.9, "UniNER-7B": 41.7, "UniNER-13B": 43.4
    }  # fmt: skip


def test_the_zero_shot_table_is_table_3_with_our_rows(tables):
    table = tables["zero-shot-7"]
    names = ["mit-movie", "mit-restaurant", *(f"CrossNER {domain}" for domain in
             ("AI", "literature", "music", "politics", "science"))]  # fmt: skip
    assert list(table.columns.values()) == names
    table_3 = {
        "Vicuna-7B": [6.0, 5.3, 12.8, 16.1, 17.0, 20.5, 13.0, 13.0],
        "Vicuna-13B": [0.9, 0.4, 22.7, 22.7, 26.6, 27.2, 22.0, 17.5],
        "ChatGPT": [5.3, 32.8, 52.4, 39.8, 66.6, 68.5, 67.0, 47.5],
        "UniNER-7B": [42.4, 31.7, 53.5, 59.4, 65.0, 60.8, 61.1, 53.4],
        "UniNER-13B": [48.7, 36.2, 54.2, 60.9, 64.5, 61.4, 63.5, 55.6],
    }
    for system, values in table_3.items():
        row = find_row(table, system, "uniner", "UniNER Table 3")
        assert [row.cells[name].f1 for name in table.columns] + [row.shown.f1] == values
    assert find_row(table, "GNER-LLaMA-7B", "gner").shown.f1 == 66.1
    short = find_row(table, "InstructUIE-11B", "uniner")  # the paper's table has neither MIT nor an average
    assert (short.stated, short.average.over, short.average.of) == (None, 5, 7)

    ours = find_row(table, "student", "strict")
    assert list(ours.cells) == ["mit_movie", "crossner_music"]
    assert ours.cells["mit_movie"].f1 == pytest.approx(STUDENT)
    assert ours.cells["mit_movie"].low < STUDENT < ours.cells["mit_movie"].high
    assert (ours.average.f1, ours.average.over, ours.average.of) == (pytest.approx(STUDENT), 2, 7)
    base = find_row(table, "base", "strict")
    assert base.cells["mit_movie"].f1 == pytest.approx(100 * 2 * 75 / (2 * 75 + 15 + 40 + 15))
    published = find_row(table, "ChatGPT", "uniner-partial")
    assert find_row(table, "student", "partial").compares_with == published.compares_with
    assert any("mit-movie 30 passages (2,442)" in note for note in table.notes)


def test_the_other_tables_have_their_published_rows_and_ours(tables, scores):
    supervised = tables["supervised-20"]
    assert [(row.system, row.shown.f1) for row in supervised.rows[:3]] == [
        ("UniNER-7B", 84.78), ("InstructUIE-11B", 81.16), ("BERT-base", 80.09)
    ]  # fmt: skip
    assert find_row(supervised, "student", "strict").average.over == 2  # conll03 and mit_movie
    assert list(tables["all"].columns) == [dataset.name for dataset in group_members("all")]
    assert find_row(tables["all"], "UniNER-7B", "uniner").shown.f1 == 40.7
    domains = tables["domains"]
    movie, music = (scores["student"][name].f1 * 100 for name in ("mit_movie", "crossner_music"))
    ours = find_row(domains, "student", "strict")
    assert (ours.cells["social media"].f1, ours.cells["general"].f1) == (movie, music)
    assert (ours.cells["social media"].over, ours.cells["social media"].of) == (1, 5)
    assert find_row(domains, "UniNER-7B", "uniner", "UniNER Figure 5a, +1.0").shown.f1 == 41.7
    assert any("is 1.0 above" in note for note in domains.notes)
    assert list(tables["others"].columns) == ["news"]
    assert "others" not in {table.name for table in leaderboard_tables({})}


def test_the_interval_of_an_average_assumes_independent_data_sets():
    assert mean_cell([], 3) is None
    first, second = LeaderboardCell(50.0, 47.0, 56.0), LeaderboardCell(60.0, 56.0, 68.0)
    assert mean_cell([first, second], 2) == LeaderboardCell(55.0, 55 - 2.5, 55 + 5.0, 2, 2)
    assert mean_cell([first, LeaderboardCell(60.0)], 4) == LeaderboardCell(55.0, None, None, 2, 4)


def test_a_stated_average_that_differs_from_its_cells_gets_a_note():
    names = {"system": "s", "protocol": "uniner", "compares_with": "strict", "source": "T"}
    row = LeaderboardRow(**names, ours=False, cells={}, average=LeaderboardCell(50.0), stated=51.0)
    assert _table_notes([row]) == ["T: s's average is 50.00 by its own cells"]


def test_all_files_are_written_with_their_protocols(tmp_path, scores):
    console = Console(width=200, file=io.StringIO())
    folder = StageFolder(str(tmp_path))
    speeds = {
        "base": SystemSpeed(runs_on="1 GPU", passages_per_s=1234.5, usd_per_million=0.675),
        "student": SystemSpeed(runs_on="CPU", passages_per_s=2.5, usd_per_million=None),
    }
    write_leaderboard(folder, scores, speeds, console)

    plain = json.loads(folder.read("leaderboard.json"))
    assert [board["name"] for board in plain["boards"]] == [
        "zero-shot-7", "supervised-20", "all", "domains", "others"
    ]  # fmt: skip
    used = {row["protocol"] for board in plain["boards"] for row in board["rows"]}
    assert used <= plain["protocols"].keys() and {"strict", "released", "partial", "span"} <= used

    cells = pq.read_table(pa.BufferReader(folder.read("leaderboard.parquet"))).to_pylist()
    ours = [cell for cell in cells if cell["ours"] and cell["column"] == "mit_movie"]
    assert {cell["board"] for cell in ours} == {"zero-shot-7", "supervised-20", "all"}
    figures = pq.read_table(pa.BufferReader(folder.read("scores.parquet"))).to_pylist()
    city = next(row for row in figures if row["by"] == "type" and row["value"] == "city")
    assert (city["system"], city["dataset"], city["domain"], city["f1"]) == (
        "student", "conll03", "general", pytest.approx(50.0)
    )  # fmt: skip
    assert {row["value"] for row in figures if row["by"] == "length"} == {"0-15"}
    lines = list(csv.DictReader(io.StringIO(folder.read("scores.csv").decode())))
    assert [line["f1"] for line in lines] == [str(row["f1"]).removesuffix(".0") for row in figures]

    text = folder.read("leaderboard.md").decode()
    assert "| UniNER-7B | uniner | UniNER Table 3 | 42.4 | 31.7 |" in text
    assert "- **GNER Table 2**: GNER (arXiv 2402.16602), Table 2" in text
    assert "(2 of 7) |" in text and "- **partial**: " in text and "+1.0" in text
    assert text == markdown(leaderboard_tables(scores), plain["protocols"], speed_rows(scores, speeds))
    quality = text.partition("## Quality, speed and cost")[2]
    assert quality.index("| student | 83.3 [") < quality.index("| base | 68.2 [")
    assert "(1 of 4) | 1,234 | 1 GPU | 0.675 |" in quality and "| 2.5 | CPU |  |" in quality
    assert [row["passages_per_s"] for row in plain["speeds"]] == [2.5, 1234.5]

    page = folder.read("leaderboard.html").decode()
    for part in (
        "83.3", "2 of 7", "UniNER Figure 5a, +1.0", "<svg", "Type confusions", "string sets",
        "arXiv 2402.16602", "not in text", "Ann &lt;Lee&gt; met <mark>Bo</mark> in",
        "Quality, speed and cost", "1,234",
    ):  # fmt: skip
        assert part in page, part
    assert "<script" not in page and "&lt;script&gt;" in page and "src=" not in page
    output = console.file.getvalue()
    assert "UniNER-13B" in output and "83.3" in output and "(2 of 7)" in output and "news" in output
    assert "1,234" in output and "1 GPU" in output
    assert "Table 5" not in output  # another protocol: in the files, not in the short table


def test_without_scores_of_ours_the_files_are_written_and_no_table_is_printed(tmp_path):
    console = Console(width=200, file=io.StringIO())
    write_leaderboard(StageFolder(str(tmp_path)), {}, {}, console)
    assert console.file.getvalue().count("\n") == 1
    assert "GNER-T5-xxl" in (tmp_path / "leaderboard.html").read_text()


def test_dollar_signs_in_a_type_are_not_a_formula():
    type_score = Counts(tp=10, fn=10).score()
    svg = plots.plot_types({"a$^$": type_score, "price ($) in US$": type_score})
    assert "a$^$" in svg and "price ($) in US$" in svg


@pytest.mark.parametrize("start", ["=", "@", "+", "-", "\t", "\r"])
def test_a_spreadsheet_runs_no_text_of_the_scores(start):
    formula = f"{start}HYPERLINK(0)"
    row = {"system": formula, "dataset": "a=b", "value": formula, "f1": -1.5, "tp": 2}
    rows = csv.DictReader(io.StringIO(spreadsheet(pa.Table.from_pylist([row], FIGURES)).decode(), newline=""))
    (written,) = rows
    assert (written["system"], written["value"], written["dataset"]) == (f"'{formula}", f"'{formula}", "a=b")
    assert (written["f1"], written["tp"], written["domain"]) == ("-1.5", "2", "")


def test_names_in_markdown_are_text():
    row = LeaderboardRow(
        system="<img src=x onerror=a()>|`b`\n# c",
        ours=True,
        protocol="strict",
        source="run",
        cells={},
        compares_with=None,
        average=None,
    )
    table = LeaderboardTable(name="t", title="<b>", columns={"d": "e|f"}, rows=(row,))
    text = markdown([table], {})
    assert "## &lt;b&gt;\n" in text
    assert "| system | protocol | source | e\\|f | average |" in text
    assert "| **&lt;img src=x onerror=a()&gt;\\|\\`b\\` # c** | strict | run |" in text
