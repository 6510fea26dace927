"""What correcting passages gains: those that `uniner review` chooses against as many drawn at random.

python -m benchmarks.review [--root FOLDER] [--seeds N] [--documents N] [--passages N] [--rounds N]

The corpus is the quickstart's. Of the recorded teacher's labels a tenth are spoilt: half of those get the
type of another entity, half are missing. An encoder learns from them and tags the corpus. Then come rounds of
review: passages are given out, corrected by the known truth in place of a person, and added to the training
data; a new encoder learns from all, and tags for the next round. It runs once with the passages that review
chooses (with its default random share), once with passages drawn at random alone, both from the same first
encoder. F1 is on held-out passages with the right labels.

After a stop the same command resumes: each run has its folder under the root. The table is printed, and is
in review.md, with the figures in review.json.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.quickstart_runs import run_stages, words_of_corpus
from benchmarks.table import say
from uniner.config.loader import load
from uniner.passages import cut_passages
from uniner.quickstart.corpus import MadeUpDocument, Mention, documents, types_of
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.encoder_base import write_encoder_base
from uniner.quickstart.prepare import BASE, LONGEST_HELD_OUT, SENTENCES, lay_out
from uniner.review import stage as review
from uniner.runtime.connection import connected
from uniner.runtime.stage_context import StageContext
from uniner.storage.folder import Folder
from uniner.storage.model_folders import load_tokenizer
from uniner.storage.stage_folder import StageFolder

ARMS = {"chosen": 0.2, "random": 1.0}
"""The share of a round that is drawn at random."""
MAX_TOKENS = 256
RESULTS, TABLE = "review.json", "review.md"
Truth = Mapping[str, Sequence[Mapping[str, Any]]]
"""The right entities of a passage, by its text."""


def main() -> None:
    """Run what is missing, in one Ray, and show all results."""
    options = _options()
    root = Path(options.root).absolute()
    measured: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    with connected():
        for seed in range(options.seeds):
            for arm, scores in measure_seed(root, seed, options).items():
                measured[arm].append(scores)
            table = markdown(measured, options.passages)
            (root / RESULTS).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
            (root / TABLE).write_text(table, encoding="utf-8")
    say(table)


def measure_seed(root: Path, seed: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return each arm's F1 before the first round and after each."""
    words, truth = _lay_out(root, seed, options)
    first = root / f"first-{seed}"
    say(f"review: {first.name}")
    stages = ["ingest", "annotate", "build", "train-encoder", "evaluate", "tag"]
    run_stages(stages, [*words, f"run.name={first.name}"])
    scores = {}
    for arm, share in ARMS.items():
        # Both arms begin with the first encoder, each with reviews in a folder of its own.
        tagged, reviewed = _copy(first, root / f"{arm}-{seed}-round-0", ("ingest", "tag")), ""
        scores[arm] = [_f1(first)]
        for number in range(1, options.rounds + 1):
            say(f"review: {arm}-{seed}, round {number}")
            settings = [f"review.passages={options.passages}", f"review.random_share={share}"]
            settings += [f"review.after={reviewed}"] if reviewed else []
            gold = _review(tagged, [*words, *settings], truth, number)
            folder = _copy(first, root / f"{arm}-{seed}-round-{number}", ("ingest", "annotate"))
            more = [
                f"run.name={folder.name}",
                f'build.supervised={{review = "{gold}"}}',
                f"build.supervised_weight={options.weight}",
                "build.dataset_line=false",
            ]
            stages = ["build", "train-encoder", "evaluate", "tag"]
            run_stages(stages if number < options.rounds else stages[:-1], [*words, *more])
            scores[arm].append(_f1(folder))
            tagged, reviewed = folder, str(tagged)
    return scores


def _review(folder: Path, words: Sequence[str], truth: Truth, number: int) -> str:
    """Give out a round, correct it by the truth, and read it back. Returns the gold file's address."""
    config = load([*words, f"run.name={folder.name}"])
    context = StageContext.of(config, "review", review.SECTIONS)
    gold = context.folder.path("gold.jsonl")
    given = context.folder / f"round-{number:03d}"
    if given.exists("result.json"):
        return gold
    review.export_round(context)
    rows = [json.loads(line) for line in given.read("gold.jsonl").splitlines()]
    corrected = [{**row, "entities": truth[row["text"]]} for row in rows]
    given.write("corrected.jsonl", "".join(json.dumps(row) + "\n" for row in corrected).encode())
    review.import_reviews(context, [given.path("corrected.jsonl")], reviewer="the truth")
    return gold


def _copy(source: Path, target: Path, stages: Sequence[str]) -> Path:
    """Copy stages that are the same into a run's folder, unless they are there."""
    for stage in stages:
        if not (target / stage / "manifest.json").exists():
            shutil.copytree(source / stage, target / stage, dirs_exist_ok=True)
    return target


def spoilt(document: MadeUpDocument, share: float, random: Random) -> MadeUpDocument:
    """Return a document whose labels are wrong with this chance: another's type, or missing.

    All mentions of a name share its label, as the teacher names each once.
    """
    types = sorted({mention.type for mention in document.mentions})
    label: dict[str, str | None] = {}
    for mention in document.mentions:
        if mention.text not in label:
            wrong = random.random() < share
            others = [name for name in types if name != mention.type]
            swapped = random.choice(others) if others and random.random() < 0.5 else None
            label[mention.text] = swapped if wrong else mention.type
    kept = [(mention, label[mention.text]) for mention in document.mentions]
    return replace(document, mentions=tuple(replace(mention, type=name) for mention, name in kept if name))


def _lay_out(root: Path, seed: int, options: argparse.Namespace) -> tuple[list[str], Truth]:
    """Write the corpus and the spoilt teacher. Returns the command-line words of all runs, and the truth."""
    folder, base = Folder(str(root / f"corpus-{seed}")), Folder(str(root / "encoder-base"))
    corpus = list(documents(DOMAINS, options.documents, seed, "train", SENTENCES))
    candidates = documents(DOMAINS, 2 * options.held_out, seed, "heldout", SENTENCES)
    held_out = [each for each in candidates if len(each.text) <= LONGEST_HELD_OUT][: options.held_out]
    random = Random(f"spoil/{seed}")
    wrong = [spoilt(document, options.spoilt, random) for document in corpus]
    if not folder.exists("heldout.jsonl"):  # written last
        lay_out(folder, wrong, held_out, MAX_TOKENS, seed)
        write_encoder_base(base, BASE)
    types = json.dumps(list(types_of(DOMAINS)), ensure_ascii=False)
    return [
        *words_of_corpus(root, folder, MAX_TOKENS),
        f"run.seed={seed}",
        f"encoder.base={base.url}",
        f"encoder.epochs={options.epochs}",
        'evaluate.systems=["encoder"]',
        "tag.student=encoder",
        f"tag.types={types}",
    ], _truth(corpus)


def _truth(corpus: Sequence[MadeUpDocument]) -> Truth:
    """Return the right entities of every passage that the corpus is cut into."""
    tokenizer, truth = load_tokenizer(BASE), {}
    for document in corpus:
        for piece in cut_passages(document.text, tokenizer, MAX_TOKENS):
            inside = [m for m in document.mentions if piece.start <= m.start and m.end <= piece.end]
            truth[document.text[piece.start : piece.end]] = [_entity(m, piece.start) for m in inside]
    return truth


def _entity(mention: Mention, offset: int) -> dict[str, Any]:
    return {**vars(mention), "start": mention.start - offset, "end": mention.end - offset}


def _f1(folder: Path) -> float:
    manifest = (StageFolder(str(folder)) / "evaluate").require_manifest()
    return manifest.results["scores"]["encoder"]["held-out"]["f1"]


def markdown(measured: Mapping[str, Sequence[Sequence[float]]], passages: int) -> str:
    """Return the table: F1 before and after each round, mean and spread over the seeds."""
    rounds = max(len(scores) for runs in measured.values() for scores in runs)
    heads = ["before", *(f"{number * passages} corrected" for number in range(1, rounds))]
    lines = [f"| passages | seeds | {' | '.join(heads)} | gain |", "|---|" + "---:|" * (len(heads) + 2)]
    for arm, runs in measured.items():
        cells = [_mean([scores[number] for scores in runs]) for number in range(rounds)]
        gain = _mean([scores[-1] - scores[0] for scores in runs], "+.3f")
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} | {gain} |")
    pairs = zip(measured["chosen"], measured["random"], strict=True)
    differences = [chosen[-1] - random[-1] for chosen, random in pairs]
    lines += ["", f"Chosen less random after the last round, seed by seed: {_mean(differences, '+.3f')}."]
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float], form: str = ".3f") -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Passages that review chooses, against random ones.")
    parser.add_argument("--root", default="runs/review")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--held-out", type=int, default=120)
    parser.add_argument("--passages", type=int, default=100, help="corrected in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--spoilt", type=float, default=0.1, help="share of the teacher's labels")
    parser.add_argument("--weight", type=float, default=3.0, help="copies of a corrected passage in training")
    parser.add_argument("--epochs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
