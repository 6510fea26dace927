"""The paper's ablation of negative questions at nano size, on a corpus whose types have a long tail.

python -m benchmarks.negatives [--root FOLDER] [--seeds N] [--documents N] [--held-out N]

The texts and the recorded teacher are the quickstart's, but the sizes of the domains, and so the frequencies
of their types, follow Zipf's law. The corpus is annotated once. Then build, train and evaluate run as in the
quickstart (one worker, one epoch) for each way to draw absent types (none, uniform, frequency) and each seed.
Held-out passages, equally many of each domain, are asked for all types. Mean and spread over the seeds are
printed and written to negatives.json:

    F1               of all questions, as evaluate reports it
    F1 present       of the questions for types in the passage
    F1 rare          of all questions for the rarer half of the types
    absent answered  share of the questions for absent types that got a mention

After a stop the same command resumes: each run has its folder under the root.
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

from benchmarks.quickstart_runs import run_stages, words_of_corpus
from benchmarks.table import say
from uniner.metrics.counts import Counts
from uniner.metrics.matching import strict
from uniner.metrics.protocols import ScoredAnswer
from uniner.quickstart.corpus import MadeUpDocument, documents
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.prepare import LONGEST_HELD_OUT, SENTENCES, lay_out
from uniner.records import Prediction, from_table
from uniner.runtime.connection import connected
from uniner.storage.stage_folder import StageFolder

STRATEGIES = ("none", "uniform", "frequency")
STEEPNESS = 1.5  # the k-th domain has k ** -STEEPNESS times the documents of the first
MAX_TOKENS = 256  # of a passage, the default of ingest
COLUMNS = ("F1", "F1 present", "F1 rare", "absent answered")
ANNOTATED, RESULTS = "annotated", "negatives.json"


def main() -> None:
    """Run what is missing, in one Ray, and show all results."""
    options = _options()
    with connected():
        _measure_all(options)


def _measure_all(options: argparse.Namespace) -> None:
    root = Path(options.root).absolute()
    corpus = _documents(_zipf(options.documents), "train")
    mentions = Counter(mention.type for document in corpus for mention in document.mentions)
    rare = {name for name, _ in mentions.most_common()[-(len(mentions) // 2) :]}
    words = _lay_out(root, corpus, options.held_out)
    annotated = root / ANNOTATED
    run_stages(
        ["ingest", "annotate", "evaluate"], [*words, f"run.name={ANNOTATED}", 'evaluate.systems=["base"]']
    )
    measured = {"(base, not trained)": [measure(annotated / "evaluate" / "base", rare)]}
    # Seed by seed, so that a stopped benchmark has compared all strategies on the finished seeds.
    for seed in range(options.seeds):
        for strategy in STRATEGIES:
            folder = root / f"{strategy}-{seed}"
            say(f"negatives: {folder.name}")
            # The annotations are the same; build differs.
            shutil.copytree(annotated / "annotate", folder / "annotate", dirs_exist_ok=True)
            more = [f"run.name={folder.name}", f"run.seed={seed}", f"build.negatives={strategy}"]
            run_stages(["build", "train", "evaluate"], [*words, *more, 'evaluate.systems=["student"]'])
            measured.setdefault(strategy, []).append(measure(folder / "evaluate" / "student", rare))
            results = {"mentions": dict(mentions.most_common()), "measured": measured}
            (root / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    show(measured, mentions)


def measure(folder: Path, rare: Collection[str]) -> dict[str, float]:
    """Return the columns' values of the predictions in a folder."""
    of_all, of_present, of_rare = Counts(), Counts(), Counts()
    absent, answered = 0, 0
    for prediction in from_table(StageFolder(str(folder)).read_rows(), Prediction):
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
    for strategy, runs in measured.items():
        cells = []
        for column in COLUMNS:
            values = [figures[column] for figures in runs]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        table.add_row(strategy, str(len(runs)), *cells)
    Console(width=max(100, Console().width)).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The effect of negative questions, at nano size.")
    parser.add_argument("--root", default="runs/negatives")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--held-out", type=int, default=60)
    return parser.parse_args()


def _zipf(count: int) -> list[int]:
    """Divide `count` documents over the domains."""
    shares = [rank**-STEEPNESS for rank in range(1, len(DOMAINS) + 1)]
    return [round(count * share / sum(shares)) for share in shares]


def _lay_out(root: Path, corpus: list[MadeUpDocument], held_out_count: int) -> list[str]:
    """Write the corpus. Returns the command-line words of all runs."""
    folder = StageFolder(str(root / "corpus"))
    held_out = _documents([-(-held_out_count // len(DOMAINS))] * len(DOMAINS), "heldout")
    lay_out(folder, random.Random(0).sample(corpus, len(corpus)), held_out, MAX_TOKENS, seed=0)
    return [
        *words_of_corpus(root, folder, MAX_TOKENS),
        "build.negatives_per_positive=1.0",
        "train.epochs=1",
        "train.workers=1",
    ]


def _documents(counts: Sequence[int], split: str) -> list[MadeUpDocument]:
    """Return `counts` documents of the domains. Held-out documents are short: each is one passage."""
    longest = LONGEST_HELD_OUT if split == "heldout" else sys.maxsize
    chosen = []
    for domain, count in zip(DOMAINS, counts, strict=True):
        candidates = documents([domain], 2 * count, 0, split, SENTENCES)
        chosen += [document for document in candidates if len(document.text) <= longest][:count]
    return chosen


if __name__ == "__main__":
    main()
