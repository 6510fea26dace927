"""The schemas of the records are the file formats: a change here is a change of the format."""

import pytest

from uniner import records

ENTITY = "text: string, type: string, start: int64, end: int64"
COST = "model: string, tokens_in: int64, tokens_out: int64, cost_usd: double, attempts: int64"
SPANS = "list<item: struct<start: int64, end: int64>>"
QUESTION = "dataset: string, passage_id: string, text: string, type: string"
SCHEMAS = {
    "BRIEF": "doc_id: string, source: string, words: int64, text: string",
    "GENERATED_PASSAGE": "doc_id: string, source: string, text: string, outcome: string, reply: string, "
    f"brief: string, {COST}",
    "PASSAGE": "passage_id: string, doc_id: string, passage_index: int64, char_start: int64, "
    "char_end: int64, text: string, n_tokens: int64, source: string, overlap_before: int64, "
    "overlap_after: int64",
    "ANNOTATION": "passage_id: string, doc_id: string, text: string, outcome: string, reply: string, "
    f"entities: list<item: struct<{ENTITY}>>, {COST}",
    "CONVERSATION": "id: string, passage_id: string, "
    "conversations: list<item: struct<from: string, value: string>>, positive_types: list<item: string>, "
    "negative_types: list<item: string>, dataset: string, split: string",
    "TAGGED_PASSAGE": "doc_id: string, passage_id: string, char_start: int64, "
    f"entities: list<item: struct<{ENTITY}, score: double, grounding: string>>, outcome: string, "
    "failed_types: list<item: string>",
    "QUESTION": f"{QUESTION}, gold: list<item: string>, gold_spans: {SPANS}",
    "PREDICTION": f"{QUESTION}, reply: string, predicted: list<item: string>, gold: list<item: string>, "
    f"gold_spans: {SPANS}, outcome: string, scores: list<item: double>, spans: {SPANS}",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_the_documented_format_without_nulls(name):
    schema = getattr(records, name)
    assert ", ".join(f"{field.name}: {field.type}" for field in schema) == SCHEMAS[name]
    assert not any(field.nullable for field in schema)
