"""Measure the speed and memory of scoring a system's predictions on one core.

python -m benchmarks.scoring [questions]

It makes up a system's predictions on a data set of 10 types (by default 100,000: three of four questions have
no gold mention, as in the benchmark; one answer of a hundred is broken, a third of the mentions is wrong). It
writes, reads and scores them as the evaluate stage does: chunks of 256 passages; all protocols, intervals,
types, lengths, error analysis. Then it does the same with twice as many, each in its own process. It prints
seconds of CPU (so that other work on the machine counts little) and the peak memory above that of a process
with only the libraries. The goals: 100,000 questions in 20 s, and no more memory for twice as many. A paired
test of two such systems comes last.
"""

import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.table import Measured, last_line, say, show
from uniner.evaluate.scoring import SystemScorer
from uniner.grounding import locate
from uniner.metrics.significance import compare_systems, describe_comparison
from uniner.records import PREDICTION, Prediction, Span, from_table, to_table
from uniner.storage.stage_folder import Chunk, StageFolder

TYPES = (
    "person", "organization", "location", "date", "product", "event", "disease", "chemical", "law", "work",
)  # fmt: skip
CHUNK_PASSAGES = 256
GOAL_SECONDS = 20.0


def make_passages(count: int, seed: int) -> Iterator[list[Prediction]]:
    """Yield each passage's predictions. A passage has 8 to 200 words, some of them gold names."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(5_000)]
    texts = random.Random(0)  # all systems have the same passages
    for number in range(count):
        text_words = texts.choices(words, k=texts.randint(8, 200))
        for place in texts.sample(range(len(text_words) - 1), min(6, len(text_words) - 1)):
            text_words[place] = text_words[place].title()
        names = [(word, after) for word, after in pairwise(text_words) if word.istitle()]
        text = " ".join(text_words)
        gold: dict[str, list[str]] = {name: [] for name in TYPES}
        for word, after in names[:4]:
            gold[texts.choice(TYPES)].append(texts.choice((word, f"{word} {after}")))
        yield [answer(chance, f"{number:07d}", text, name, gold[name], words) for name in TYPES]


def answer(
    chance: random.Random, passage_id: str, text: str, type_name: str, gold: list[str], words: list[str]
) -> Prediction:
    """Answer a question, mostly right; some mentions are missed, cut, made up or added."""
    predicted: list[str] = []
    for mention in gold:
        answers: Sequence[list[str]] = ([mention], [], [mention.split()[0]], [chance.choice(words)])
        predicted += chance.choices(answers, (6, 1, 2, 1))[0]
    if not gold and chance.random() < 0.05:
        predicted.append(chance.choice(text.split()))
    predicted = list(dict.fromkeys(predicted))
    reply, outcome = json.dumps(predicted), "ok"
    if chance.random() < 0.01:
        reply, outcome, predicted = f"{reply[:-1]}, ", "too_long", []
    mentions = tuple(dict.fromkeys(gold))
    return Prediction(
        dataset="made-up",
        passage_id=passage_id,
        text=text,
        type=type_name,
        reply=reply,
        predicted=tuple(predicted),
        gold=mentions,
        gold_spans=tuple(
            Span(start=start, end=end) for mention in mentions for start, end in locate(text, mention)[0]
        ),
        outcome=outcome,
        scores=tuple(chance.random() for _ in predicted),
    )


def write(folder: StageFolder, questions: int, seed: int) -> None:
    """Write a system's predictions in chunks."""
    rows: list[Prediction] = []
    chunks = 0
    passages = questions // len(TYPES)
    for number, predictions in enumerate(make_passages(passages, seed), start=1):
        rows += predictions
        if number % CHUNK_PASSAGES == 0 or number == passages:
            folder.write_chunk(Chunk(f"made-up-{chunks:05d}", to_table(rows, PREDICTION)))
            rows, chunks = [], chunks + 1


def read(folder: StageFolder) -> Iterator[Prediction]:
    for key in sorted(folder.chunk_keys()):
        yield from from_table(folder.read_chunk(key).table, Prediction)


def measure(url: str) -> dict[str, float]:
    """Score a folder's predictions. Returns CPU seconds, questions, passages and added peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    scorer = SystemScorer(read(StageFolder(url)))
    scores = scorer.scores()["made-up"]
    table = scorer.passages()
    seconds = time.process_time() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "questions": scores.questions, "peak": peak, "passages": table.num_rows}


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[2])))
        return
    questions = int(sys.argv[1]) if len(sys.argv) == 2 else 100_000
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        measured = []
        for times in (1, 2):
            url = str(Path(folder) / str(times))
            say(f"writing {times * questions:,} predictions")
            write(StageFolder(url), times * questions, seed=times)
            line = last_line([sys.executable, "-m", "benchmarks.scoring", "measure", url], core=core)
            if line is None:
                sys.exit("scoring failed")
            measured.append(json.loads(line))
        once, twice = measured
        scored = f"{once['questions']:,} questions"
        goal = GOAL_SECONDS * once["questions"] / 100_000
        limit = f"{GOAL_SECONDS:.0f} s for 100,000"
        peak = "peak memory, twice the questions"
        show(
            [
                Measured(f"scoring {scored}", once["seconds"], "s of CPU", limit, goal, "≤ 1"),
                Measured(peak, twice["peak"], "MB", scored, once["peak"], "about 1"),
            ]
        )
        other = StageFolder(str(Path(folder) / "other"))
        write(other, questions, seed=3)
        first, second = SystemScorer(read(StageFolder(f"{folder}/1"))), SystemScorer(read(other))
        started = time.process_time()
        comparison = compare_systems(first.passages(), second.passages())
        seconds = time.process_time() - started
        line = describe_comparison("first", "other", comparison["made-up"])
        say(f"paired test: {line} in {seconds:.2f} s of CPU")


if __name__ == "__main__":
    main()
