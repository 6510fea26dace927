"""The review benchmark's spoilt teacher, its truth and its table."""

from random import Random

from benchmarks.review import _truth, markdown, spoilt
from uniner.quickstart.corpus import documents
from uniner.quickstart.domains import DOMAINS


def test_a_tenth_of_the_labels_are_spoilt_and_the_texts_are_as_they_were():
    corpus = list(documents(DOMAINS, 400, 0, "train"))
    random = Random(0)
    wrong = [spoilt(document, 0.1, random) for document in corpus]
    assert [document.text for document in wrong] == [document.text for document in corpus]
    right = {(d.doc_id, *vars(m).values()) for d in corpus for m in d.mentions}
    labels = {(d.doc_id, *vars(m).values()) for d in wrong for m in d.mentions}
    assert 0.08 < len(right - labels) / len(right) < 0.12
    swapped = len(labels - right)
    assert 0.3 < swapped / len(right - labels) < 0.55  # another type; the others are missing


def test_the_truth_has_every_entity_of_a_passage_at_its_place():
    truth = _truth(list(documents(DOMAINS, 20, 0, "train")))
    entities = [(text, entity) for text, found in truth.items() for entity in found]
    assert len(entities) > 40
    assert all(text[e["start"] : e["end"]] == e["text"] for text, e in entities)


def test_the_table_has_mean_spread_and_gain_over_the_seeds():
    table = markdown({"chosen": [[0.5, 0.6], [0.5, 0.7]], "random": [[0.5, 0.5], [0.5, 0.6]]}, 100)
    assert "| passages | seeds | before | 100 corrected | gain |" in table
    assert "| chosen | 2 | 0.500 ± 0.000 | 0.650 ± 0.071 | +0.150 ± 0.071 |" in table
    assert "seed by seed: +0.100 ± 0.000." in table
