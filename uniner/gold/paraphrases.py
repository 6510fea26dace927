"""Other words for the types of gold data: our table for the benchmark's types, and files of the user's.

paraphrases.json has two synonyms and a description for each type of the catalogue's data sets and of the
quickstart, by the words that a student is asked with.
"""

import functools
from collections import Counter
from collections.abc import Collection
from importlib import resources

from uniner.storage.filesystem import absolute, explained, filesystem
from uniner.type_descriptions import Descriptions, read_descriptions

SYNONYMS = ("synonym1", "synonym2")
DESCRIPTION = "description"
WAYS = (*SYNONYMS, DESCRIPTION)
"""The ways to ask for a type in other words; each asks all of a data set's questions once."""


@functools.cache
def _table() -> Descriptions:
    return read_descriptions(
        resources.files("uniner.gold").joinpath("paraphrases.json").read_bytes(), "paraphrases.json"
    )


def known_paraphrases(file: str | None = None) -> Descriptions:
    """Return the paraphrases by type: those of a file of the user's, then our own.

    Raises:
        UserError: where the file is missing or wrong.
    """
    if file is None:
        return _table()
    url = absolute(file)
    system, path = filesystem(url)
    with explained(url):
        data = system.cat_file(path)
    return {**_table(), **read_descriptions(data, url)}


def paraphrased(types: Collection[str], known: Descriptions) -> dict[str, dict[str, str]]:
    """Return for each way to ask the words for each type of a data set that has some.

    Words that name another type of the data set, or two of them, ask for something else: they are left out.
    """
    ways: dict[str, dict[str, str]] = {}
    for place, way in enumerate(WAYS):
        words: dict[str, str] = {}
        for name in types:
            entry = known.get(name.lower())
            options = entry.synonyms if entry and way in SYNONYMS else ()
            if way == DESCRIPTION and entry and entry.description:
                words[name] = entry.description
            elif place < len(options):
                words[name] = options[place]
        uses = Counter(words.values())
        ways[way] = {name: text for name, text in words.items() if uses[text] == 1 and text not in types}
    return {way: words for way, words in ways.items() if words}
