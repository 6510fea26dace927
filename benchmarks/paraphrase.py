"""What is lost when types are asked in other words, with and without synonyms in training, at nano size.

python -m benchmarks.paraphrase [--root FOLDER] [--seeds N] [--documents N] [--held-out N] [--minutes N]

The texts and the recorded teacher are the quickstart's, but names recur, and the teacher calls types by two
names, as large models do: two fifths of the documents come twice, and the second time the most frequent
types have other names. The corpus is annotated, and its types described, once. Then build, train and evaluate
run as in the quickstart (one worker) for each seed, with types asked by name alone or also by synonym and
description, and with near-synonyms as negatives or not. Held-out passages are asked for all types by name, by
two synonyms and by a description. The teacher's synonyms, which training shows, have the first of the two and
not the second; the description has other words than the teacher's.

Mean and spread over the seeds go to paraphrase.md, all figures to paraphrase.json. "Recovered" is the part of
the loss by name alone that synonyms in training win back. After a stop, or after --minutes, the same command
resumes: each run has its folder under the root.
"""

import argparse
import json
import random
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quickstart_runs import run_stages, words_of_corpus
from benchmarks.table import say
from uniner.quickstart.corpus import MadeUpDocument, Mention, documents
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.prepare import LONGEST_HELD_OUT, SENTENCES, lay_out
from uniner.quickstart.type_replies import type_replies
from uniner.runtime.connection import connected
from uniner.storage.stage_folder import StageFolder

ANNOTATED, FIGURES, TABLE = "annotated", "paraphrase.json", "paraphrase.md"
MAX_TOKENS = 256  # of a passage, the default of ingest
AGAIN_SHARE = 0.4
AGAIN = "Once more: "
RENAMED = ("person", "company", "city", "country", "date", "drug", "dish", "team")
WAYS = {"names": ("describe.types=0",), "names, synonyms and descriptions": ("describe.types=100",)}
NEAR = {"no": "build.skip_near_synonyms=true", "yes": "build.skip_near_synonyms=false"}
COLUMNS = ("by name", "in other words", "loss", "synonym 1", "synonym 2", "description")
"""Figures of a run: F1, and the loss of F1 in other words."""
Runs = Mapping[tuple[str, str], Sequence[Mapping[str, float]]]
"""Figures of the runs by way to ask in training, and whether near-synonyms are negatives."""


def main() -> None:
    """Run what is missing, in one Ray, and show all results."""
    parser = argparse.ArgumentParser(description="Types asked in other words, at nano size.")
    parser.add_argument("--root", default="runs/paraphrase")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--held-out", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=240, help="start no other run after so many")
    options = parser.parse_args()
    with connected():
        _measure_all(options)


def _measure_all(options: argparse.Namespace) -> None:
    ends = time.monotonic() + 60 * options.minutes
    root = Path(options.root).absolute()
    words = _lay_out(root, options)
    run_stages(["ingest", "annotate", "describe"], [*words, f"run.name={ANNOTATED}", "describe.types=100"])
    measured: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(options.seeds):  # seed by seed: a stopped benchmark has compared all on some seeds
        for number, (way, of_way) in enumerate(WAYS.items()):
            for near, of_near in NEAR.items():
                if time.monotonic() > ends:
                    say(f"paraphrase: {options.minutes:g} minutes are over; the same command goes on")
                    return
                folder = root / f"{number}-{near}-{seed}"
                say(f"paraphrase: {folder.name} (asked by {way}; near-synonyms as negatives: {near})")
                for stage in ("annotate", "describe"):  # they are the same; build differs
                    shutil.copytree(root / ANNOTATED / stage, folder / stage, dirs_exist_ok=True)
                more = [f"run.name={folder.name}", f"run.seed={seed}", *of_way, of_near]
                run_stages(["build", "train", "evaluate"], [*words, *more])
                measured.setdefault((way, near), []).append(read_figures(folder))
                rows = [
                    {"asked by": asked, "near-synonyms": near_, "runs": runs}
                    for (asked, near_), runs in measured.items()
                ]
                (root / FIGURES).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                (root / TABLE).write_text(markdown(measured), encoding="utf-8")
    say(markdown(measured))


def read_figures(folder: Path) -> dict[str, float]:
    """Return the columns' values of a run."""
    manifest = StageFolder(str(folder / "evaluate")).require_manifest()
    found = manifest.results["scores"]["student"]["held-out"]["paraphrase"]
    total, ways = found["total"], found["ways"]
    scores = [total["by_name"], total["f1"], total["loss"]]
    scores += [ways[way]["f1"] for way in ("synonym1", "synonym2", "description")]
    return dict(zip(COLUMNS, scores, strict=True))


def markdown(measured: Runs) -> str:
    """Return the table: mean and standard deviation over the seeds, in per cent."""
    head = ["asked in training by", "near-synonyms as negatives", "seeds", *COLUMNS, "recovered"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for (way, near), runs in measured.items():
        cells = [_spread([figures[column] for figures in runs]) for column in COLUMNS]
        lines.append([way, near, str(len(runs)), *cells, _recovered(measured, way, near)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _recovered(measured: Runs, way: str, near: str) -> str:
    """Return the share of the loss of a student asked by names that this way wins back, over equal seeds."""
    names, runs = measured.get((next(iter(WAYS)), near), ()), measured[way, near]
    before = sum(figures["loss"] for figures in names[: len(runs)])
    after = sum(figures["loss"] for figures in runs[: len(names)])
    return "" if way == next(iter(WAYS)) or before <= 0 else f"{1 - after / before:.0%}"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _lay_out(root: Path, options: argparse.Namespace) -> list[str]:
    """Write the corpus. Returns the command-line words of all runs."""
    folder = StageFolder(str(root / "corpus"))
    corpus = with_other_names(list(documents(DOMAINS, options.documents, 0, "train", SENTENCES)))
    candidates = documents(DOMAINS, 3 * options.held_out, 0, "heldout", SENTENCES)
    held_out = [document for document in candidates if len(document.text) <= LONGEST_HELD_OUT]
    lay_out(folder, corpus, held_out[: options.held_out], MAX_TOKENS, seed=0)
    return [
        *words_of_corpus(root, folder, MAX_TOKENS),
        'evaluate.systems=["student"]',
        "evaluate.paraphrase=true",
        f"train.epochs={options.epochs}",
        "train.workers=1",
        "describe.max_bad_share=0.5",  # the recording describes the quickstart's types alone
    ]


def with_other_names(corpus: Sequence[MadeUpDocument]) -> list[MadeUpDocument]:
    """Return the documents, some of them twice: the second time the teacher has other names for some types.

    The other name is the teacher's last synonym, by which evaluate does not ask.
    """
    synonyms = {
        question.removeprefix("Type: "): json.loads(reply)["synonyms"][-1]
        for question, reply in type_replies()
    }
    names = {name: synonyms[name] for name in RENAMED}
    chosen = random.Random(0).sample(corpus, int(AGAIN_SHARE * len(corpus)))
    again = [
        replace(
            document,
            doc_id=f"{document.doc_id}-again",
            text=AGAIN + document.text,
            mentions=tuple(_renamed(mention, names) for mention in document.mentions),
        )
        for document in chosen
    ]
    return random.Random(1).sample([*corpus, *again], len(corpus) + len(again))


def _renamed(mention: Mention, names: Mapping[str, str]) -> Mention:
    return replace(
        mention,
        start=mention.start + len(AGAIN),
        end=mention.end + len(AGAIN),
        type=names.get(mention.type, mention.type),
    )


if __name__ == "__main__":
    main()
