"""The stage with rules: checked before Ray, part of the identity, counted in the manifest with examples."""

import asyncio
import json
import sys
from dataclasses import asdict

import pytest

from uniner.errors import UserError
from uniner.inference.questions import PassageAnswers, TypeAnswer
from uniner.records import BY_RULE, PASSAGE, TaggedPassage, from_table, to_table
from uniner.storage.manifest import StageTotals
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.storage.summary_log import SummaryLog
from uniner.tag import stage
from uniner.tag.student import entity_rules, read_facts, rules_identity
from uniner.tag.tagger import EncoderWorker, EntityRules, Tagger
from uniner.tag.types import TypeSelection

from .test_rules import passage, rule_set

COMPANY = {"label": "company", "pattern": "Acme Corp"}
NO_PERSON = {"label": "person", "deny": ["of", "paid"]}


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_bad_rules_end_before_ray(config, stage_context, tmp_path, monkeypatch):
    built = config()

    def check(*lines):
        tag = {"rules": write(tmp_path / "rules.jsonl", *lines), "types": ["person"]}
        settings = built.model_copy(update={"tag": built.tag.model_copy(update=tag)})
        stage.check(stage_context(stage, settings))

    check(COMPANY, NO_PERSON)
    with pytest.raises(UserError, match=r"rules\.jsonl: line 2 has .*such as"):
        check(COMPANY, {"label": "x", "regex": "("})
    with pytest.raises(UserError, match=r"tag\.rules, line 1: 'persom' \(nearest: 'person'\) is neither"):
        check({"label": "persom", "deny": ["x"]})
    with pytest.raises(UserError, match="line 1: 'city', line 2: 'date' are neither a type"):
        check({"label": "city", "deny": ["x"]}, {"label": "date", "min_length": 2})
    with pytest.raises(UserError, match=r'has "min_lenght", an unknown key \(did you mean min_length\?\)'):
        check({"label": "person", "min_lenght": 2})
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="pip install spacy"):
        check({"label": "x", "pattern": [{"LOWER": "x"}]})


def test_other_rules_are_another_run_and_another_path_is_not(config, stage_context, tmp_path):
    built = config()

    def identity(**tag):
        settings = built.model_copy(update={"tag": built.tag.model_copy(update=tag)})
        context = stage_context(stage, settings)
        return rules_identity(entity_rules(context, read_facts(context)))

    one = identity(rules=write(tmp_path / "a.jsonl", COMPANY, NO_PERSON))
    assert one == identity(rules=write(tmp_path / "b.jsonl", COMPANY, NO_PERSON))
    assert one != identity(rules=write(tmp_path / "b.jsonl", NO_PERSON, COMPANY))
    # A run without rules is what it was before there were any.
    assert set(identity()) == {"occurrences", "min_score", "keep_ungrounded", "calibration", "flat"}
    assert set(one) - set(identity()) == {"rules"}


class Answers:
    """Answers each passage with these mentions of a person."""

    async def ask(self, text, types):
        return PassageAnswers((TypeAnswer("person", "ok", {"Ann Lee": 0.9, "of": 0.5}),), {})

    async def ask_all(self, questions):
        return [await self.ask(*question) for question in questions]


@pytest.mark.parametrize("worker", [Tagger, EncoderWorker])
def test_what_the_rules_did_reaches_the_manifest(worker, tmp_path):
    rules = EntityRules(patterns=rule_set(COMPANY, NO_PERSON, {"label": "*", "min_length": 2}))
    tagger = worker(Answers(), TypeSelection(("person",)), rules)
    folder = StageFolder(str(tmp_path / "tag"))
    summaries = []
    for key in ("a", "b"):
        made = asyncio.run(tagger(Chunk(key, to_table([passage()], PASSAGE))))
        (row,) = from_table(made.table, TaggedPassage)
        entities = [(entity.text, entity.grounding) for entity in row.entities]
        assert entities == [("Ann Lee", "exact"), ("Acme Corp", BY_RULE)]
        summary = folder.write_chunk(made)
        assert (
            folder.read_summary(key).examples
            == summary.examples
            == {"1 added": ["Acme Corp"], "2 dropped": ["of (person)"]}
        )
        summaries.append(summary)
    totals = StageTotals(summaries)
    described = stage.describe_rules(rules.patterns, totals.figures, totals.examples)
    assert [(did["line"], did.get("added"), did.get("dropped")) for did in described["did"]] == [
        (1, 2, None),
        (2, None, 2),
    ]
    assert totals.figures["dropped_by_rule"] == 2 and totals.figures["dropped_overlapping"] == 0


def test_examples_pass_through_the_log_of_summaries(tmp_path, monkeypatch):
    monkeypatch.setattr("uniner.storage.summary_log.CHUNKS_A_LOG", 2)
    folder = StageFolder(str(tmp_path / "tag"))
    log = SummaryLog(folder)
    for key, examples in (("a", {"1 added": ["x", "y"]}), ("b", {})):
        log.add(folder.write_chunk(Chunk(key, to_table([], PASSAGE), examples=examples)))
    monkeypatch.setattr(StageFolder, "read_summary", None)  # the logs alone
    read = {summary.key: asdict(summary)["examples"] for summary in folder.summaries()}
    assert read == {"a": {"1 added": ["x", "y"]}, "b": {}} or read["a"]["1 added"] == ["y", "x"]
