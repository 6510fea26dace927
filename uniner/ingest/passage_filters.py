"""What is wrong with a passage by itself: too short, another language, text of a benchmark."""

import functools
from collections.abc import Collection
from typing import Any

from uniner.ingest.contamination import Benchmarks

FAULTS = ("short", "language", "contaminated")
"""In the order in which they are looked for; a passage is counted under its first."""


class Hygiene:
    """Finds a passage's fault. Without settings nothing is wrong with any."""

    def __init__(
        self, min_tokens: int = 1, languages: Collection[str] = (), benchmarks: Benchmarks | None = None
    ):
        self._min_tokens = min_tokens
        self._languages = frozenset(languages)
        self._benchmarks = benchmarks

    def fault(self, text: str, n_tokens: int) -> tuple[str | None, list[str]]:
        """Return a passage's first fault, None where it has none, and the benchmarks it shares text with."""
        if n_tokens < self._min_tokens:
            return "short", []
        if self._languages and language(text) not in self._languages:
            return "language", []
        shared = self._benchmarks.shared_with(text) if self._benchmarks else []
        return ("contaminated" if shared else None), shared


def language(text: str) -> str:
    """Return a text's language, the most probable one, as an ISO 639 code (py3langid's model)."""
    return _identifier().classify(text)[0]


def languages() -> set[str]:
    """Return the codes that `language` can return."""
    return set(_identifier().labels)


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads 100 MB: only where it is asked for

    return LanguageIdentifier.from_model_file(MODEL_FILE)
