"""The paraphrase benchmark: its corpus has near-synonyms, and its table says what is won back."""

from benchmarks.paraphrase import COLUMNS, RENAMED, WAYS, markdown, with_other_names
from uniner.build.near_synonyms import find_near_synonyms, merged, words_of
from uniner.gold.paraphrases import known_paraphrases
from uniner.quickstart.corpus import documents
from uniner.quickstart.domains import DOMAINS


def test_types_that_the_teacher_calls_by_two_names_are_found_as_near_synonyms():
    plain = list(documents(DOMAINS, 300, 0, "train"))
    corpus = with_other_names(plain)
    assert len(corpus) == 420 and len({document.doc_id for document in corpus}) == 420
    for document in corpus:
        assert all(document.text[m.start : m.end] == m.text for m in document.mentions)
    mentions = []
    for document in corpus:
        by_type: dict[str, list[str]] = {}
        for mention in document.mentions:
            by_type.setdefault(mention.type, []).append(mention.text)
        mentions.append(by_type)
    pairs = find_near_synonyms(merged([words_of(mentions)], {}))
    near = {frozenset((pair.first, pair.second)) for pair in pairs}
    types = {name for by_type in mentions for name in by_type}
    known = {name for document in plain for name in (mention.type for mention in document.mentions)}
    others = types - known
    assert len(others) == len(RENAMED)
    asked = {word for name in RENAMED for word in known_paraphrases()[name].synonyms}
    assert not others & asked, "evaluate asks by none of the teacher's other names"
    assert sum(any({name, other} == pair for other in others for pair in near) for name in RENAMED) >= 6


def test_the_table_says_what_is_lost_and_what_is_won_back():
    def figures(name, loss):
        return {**dict.fromkeys(COLUMNS, 0.25), "by name": name, "loss": loss}

    names, synonyms = WAYS
    measured = {
        (names, "no"): [figures(0.9, 0.5), figures(0.8, 0.3)],
        (synonyms, "no"): [figures(0.9, 0.1), figures(0.9, 0.1)],
        (synonyms, "yes"): [figures(0.7, 0.2)],
    }
    head, _, first, second, third = markdown(measured).splitlines()
    assert head.count("|") == first.count("|") == 11
    assert "| names | no | 2 | 85.0 ± 7.1 |" in first and first.endswith("|  |")
    assert "| 90.0 ± 0.0 |" in second and second.endswith("| 75% |")
    assert "| 70.0 |" in third and third.endswith("|  |"), "nothing to compare with"
