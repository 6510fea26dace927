"""The templates type, grouped and words on the quickstart's corpus, trained on equally many tokens.

python -m benchmarks.templates [--root FOLDER] [--seeds N] [--documents N] [--held-out N] [--tokens N]
                               [--timed N] [SECTION.KEY=VALUE ...]

The corpus is annotated once. For each template and seed build, train and evaluate run as in the quickstart
(one worker); training takes the steps that have --tokens tokens, passages and questions included. Then each
student of seed 0 tags --timed passages with 3, 10 and 50 types on one engine. The table, in Markdown, and its
figures in templates.json:

    F1           of all questions about held-out passages, each asked for all types: mean over the seeds, and
                 the 95 % interval of the passages of all seeds together
    broken       share of the questions whose answer could not be read
    prompt       tokens a passage to compute, its questions' common beginning once, at 3, 10 and 50 types
    answer       tokens a passage of the answers
    passages/s   on one engine, its start left out

The default takes about two hours on two cores; --seeds 1 --documents 90 --held-out 9 --tokens 20000 --timed 6
some minutes. After a stop the same command resumes: each run has its folder under the root, and what was
timed is kept in templates.json. Settings over the quickstart's, such as student.base=FOLDER, go to all runs.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.quickstart_runs import run_stages, words_of_corpus
from benchmarks.table import say
from uniner.config.loader import load
from uniner.evaluate.scoring import ProtocolTally
from uniner.metrics.counts import Counts
from uniner.metrics.matching import strict
from uniner.metrics.protocols import ScoredAnswer
from uniner.quickstart.base_domains import BASE_DOMAINS
from uniner.quickstart.corpus import documents
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.prepare import DOCUMENTS, HELD_OUT, SENTENCES, write
from uniner.records import CONVERSATION, Conversation, Prediction, from_table
from uniner.runtime.connection import connected
from uniner.storage.model_folders import load_tokenizer
from uniner.storage.stage_folder import StageFolder
from uniner.templates import Renderer

TEMPLATES = ("type", "grouped", "words")
TYPE_COUNTS = (3, 10, 50)
PASSAGE_TOKENS = 256
CONVERSATION_TOKENS = 1024
ANNOTATED, RESULTS = "annotated", "templates.json"
RATE_FIGURES = ("questions", "prompt_tokens", "cached_tokens", "answer_tokens")


@dataclass(frozen=True)
class Scored:
    """A student's score on the held-out passages."""

    f1: float
    broken: float
    passages: list[Counts]


def main() -> None:
    """Run what is missing, in one Ray, and show all results."""
    options = _options()
    with connected():
        _measure_all(options)


def _measure_all(options: argparse.Namespace) -> None:
    root = Path(options.root).absolute()
    words = _lay_out(root, options)
    run_stages(["ingest", "annotate"], [*words, f"run.name={ANNOTATED}"])
    scored: dict[str, list[Scored]] = {name: [] for name in TEMPLATES}
    rates = _kept_rates(root)
    # Seed by seed, so that a stopped benchmark has compared all templates on the finished seeds.
    for seed in range(options.seeds):
        for name in TEMPLATES:
            scored[name].append(_train(root, words, name, seed, options.tokens))
            if seed == 0:
                _time_all(root, words, name, options, rates)
            _write(root, scored, rates)
    say("\n" + "\n".join(table(scored, rates, options.timed)))


def _train(root: Path, words: Sequence[str], name: str, seed: int, tokens: int) -> Scored:
    """Build, train for the steps that take so many tokens, and evaluate."""
    folder = root / f"{name}-{seed}"
    say(f"templates: {folder.name}")
    for stage in ("ingest", "annotate"):
        shutil.copytree(root / ANNOTATED / stage, folder / stage, dirs_exist_ok=True)
    own = [*words, f"run.name={folder.name}", f"run.seed={seed}", f"student.template={name}"]
    run_stages(["build"], own)
    steps = _steps(folder, tokens, own)
    run_stages(["train", "evaluate"], [*own, f"train.max_steps={steps}", 'evaluate.systems=["student"]'])
    return read_score(folder / "evaluate" / "student")


def _steps(folder: Path, tokens: int, words: Sequence[str]) -> int:
    """Return the steps that have so many tokens, from the conversations' mean length."""
    config = load(list(words))
    renderer = Renderer(load_tokenizer(config.student.base))
    table = StageFolder(str(folder / "build")).read_rows().select(CONVERSATION.names)
    lengths = []
    for row in from_table(table, Conversation):
        if row.split == "train":
            head, blocks = renderer.blocks(row.conversations)
            lengths.append(len(head) + sum(map(len, blocks)))
    return max(1, round(tokens / (mean(lengths) * config.train.batch_conversations)))


def _time_all(
    root: Path,
    words: Sequence[str],
    name: str,
    options: argparse.Namespace,
    rates: dict[str, dict[str, float]],
) -> None:
    """Tag passages with each number of types; what was timed before stays."""
    for count in TYPE_COUNTS:
        key = _key(name, count, options.timed)
        if key not in rates:
            say(f"templates: timing {key}")
            rates[key] = _time(root, words, name, count, options.timed)


def _time(root: Path, words: Sequence[str], name: str, count: int, passages: int) -> dict[str, float]:
    folder = root / f"timed-{name}-{count}-{passages}"
    shutil.rmtree(folder, ignore_errors=True)  # of a stopped benchmark: its time would not be whole
    own = [
        *words,
        f"run.name={folder.name}",
        f'ingest.shards=["{root / "corpus" / "shard-0.jsonl.zst"}"]',
        f"ingest.max_passages={passages}",
        f"ingest.chunk_passages={passages}",
        f"tag.student={root / f'{name}-0' / 'train' / 'student'}",
        f"tag.types={json.dumps(type_names(count))}",
    ]
    run_stages(["ingest", "tag"], own)
    tagged = StageFolder(str(folder / "tag"))
    manifest = tagged.require_manifest()
    seconds = sum(summary.seconds for summary in tagged.summaries(manifest.chunks))
    figures = {figure: manifest.figures.get(figure, 0) / manifest.rows for figure in RATE_FIGURES}
    return {**figures, "passages_per_s": manifest.rows / seconds}


def type_names(count: int) -> list[str]:
    """Return types of the corpus and, where it has fewer, of the base model's own corpus."""
    made_up = (
        *documents(DOMAINS, 200, 0, "train", SENTENCES),
        *documents(BASE_DOMAINS, 200, 0, "base", SENTENCES),
    )
    names = dict.fromkeys(mention.type for document in made_up for mention in document.mentions)
    if len(names) < count:
        raise ValueError(f"the corpora have {len(names)} types, fewer than {count}")
    return list(names)[:count]


def read_score(folder: Path) -> Scored:
    """Return the score of the predictions in a folder."""
    of_passage: dict[str, Counts] = {}
    questions = broken = 0
    for prediction in from_table(StageFolder(str(folder)).read_rows(), Prediction):
        answer = ScoredAnswer(prediction)
        counts = strict(answer.predicted_set, answer.gold_set)
        of_passage[prediction.passage_id] = of_passage.get(prediction.passage_id, Counts()) + counts
        questions += 1
        broken += prediction.outcome != "ok"
    return Scored(sum(of_passage.values(), Counts()).f1, broken / questions, list(of_passage.values()))


def table(
    scored: Mapping[str, Sequence[Scored]], rates: Mapping[str, Mapping[str, float]], timed: int
) -> list[str]:
    """Return the table's lines."""
    shown = " | ".join(str(count) for count in TYPE_COUNTS)
    lines = [
        f"| template | seeds | F1 | 95 % interval | broken | prompt at {shown} types | answer at {shown} | "
        f"passages/s at {shown} |",
        f"|---|---:|---:|---|---:|{'---:|' * 3 * len(TYPE_COUNTS)}",
    ]
    for name, of_seeds in scored.items():
        if of_seeds:
            low, high = _interval(of_seeds)
            measured = [rates.get(_key(name, count, timed)) for count in TYPE_COUNTS]
            cells = [
                *(
                    _cell(rate, lambda rate: rate["prompt_tokens"] - rate["cached_tokens"])
                    for rate in measured
                ),
                *(_cell(rate, lambda rate: rate["answer_tokens"]) for rate in measured),
                *(_cell(rate, lambda rate: rate["passages_per_s"], ".2f") for rate in measured),
            ]
            f1, broken = mean(each.f1 for each in of_seeds), mean(each.broken for each in of_seeds)
            lines.append(
                f"| {name} | {len(of_seeds)} | {f1:.3f} | [{low:.3f}, {high:.3f}] | {broken:.1%} | "
                f"{' | '.join(cells)} |"
            )
    return lines


def _interval(of_seeds: Sequence[Scored]) -> tuple[float, float]:
    tally = ProtocolTally()
    for each in of_seeds:
        for counts in each.passages:
            tally.add(counts, 1, 0)
    return tally.score().interval


def _cell(
    rate: Mapping[str, float] | None, of: Callable[[Mapping[str, float]], float], form: str = ",.0f"
) -> str:
    return "-" if rate is None else format(of(rate), form)


def _key(name: str, count: int, timed: int) -> str:
    return f"{name}, {count} types, {timed} passages"


def _kept_rates(root: Path) -> dict[str, dict[str, float]]:
    file = root / RESULTS
    return json.loads(file.read_text(encoding="utf-8"))["rates"] if file.exists() else {}


def _write(
    root: Path, scored: Mapping[str, Sequence[Scored]], rates: Mapping[str, Mapping[str, float]]
) -> None:
    """Keep all figures; the file is there as a whole or not at all."""
    scores = {
        name: [{"f1": each.f1, "broken": each.broken} for each in of_seeds]
        for name, of_seeds in scored.items()
    }
    whole = root / f"{RESULTS}.part"
    whole.write_text(json.dumps({"scores": scores, "rates": rates}, indent=1) + "\n", encoding="utf-8")
    whole.replace(root / RESULTS)


def _lay_out(root: Path, options: argparse.Namespace) -> list[str]:
    """Write the corpus. Returns the command-line words of all runs."""
    folder = StageFolder(str(root / "corpus"))
    write(folder, options.documents, options.held_out, PASSAGE_TOKENS)
    return [
        *words_of_corpus(root, folder, PASSAGE_TOKENS),
        f"student.max_tokens={CONVERSATION_TOKENS}",
        "train.workers=1",
        "train.pack_tokens=default",
        "train.epochs=1000",
        "train.validation_questions=0",
        "engine.max_answer_tokens=256",
        "engine.max_bad_share=1",  # speed is measured of a student that has learnt little too
        *options.settings,
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The templates, trained on equally many tokens.")
    parser.add_argument("--root", default="runs/templates")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--timed", type=int, default=60)
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
