"""The paper's ablation at nano size: what negative questions do, on a corpus whose types have a long tail.

python -m benchmarks.negatives [--root FOLDER] [--seeds N] [--documents N] [--held-out N]

The quickstart's made-up texts and recorded teacher, but each domain has fewer documents than the one before,
by Zipf's law: so have its types. The corpus is annotated once. Then for each way to draw absent types (none,
uniform, frequency) and each seed the stages build, train and evaluate run as in the quickstart, one worker,
one pass over the corpus. Held-out passages, as many of each domain, are asked for all types. Printed and
written to negatives.json, mean and spread over the seeds:

    F1               of all questions, as evaluate has it
    F1 present       of the questions for types that the passage has
    F1 rare          of all questions for the rarer half of the types
    absent answered  share of the questions for absent types that were answered with something

Stopped, the same command goes on: each run's stages stand in its folder under the root.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.table import say
from uniner.cli import run
from uniner.metrics.counts import Counts
from uniner.metrics.matching import strict
from uniner.metrics.protocols import ScoredAnswer
from uniner.quickstart.corpus import Document, documents
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.prepare import BASE, LONGEST_HELD_OUT, SENTENCES, lay_out
from uniner.records import Prediction, from_table
from uniner.runtime.chunk_pipeline import connected
from uniner.storage.stage_folder import Folder

CONFIG = str(Path(__file__).parents[1] / "jobs" / "configs" / "quickstart.toml")
WAYS = ("none", "uniform", "frequency")
STEEPNESS = 1.5  # the k-th domain has k ** -STEEPNESS times the documents of the first
MAX_TOKENS = 256  # of a passage, the default of ingest
COLUMNS = ("F1", "F1 present", "F1 rare", "absent answered")
ANNOTATED, RESULTS = "annotated", "negatives.json"


def main() -> None:
    """Run what is not yet there, in one Ray, and show all."""
    options = _options()
    with connected():
        _measure_all(options)


def _measure_all(options: argparse.Namespace) -> None:
    root = Path(options.root).absolute()
    corpus = _documents(_zipf(options.documents), "train")
    mentions = Counter(mention.type for document in corpus for mention in document.mentions)
    rare = {name for name, _ in mentions.most_common()[-(len(mentions) // 2) :]}
    words = _lay_out(root, corpus, options.held_out)
    before = root / ANNOTATED
    _run(["ingest", "annotate", "evaluate"], [*words, f"run.name={ANNOTATED}", 'evaluate.systems=["base"]'])
    measured = {"(base, not trained)": [measure(before / "evaluate" / "base", rare)]}
    # Seed by seed, so that what stands when it is stopped has compared all ways.
    for seed in range(options.seeds):
        for way in WAYS:
            folder = root / f"{way}-{seed}"
            say(f"negatives: {folder.name}")
            # The annotations are the same: only what build makes of them differs.
            shutil.copytree(before / "annotate", folder / "annotate", dirs_exist_ok=True)
            more = [f"run.name={folder.name}", f"run.seed={seed}", f"build.negatives={way}"]
            _run(["build", "train", "evaluate"], [*words, *more, 'evaluate.systems=["student"]'])
            measured.setdefault(way, []).append(measure(folder / "evaluate" / "student", rare))
            results = {"mentions": dict(mentions.most_common()), "measured": measured}
            (root / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    show(measured, mentions)


def measure(folder: Path, rare: Collection[str]) -> dict[str, float]:
    """Return what the columns say of a system's answers, which lie in a folder."""
    of_all, of_present, of_rare = Counts(), Counts(), Counts()
    absent, answered = 0, 0
    for prediction in from_table(Folder(str(folder)).read_rows(), Prediction):
        answer = ScoredAnswer(prediction)
        counts = strict(answer.predicted_set, answer.gold_set)
        of_all += counts
        if prediction.type in rare:
            of_rare += counts
        if prediction.gold:
            of_present += counts
        else:
            absent += 1
            answered += bool(answer.predicted_set)
    figures = (of_all.f1, of_present.f1, of_rare.f1, answered / absent)
    return {name: round(figure, 4) for name, figure in zip(COLUMNS, figures, strict=True)}


def show(measured: Mapping[str, Sequence[Mapping[str, float]]], mentions: Counter[str]) -> None:
    """Print the table: mean and standard deviation over the seeds."""
    counts = [count for _, count in mentions.most_common()]
    total, rarer = sum(counts), sum(counts[-(len(counts) // 2) :])
    say(
        f"{len(counts)} types, {total:,} mentions; the most frequent type has {counts[0] / total:.1%}, "
        f"the rarer half of the types {rarer / total:.1%}, the rarest {counts[-1] / total:.2%}"
    )
    table = Table(title="negative questions")
    for column in ("negatives", "seeds", *COLUMNS):
        table.add_column(column, justify="left" if column == "negatives" else "right")
    for way, runs in measured.items():
        cells = []
        for column in COLUMNS:
            found = [each[column] for each in runs]
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.3f}{spread}")
        table.add_row(way, str(len(runs)), *cells)
    Console(width=max(100, Console().width)).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What negative questions do, at nano size.")
    parser.add_argument("--root", default="runs/negatives")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--held-out", type=int, default=60)
    return parser.parse_args()


def _run(stages: list[str], words: list[str]) -> None:
    if code := run(stages, words):
        sys.exit(code)


def _zipf(count: int) -> list[int]:
    """Return how many of `count` documents each domain has."""
    shares = [rank**-STEEPNESS for rank in range(1, len(DOMAINS) + 1)]
    return [round(count * share / sum(shares)) for share in shares]


def _lay_out(root: Path, corpus: list[Document], held_out_count: int) -> list[str]:
    """Write the corpus. Returns the config and the words that all runs share."""
    folder = Folder(str(root / "corpus"))
    held_out = _documents([-(-held_out_count // len(DOMAINS))] * len(DOMAINS), "heldout")
    lay_out(folder, random.Random(0).sample(corpus, len(corpus)), held_out, MAX_TOKENS, seed=0)
    return [
        CONFIG,
        f"run.root={root}",
        f"student.base={BASE}",
        f'ingest.shards=["{folder.path("shard-*.jsonl.zst")}"]',
        f"ingest.max_tokens={MAX_TOKENS}",
        f"annotate.recording={folder.path('teacher.jsonl.gz')}",
        f'evaluate.gold={{held-out = "{folder.path("heldout.jsonl")}"}}',
        "build.negatives_per_positive=1.0",
        "train.epochs=1",
        "train.workers=1",
    ]


def _documents(counts: Sequence[int], split: str) -> list[Document]:
    """Return so many documents of each domain; held-out ones are short, for they are asked whole."""
    longest = LONGEST_HELD_OUT if split == "heldout" else sys.maxsize
    chosen = []
    for domain, count in zip(DOMAINS, counts, strict=True):
        found = documents([domain], 2 * count, 0, split, SENTENCES)
        chosen += [document for document in found if len(document.text) <= longest][:count]
    return chosen


if __name__ == "__main__":
    main()
