"""Rounds of review through the command line: what is given out, what comes back, and what it says."""

import json

import pytest
from typer.testing import CliRunner

from uniner.cli import app
from uniner.gold.reader import read_gold

RUNNER = CliRunner()


def invoke(*words):
    return RUNNER.invoke(app, ["review", *map(str, words)], prog_name="uniner")


def correct(row):
    """The truth about a passage: Bonn and Rome are cities."""
    text = row["text"]
    entities = []
    for word, name in (("Ann", "person"), ("Bonn", "city"), ("Rome", "city")):
        start = text.index(word)
        entities.append({"start": start, "end": start + len(word) + 2, "type": name})
    for each in entities:
        each["text"] = text[each["start"] : each["end"]]
    return {**row, "entities": entities}


def corrected_file(run, tmp_path, number=1, change=correct, name="back.jsonl", only=None):
    rows = [change(row) for row in run.rows(f"round-{number:03d}/gold.jsonl")][:only]
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ids(run, number):
    return [row["id"] for row in run.rows(f"round-{number:03d}/gold.jsonl")]


def test_a_round_goes_out_and_comes_back_as_gold_data_with_its_figures(passages, tagged_run, tmp_path):
    run = tagged_run(passages(), settings="passages = 10\nrandom_share = 0.5")
    result = invoke("export", run.config)
    assert result.exit_code == 0, result.output
    assert "review: round 1, 10 passages: 5 drawn at random, 5 least sure" in result.output
    given = run.rows("round-001/passages.jsonl")
    unsure = [row for row in given if row["part"] == "unsure"]
    assert len(unsure) == 5 and all(int(row["passage_id"][1:]) % 3 == 0 for row in unsure)
    assert {row["source"] for row in unsure} == {"news", "web"}

    result = invoke("import", run.config, "--file", corrected_file(run, tmp_path), "--reviewer", "Ann")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "round 1: 10 of 10 passages reviewed by Ann, 0 skipped" in output
    assert "10 kept, 0 dropped, 10 given another type; 10 added" in output
    assert "by 5 random passages: precision 0.500" in output and "recall 0.333" in output
    gold = list(read_gold(str(run.folder / "review" / "gold.jsonl")))
    assert len(gold) == 10 and {e.type for passage in gold for e in passage.entities} == {"person", "city"}
    assert all(p.text[e.start : e.end] == e.text for p in gold for e in p.entities)
    train = {row["id"] for row in run.rows("train.jsonl")}
    evaluate = {row["id"] for row in run.rows("evaluate.jsonl")}
    assert train == {row["passage_id"] for row in unsure} and len(evaluate) == 5 and not train & evaluate
    kept = run.rows("round-001/reviews.jsonl")
    assert {row["reviewer"] for row in kept} == {"Ann"} and len(kept) == 10


def test_a_second_round_has_other_passages_and_is_compared_with_the_first(
    passages, entity, tagged_run, tmp_path
):
    settings = "passages = 10\nrandom_share = 0.5"
    run = tagged_run(passages(), settings=settings)
    assert invoke("export", run.config).exit_code == 0
    first = set(ids(run, 1))
    # A round without reviews is the same again.
    assert invoke("export", run.config).exit_code == 0 and set(ids(run, 1)) == first
    changed = invoke("export", run.config, "review.passages=12")
    assert changed.exit_code == 2 and "given out with other passages" in changed.output
    file = corrected_file(run, tmp_path)
    assert invoke("import", run.config, "--file", file, "--reviewer", "Ann").exit_code == 0

    # The next student finds the cities.
    better = [
        (
            text,
            source,
            [entity(text, e.text, "city" if "Rome" in e.text else "person", e.score) for e in found],
        )
        for text, source, found in passages()
    ]
    second = tagged_run(better, name="r2", settings=f'{settings}\nafter = "{run.folder}"')
    assert invoke("export", second.config).exit_code == 0
    given = second.rows("round-002/passages.jsonl")
    assert not first & set(ids(second, 2))
    random = [row for row in given if row["part"] == "random"]
    assert len(random) == 5
    file = corrected_file(second, tmp_path, 2)
    result = invoke("import", second.config, "--file", file, "--reviewer", "Bo")
    output = " ".join(result.output.split())
    assert result.exit_code == 0 and "precision 1.000" in output
    assert "against round 1: precision +0.500 (" in output and "recall +0.333 (" in output
    known = sum(row["known"] for row in given)
    assert len(second.rows("gold.jsonl")) == 20 - known


def test_a_passage_of_an_earlier_round_that_is_drawn_counts_without_being_given_out(
    passages, tagged_run, tmp_path
):
    run = tagged_run(passages(12), settings="passages = 6\nrandom_share = 0")
    invoke("export", run.config)
    file = corrected_file(run, tmp_path)
    assert invoke("import", run.config, "--file", file, "--reviewer", "Ann").exit_code == 0
    result = invoke("export", run.config, "review.random_share=1", "review.passages=12")
    assert result.exit_code == 0 and "round 2, 6 passages: 6 drawn at random" in result.output
    drawn = run.rows("round-002/passages.jsonl")
    assert len(drawn) == 12 and sum(row["known"] for row in drawn) == 6
    file = corrected_file(run, tmp_path, 2)
    result = invoke("import", run.config, "--file", file, "--reviewer", "Ann")
    assert "by 12 random passages" in result.output
    done = invoke("export", run.config)
    assert done.exit_code == 2 and "all its passages have been reviewed" in done.output


def test_passages_on_which_another_run_differs_are_reviewed_whatever_its_chunks(passages, entity, tagged_run):
    other = [
        (text, source, found if number != 13 else [entity(text, "Bonn13", "city", 0.9), *found])
        for number, (text, source, found) in enumerate(passages())
    ]
    against = tagged_run(other, name="other", tag_rows=8)
    run = tagged_run(passages(), settings=f'passages = 4\nrandom_share = 0\nagainst = "{against.folder}"')
    result = invoke("export", run.config)
    assert result.exit_code == 0, result.output
    assert "1 in disagreement, 3 least sure" in result.output
    (found,) = [row for row in run.rows("round-001/passages.jsonl") if row["part"] == "disagree"]
    assert (found["passage_id"], found["type"]) == ("p013", "city")
    shorter = tagged_run(passages(20), name="shorter")
    wrong = invoke("export", run.config, f"review.against={shorter.folder}", "review.passages=5")
    assert wrong.exit_code == 2 and "the other run has fewer passages" in wrong.output


def test_a_rule_that_the_model_contradicts_is_reviewed(passages, entity, tagged_run):
    made = passages(8)
    text, source, found = made[5]
    made[5] = (text, source, [*found, entity(text, "Rome05", "city", 1.0, grounding="rule")])
    text, source, found = made[6]
    made[6] = (text, source, [*found, entity(text, "Bonn06", "city", 1.0, grounding="rule")])
    run = tagged_run(made, settings="passages = 4\nrandom_share = 0")
    assert "1 against a rule, 3 least sure" in invoke("export", run.config).output
    assert [r["passage_id"] for r in run.rows("round-001/passages.jsonl") if r["part"] == "rules"] == ["p005"]


def wrong_span(row):
    row = correct(row)
    row["entities"][0]["start"] += 1
    return row


ANN = ["--reviewer", "Ann"]
WRONG = (
    (wrong_span, ANN, "line 1, passage 'p0"),
    (wrong_span, ANN, "offsets count characters from 0"),
    (lambda row: {**row, "text": row["text"] + "!"}, ANN, "its text is not the one that was given out"),
    (lambda row: {**row, "id": "p999"}, ANN, "is not in this round"),
    (lambda row: {**row, "outcome": "fine"}, ANN, "must be 'ok' or 'skipped'"),
    (lambda row: {**row, "entities": [{"start": "0"}]}, ANN, "export the file again"),
    (lambda row: {"a": 1}, ANN, "is none of Label Studio's JSON export"),
    (lambda row: row, [], "name the person, such as --reviewer Ann"),
    (lambda row: row, ["--round", "7"], "--round 7: this run has no such round; it has 1"),
)


def test_wrong_reviews_are_an_error_that_names_file_passage_and_span(passages, tagged_run, tmp_path):
    run = tagged_run(passages(), settings="passages = 10\nrandom_share = 0.5")
    invoke("export", run.config)
    for change, words, message in WRONG:
        file = corrected_file(run, tmp_path, change=change)
        result = invoke("import", run.config, "--file", file, *words)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert not (run.folder / "review" / "gold.jsonl").exists()


def test_one_wrong_span_of_many_leaves_its_passage_out_and_is_told(passages, tagged_run, tmp_path, caplog):
    run = tagged_run(passages(), settings="passages = 12\nrandom_share = 0")
    invoke("export", run.config)
    first = ids(run, 1)[0]
    file = corrected_file(
        run, tmp_path, change=lambda row: (wrong_span if row["id"] == first else correct)(row)
    )
    result = invoke("import", run.config, "--file", file, "--reviewer", "Ann")
    assert result.exit_code == 0 and "11 of 12 passages" in result.output
    assert "1 with wrong spans left out" in result.output
    assert first not in {row["id"] for row in run.rows("gold.jsonl")}


def test_several_reviewers_are_merged_and_a_later_review_replaces_an_earlier_one(
    passages, tagged_run, tmp_path
):
    run = tagged_run(passages(), settings="passages = 10\nrandom_share = 0.5")
    invoke("export", run.config)

    def without_bonn(row):
        row = correct(row)
        return {**row, "entities": [row["entities"][0], row["entities"][2]]}

    ann = corrected_file(run, tmp_path, name="ann.jsonl")
    bo = corrected_file(run, tmp_path, change=without_bonn, name="bo.jsonl")
    assert invoke("import", run.config, "--file", ann, "--reviewer", "Ann").exit_code == 0
    result = invoke("import", run.config, "--file", bo, "--reviewer", "Bo")
    # Of 3 + 2 spans two agree: F1 is 2 * 2 / 5.
    assert "agree on 10 passages by F1 0.800" in result.output
    assert "10 entities that half of them have" in " ".join(result.output.split())
    assert all(len(row["entities"]) == 2 for row in run.rows("gold.jsonl"))
    result = invoke("import", run.config, "--file", ann, "--reviewer", "Cy")
    assert "reviewed by Ann, Bo, Cy" in result.output
    assert all(len(row["entities"]) == 3 for row in run.rows("gold.jsonl"))
    result = invoke("import", run.config, "--file", ann, "--reviewer", "Bo")
    assert "by F1 1.000" in result.output and len(run.rows("round-001/reviews.jsonl")) == 30


@pytest.mark.parametrize("command", ["export", "import"])
def test_help_shows_the_options_and_the_settings(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and "against (" in result.output


def test_before_tag_or_before_a_round_the_error_says_what_to_run(passages, tagged_run, tmp_path):
    run = tagged_run(passages(4))
    missing = invoke("import", run.config, "--file", "x.jsonl")
    assert missing.exit_code == 2 and "run uniner review export CONFIG first" in missing.output
    (run.folder / "tag" / "manifest.json").unlink()
    early = invoke("export", run.config)
    assert early.exit_code == 2 and "uniner tag CONFIG" in early.output


def test_import_says_what_is_left_out_passed_over_and_of_a_type_that_was_not_given_out(
    passages, tagged_run, tmp_path
):
    run = tagged_run(passages(), settings="passages = 12\nrandom_share = 0")
    invoke("export", run.config)
    facts = json.loads((run.folder / "review" / "round-001" / "round.json").read_text())
    assert facts["types"] == ["person", "city"]
    first, second = ids(run, 1)[:2]

    def change(row):
        row = {**correct(row), "reviewer": "Ann", "at": "2026-11-27T10:00:00Z"}
        if row["id"] == first:
            row["entities"][0] = {"start": 0}
        if row["id"] == second:
            row["entities"][0]["type"] = "persn"
        return row

    def older(row):
        return {**correct(row), "reviewer": "ANN", "at": "2026-11-26T10:00:00Z", "entities": []}

    file = corrected_file(run, tmp_path, change=change)
    result = invoke("import", run.config, "--file", file)
    output = " ".join(result.output.split())
    assert result.exit_code == 0, result.output
    assert "review: left out: " in output and "1 of 12 reviews are wrong and left out" in output
    assert "the type 'persn' was not given out and is taken: 1 entities" in output
    assert first not in {row["id"] for row in run.rows("gold.jsonl")}
    file = corrected_file(run, tmp_path, change=older, name="older.jsonl")
    output = " ".join(invoke("import", run.config, "--file", file).output.split())
    assert "11 older reviews are passed over" in output and "reviewed by Ann, 0 skipped" in output
