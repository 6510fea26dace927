"""What benchmarks with runs on the quickstart's made-up corpus share."""

import sys
from collections.abc import Sequence
from pathlib import Path

from uniner.cli import run
from uniner.quickstart.prepare import BASE
from uniner.storage.folder import Folder

CONFIG = str(Path(__file__).parents[1] / "jobs" / "configs" / "quickstart.toml")


def run_stages(stages: Sequence[str], words: Sequence[str]) -> None:
    """Run stages as the command does; where one fails, end with its exit code."""
    if code := run(stages, list(words)):
        sys.exit(code)


def words_of_corpus(root: Path, corpus: Folder, max_tokens: int) -> list[str]:
    """Return the command-line words of runs on a corpus. corpus: as `quickstart.prepare` lays it out."""
    return [
        CONFIG,
        f"run.root={root}",
        f"student.base={BASE}",
        f'ingest.shards=["{corpus.path("shard-*.jsonl.zst")}"]',
        f"ingest.max_tokens={max_tokens}",
        f"teacher.path={corpus.path('teacher.jsonl.gz')}",
        f'evaluate.gold={{held-out = "{corpus.path("heldout.jsonl")}"}}',
    ]
