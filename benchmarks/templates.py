"""The templates type, grouped and words on the quickstart's corpus, trained on equally many tokens.

python -m benchmarks.templates [--root FOLDER] [--seeds N] [--documents N] [--held-out N] [--tokens N]
                               [--timed N] [--templates NAME ...] [SECTION.KEY=VALUE ...]
python -m benchmarks.templates --passages FOLDER --gold FOLDER [--max-passages N] ...

The corpus is annotated once. For each template and seed build, train and evaluate run as in the quickstart
(one worker); training takes the steps that have --tokens tokens, passages and questions included. Then each
student of seed 0 tags --timed passages with 3, 10 and 50 types on one engine. The table, in Markdown, and its
figures in templates.json:

    F1           in per cent, of all questions about held-out passages, each asked for all types: the mean of
                 the seeds, and the 95 % interval of the passages of all seeds together
    broken       share of the questions whose answer could not be read
    prompt       tokens a passage to compute, its questions' common beginning once, at 3, 10 and 50 types
    answer       tokens a passage of the answers
    passages/s   on one engine, its start left out

The default takes about two hours on two cores; --seeds 1 --documents 90 --held-out 9 --tokens 20000 --timed 6
some minutes. After a stop the same command resumes: each run has its folder under the root, and what was
timed is kept in templates.json. Settings over the quickstart's, such as student.base=FOLDER, go to all runs.

With --passages and --gold the base is SmolLM2-135M and the data is that of `benchmarks.real_bases`, whose
packages and folders these are: the templates learn ChatGPT's replies about Pile passages and are scored
zero-shot on four data sets, F1 being the mean of the four.
"""

import argparse
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from benchmarks import real_bases
from benchmarks.cascade import f1_text, mean_f1, toml
from benchmarks.quickstart_runs import run_stages, words_of_corpus
from benchmarks.table import say
from uniner.config.loader import load
from uniner.errors import UserError
from uniner.evaluate.leaderboard import LeaderboardCell
from uniner.evaluate.scoring import ProtocolTally
from uniner.labels import normalize_type
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
from uniner.teacher.reply_parser import parse_reply
from uniner.templates import Renderer

TEMPLATES = ("type", "grouped", "words")
TYPE_COUNTS = (3, 10, 50)
PASSAGE_TOKENS = 256
CONVERSATION_TOKENS = 1024
ANNOTATED, RESULTS = "annotated", "templates.json"
ANY_ANSWER = "engine.max_bad_share=1"  # speed is measured of a student that has learnt little too
RATE_FIGURES = ("questions", "prompt_tokens", "cached_tokens", "answer_tokens")


@dataclass(frozen=True)
class Scored:
    """A student's score. broken: share of its answers. passages: the counts of each, by data set."""

    broken: float
    passages: Mapping[str, list[Counts]]


@dataclass(frozen=True)
class Corpus:
    """What the students learn and are timed on.

    words: the command-line words of all runs. shard: whose first passages are timed. types: asked there.
    """

    words: list[str]
    shard: Path
    types: list[str]


def main() -> None:
    """Run what is missing, in one Ray, and show all results."""
    options = _options()
    try:
        with connected():
            _measure_all(options)
    except UserError as error:
        sys.exit(str(error))


def _measure_all(options: argparse.Namespace) -> None:
    root = Path(options.root).absolute()
    corpus = _real(root, options) if options.passages else _made_up(root, options)
    run_stages(["ingest", "annotate"], [*corpus.words, f"run.name={ANNOTATED}"])
    scored: dict[str, list[Scored]] = {name: [] for name in TEMPLATES}
    rates = _kept_rates(root)
    # Seed by seed, so that a stopped benchmark has compared all templates on the finished seeds.
    for seed in range(options.seeds):
        for name in options.templates:
            scored[name].append(_train(root, corpus.words, name, seed, options.tokens))
            if seed == 0:
                _time_all(root, corpus, name, options, rates)
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
    root: Path, corpus: Corpus, name: str, options: argparse.Namespace, rates: dict[str, dict[str, float]]
) -> None:
    """Tag passages with each number of types; what was timed before stays."""
    for count in TYPE_COUNTS:
        key = _key(name, count, options.timed)
        if key not in rates:
            say(f"templates: timing {key}")
            rates[key] = _time(root, corpus, name, count, options.timed)


def _time(root: Path, corpus: Corpus, name: str, count: int, passages: int) -> dict[str, float]:
    folder = root / f"timed-{name}-{count}-{passages}"
    shutil.rmtree(folder, ignore_errors=True)  # of a stopped benchmark: its time would not be whole
    own = [
        *corpus.words,
        f"run.name={folder.name}",
        f'ingest.shards=["{corpus.shard}"]',
        f"ingest.max_passages={passages}",
        f"tag.chunk_passages={passages}",
        f"tag.student={root / f'{name}-0' / 'train' / 'student'}",
        f"tag.types={json.dumps(corpus.types[:count])}",
    ]
    run_stages(["ingest", "tag"], own)
    tagged = StageFolder(str(folder / "tag"))
    manifest = tagged.require_manifest()
    (chunk,) = tagged.summaries(manifest.chunks)  # the seconds of several overlap
    figures = {figure: manifest.figures.get(figure, 0) / manifest.rows for figure in RATE_FIGURES}
    return {**figures, "passages_per_s": chunk.rows / chunk.seconds}


def made_up_types() -> list[str]:
    """Return types of the made-up corpus and, as it has fewer than 50, of the base model's own corpus."""
    made_up = (
        *documents(DOMAINS, 200, 0, "train", SENTENCES),
        *documents(BASE_DOMAINS, 200, 0, "base", SENTENCES),
    )
    return list(dict.fromkeys(mention.type for document in made_up for mention in document.mentions))


def read_score(folder: Path) -> Scored:
    """Return the score of the predictions in a folder."""
    passages: defaultdict[str, dict[str, Counts]] = defaultdict(dict)
    questions = broken = 0
    for prediction in from_table(StageFolder(str(folder)).read_rows(), Prediction):
        answer = ScoredAnswer(prediction)
        counts = strict(answer.predicted_set, answer.gold_set)
        of_set, passage = passages[prediction.dataset], prediction.passage_id
        of_set[passage] = of_set.get(passage, Counts()) + counts
        questions += 1
        broken += prediction.outcome != "ok"
    return Scored(broken / questions, {name: list(of_set.values()) for name, of_set in passages.items()})


def table(
    scored: Mapping[str, Sequence[Scored]], rates: Mapping[str, Mapping[str, float]], timed: int
) -> list[str]:
    """Return the table's lines."""
    shown = " | ".join(str(count) for count in TYPE_COUNTS)
    lines = [
        f"| template | seeds | F1 | broken | prompt at {shown} types | answer at {shown} | "
        f"passages/s at {shown} |",
        f"|---|---:|---:|---:|{'---:|' * 3 * len(TYPE_COUNTS)}",
    ]
    for name, of_seeds in scored.items():
        if of_seeds:
            pooled: defaultdict[str, list[Counts]] = defaultdict(list)
            for each in of_seeds:
                for dataset, passages in each.passages.items():
                    pooled[dataset] += passages
            measured = [rates.get(_key(name, count, timed)) for count in TYPE_COUNTS]
            cells = [
                *(
                    _cell(rate, lambda rate: rate["prompt_tokens"] - rate["cached_tokens"])
                    for rate in measured
                ),
                *(_cell(rate, lambda rate: rate["answer_tokens"]) for rate in measured),
                *(_cell(rate, lambda rate: rate["passages_per_s"], ".2f") for rate in measured),
            ]
            f1 = replace(f1_of(pooled), f1=mean(f1_of(each.passages).f1 for each in of_seeds))
            broken = mean(each.broken for each in of_seeds)
            lines.append(f"| {name} | {len(of_seeds)} | {f1_text(f1)} | {broken:.1%} | {' | '.join(cells)} |")
    return lines


def f1_of(passages: Mapping[str, Sequence[Counts]]) -> LeaderboardCell:
    """Return F1 in per cent, the mean of the data sets, with its 95 % interval."""
    tallies = {name: ProtocolTally() for name in passages}
    for name, tally in tallies.items():
        for counts in passages[name]:
            tally.add(counts, 1, 0)
    return mean_f1({name: tally.score() for name, tally in tallies.items()})


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
        name: [{"f1": f1_of(each.passages).f1, "broken": each.broken} for each in of_seeds]
        for name, of_seeds in scored.items()
    }
    whole = root / f"{RESULTS}.part"
    whole.write_text(json.dumps({"scores": scores, "rates": rates}, indent=1) + "\n", encoding="utf-8")
    whole.replace(root / RESULTS)


def _made_up(root: Path, options: argparse.Namespace) -> Corpus:
    """Write the quickstart's corpus."""
    folder = StageFolder(str(root / "corpus"))
    write(folder, options.documents, options.held_out, PASSAGE_TOKENS)
    words = [
        *words_of_corpus(root, folder, PASSAGE_TOKENS),
        f"student.max_tokens={CONVERSATION_TOKENS}",
        "train.workers=1",
        "train.pack_tokens=default",
        "train.epochs=1000",
        "train.validation_questions=0",
        "engine.max_answer_tokens=256",
        ANY_ANSWER,
        *options.settings,
    ]
    return Corpus(words, root / "corpus" / "shard-0.jsonl.zst", made_up_types())


def _real(root: Path, options: argparse.Namespace) -> Corpus:
    """Write SmolLM2 and the Pile passages with ChatGPT's replies."""
    root.mkdir(parents=True, exist_ok=True)
    base = real_bases.make_student_base(root / "smollm2-135m")
    real_bases.write_corpus(Path(options.passages), root, None)
    gold = {name: real_bases.gold_file(Path(options.gold), name) for name in real_bases.DATASETS}
    of_run = argparse.Namespace(
        gpu=False, student_steps=None, encoder_epochs=1, max_passages=options.max_passages
    )
    sections = real_bases.sections(of_run, root, {"student": base, "encoder": base}, gold)
    del sections["encoder"]
    sections["student"]["max_tokens"] = 2560  # `words` repeats the passage
    sections["train"] |= {"workers": 1, "checkpoint_steps": 40, "keep_checkpoints": 1}
    sections["engine"]["max_answer_tokens"] = 128
    written = root / "real-base.toml"
    written.write_text(toml(sections), encoding="utf-8")
    words = [str(written), ANY_ANSWER, *options.settings]
    return Corpus(words, root / "passages.jsonl", frequent_types(Path(options.passages)))


def frequent_types(passages: Path) -> list[str]:
    """Return the types of the replies about passages, the most frequent first."""
    parsed = (parse_reply(reply) for _, reply in real_bases.passages_in(passages))
    found = Counter(normalize_type(each.type) for reply in parsed if reply for each in reply.mentions)
    return [name for name, _ in found.most_common()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The templates, trained on equally many tokens.")
    parser.add_argument("--root", default="runs/templates")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--timed", type=int, default=60)
    parser.add_argument("--templates", nargs="+", choices=TEMPLATES, default=TEMPLATES)
    parser.add_argument("--passages", help="folder of passages with the teacher's replies, for the real base")
    parser.add_argument("--gold", help="folder of the data sets' folders, for the real base")
    parser.add_argument("--max-passages", type=int, default=100, help="passages of each data set")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
