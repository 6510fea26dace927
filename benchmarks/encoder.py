"""Measure the encoder on one core, beside GLiNER's own library with the same weights and passages.

python -m benchmarks.encoder [--texts FILE] [--passages N] [--turns N] [--gpu]

The passages are the quickstart's corpus cut into 150 to 250 words, or FILE's lines. The models are BERTs of
random weights: one of MiniLM's size (6 layers of width 384) and a small one (3 layers of width 128). Their
tokenizer is a WordPiece trained on the passages. About ten spans of a passage pass the threshold.

    ours                    EncoderTagger.answer on all passages, all types in one pass, float32
    gliner                  GLiNER.inference: all types in one pass too, float32, in its batches of 8
    the text encoder alone  the Hugging Face model on the same batches: what both must compute, so the limit
    ours in bfloat16        the same with half the precision, for processors that compute with it
    25 types a pass         ours with the number of types a pass that models are trained with

They take turns in one process; the rates are the median of the turns, a second of CPU time, so that other
work on the machine counts little. With --gpu the model is a BERT-base, on the GPU, and the rates are a second
of wall time. The last rows are the CPU side alone: batches from token ids, and the
tokenizing before. gliner is optional, installed apart, since it pins another transformers:

    pip install --no-deps --target FOLDER gliner==0.2.29
    PYTHONPATH=FOLDER make bench-encoder
"""

import argparse
import logging
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import Measured, say, show
from uniner.encoder.batches import Collator, Piece
from uniner.encoder.folder import LoadedEncoder, load_encoder, new_encoder, save_encoder
from uniner.encoder.words import TokenizedWords, WordTokenizer
from uniner.inference.encoder import CPU_BATCH_TOKENS, EncoderSettings, EncoderTagger
from uniner.quickstart.corpus import documents
from uniner.quickstart.domains import DOMAINS

SIZES = {
    "MiniLM's size": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12},
    "small": {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4},
}
GPU_SIZES = {"BERT-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}}
VOCABULARY, POSITIONS = 2_500, 1_024  # 100 types and a passage fit: the library cuts what does not
GOALS = {10: "≥ 2", 100: "≥ 5"}
SPANS, USUAL_TYPES = 10, 25  # spans of a passage above the threshold; types a pass in training
GLINER_BATCH = {False: 8, True: 64}  # on a GPU the larger one is faster
GPU_BATCH_TOKENS = 65_536
LEAST_RATE = 5_000.0  # passages a second that keep a GPU busy


def made_up_passages(count: int) -> list[str]:
    """Return passages of 150 to 250 words of the quickstart's corpus."""
    chance = random.Random(0)
    passages: list[str] = []
    words: list[str] = []
    size = chance.randint(150, 250)
    for document in documents(DOMAINS, 10 * count, 0, "train"):
        words += document.text.split()
        while len(words) >= size and len(passages) < count:
            passages.append(" ".join(words[:size]))
            words, size = words[size:], chance.randint(150, 250)
        if len(passages) == count:
            break
    return passages


def type_names(count: int) -> list[str]:
    """Return the corpus's types, and more made of two of them."""
    names = sorted(
        {mention.type for document in documents(DOMAINS, 200, 0, "train") for mention in document.mentions}
    )
    random.Random(0).shuffle(names)
    names += [f"{first} {second}" for first in names for second in names if first < second]
    return names[:count]


def make_base(folder: Path, sizes: Mapping[str, int], passages: Sequence[str]) -> str:
    """Write a BERT of random weights with a WordPiece tokenizer trained on the passages."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*passages, *type_names(100)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, **dict(zip(names, special, strict=True))
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        intermediate_size=4 * sizes["hidden_size"],
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        **sizes,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


def make_encoder(folder: Path, sizes: Mapping[str, int], passages: Sequence[str]) -> str:
    """Write an encoder's folder, of scores that spread. Returns its path."""
    torch.manual_seed(0)
    base = make_base(folder / "base", sizes, passages)
    fields = {
        "model_name": base, "hidden_size": sizes["hidden_size"], "max_width": 12, "num_rnn_layers": 0,
        "max_types": USUAL_TYPES,
    }  # fmt: skip
    encoder = new_encoder(base, fields)
    with torch.no_grad():
        for name, weight in encoder.model.named_parameters():
            if not name.startswith("token_rep_layer"):
                weight.mul_(1.5) if weight.dim() > 1 else weight.zero_()
    save_encoder(folder / "encoder", encoder, encoder.model.state_dict())
    return str(folder / "encoder")


def fitting_threshold(encoder: LoadedEncoder, passages: Sequence[str], types: Sequence[str]) -> float:
    """Return the threshold that SPANS spans of a passage pass."""
    sample = list(passages[:16])
    tagger = EncoderTagger(encoder, EncoderSettings(threshold=0.0, types_per_pass=len(types)))
    answers = tagger.answer([(passage, types) for passage in sample])
    scores = [score for answer in answers for reply in answer.answers for score in reply.span_scores or ()]
    return float(np.sort(scores)[-SPANS * len(sample)])


def in_turns(
    ways: Mapping[str, Callable[[], Any]],
    turns: int,
    passages: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Return each way's passages a second of the clock in each turn, after one turn to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            started = clock()
            way()
            if turn:
                rates[name].append(passages / (clock() - started))
    return rates


def spans_of_ours(answers: Any) -> list[set[tuple[int, int, str]]]:
    return [
        {(start, end, reply.type) for reply in answer.answers for start, end in reply.spans}
        for answer in answers
    ]


def spans_of_gliner(found: Any) -> list[set[tuple[int, int, str]]]:
    return [{(each["start"], each["end"], each["label"]) for each in entities} for entities in found]


def shared(ours: Sequence[set[Any]], theirs: Sequence[set[Any]]) -> float:
    """Return the share of all spans that both found."""
    both = sum(len(one & other) for one, other in zip(ours, theirs, strict=True))
    return both / max(1, sum(len(one | other) for one, other in zip(ours, theirs, strict=True)))


def pieces_of(collator: Collator, texts: Sequence[TokenizedWords], types: Sequence[str]) -> list[Piece]:
    return [
        Piece(number, window, prompt)
        for prompt in collator.prompts(types)
        for number, words in enumerate(texts)
        for window in collator.windows(words, len(prompt.ids))
    ]


def text_encoder_alone(
    encoder: LoadedEncoder, passages: Sequence[str], types: Sequence[str], device: torch.device
) -> None:
    """Compute the text encoder on ready batches, and nothing else."""
    collator = encoder.collator(len(types))
    pieces = pieces_of(collator, collator.tokenizer.texts(passages), types)
    tokens = GPU_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS
    with torch.inference_mode():
        for group in collator.batches(pieces, tokens):
            batch = collator.batch(group)
            states = encoder.model.text_encoder(
                input_ids=torch.from_numpy(batch.input_ids).to(device),
                attention_mask=torch.from_numpy(batch.attention_mask).to(device),
            )
        states.last_hidden_state.cpu()  # waits for the GPU


def tagging(
    size: str, folder: str, gliner: Any, passages: Sequence[str], types: Sequence[str], turns: int, gpu: bool
) -> list[Measured]:
    """Measure tagging with all types in one pass, beside the other ways."""
    encoder, lower = load_encoder(folder), load_encoder(folder)  # a tagger changes its model's precision
    threshold = fitting_threshold(encoder, passages, types)
    device = torch.device("cuda" if gpu else "cpu")
    questions = [(passage, types) for passage in passages]

    def tagger(encoder: LoadedEncoder, types_per_pass: int, dtype: str = "float32") -> EncoderTagger:
        settings = EncoderSettings(
            threshold=threshold, types_per_pass=types_per_pass, overlaps="flat", dtype=dtype, on_gpu=gpu,
            batch_tokens=GPU_BATCH_TOKENS,
        )  # fmt: skip
        return EncoderTagger(encoder, settings)

    ours, usual = tagger(encoder, len(types)), tagger(encoder, USUAL_TYPES)
    half = tagger(lower, len(types), "bfloat16")
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.answer(questions),
        "the text encoder alone": lambda: text_encoder_alone(encoder, passages, types, device),
        "ours in bfloat16": lambda: half.answer(questions),
    }
    if len(types) > USUAL_TYPES:
        ways[f"ours, {USUAL_TYPES} types a pass"] = lambda: usual.answer(questions)
    if gliner:
        theirs = gliner.from_pretrained(folder, local_files_only=True).to(device)
        ways["gliner"] = lambda: theirs.inference(
            list(passages), list(types), threshold=threshold, batch_size=GLINER_BATCH[gpu]
        )
    clock = time.perf_counter if gpu else time.process_time
    measured = in_turns(ways, turns, len(passages), clock)
    rates: dict[str, float | None] = {name: statistics.median(own) for name, own in measured.items()}
    found = spans_of_ours(ours.answer(questions))
    what = f"{size}, {len(types)} types"
    if gliner:
        same = shared(found, spans_of_gliner(ways["gliner"]()))
        say(f"{what}: gliner and ours both found {same:.1%} of the spans that either found")
    same = shared(found, spans_of_ours(half.answer(questions)))
    say(f"{what}: bfloat16 and float32 both found {same:.1%} of the spans that either found")
    goals = {"gliner": GOALS[len(types)], "the text encoder alone": "the limit: 1"}
    rate = statistics.median(measured["ours"])
    names = ["gliner" if gliner else "gliner, not installed", *list(ways)[1:]]
    return [
        Measured(what, rate, "passages/s", name, rates.get(name), goals.get(name, ""))
        for name in dict.fromkeys(names)
    ]


def cpu_side(folder: str, passages: Sequence[str], types: Sequence[str], turns: int) -> list[Measured]:
    """Measure what one core does to feed a GPU: tokenizing, and batches from token ids."""
    encoder = load_encoder(folder)
    collator = encoder.collator(len(types))
    texts = collator.tokenizer.texts(passages)

    def tokenize() -> None:
        WordTokenizer(encoder.tokenizer).texts(passages)

    def collate() -> None:
        pieces = pieces_of(collator, texts, types)
        for group in collator.batches(pieces, 8_192):
            collator.batch(group)

    rates = in_turns({"collate": collate, "tokenize": tokenize}, 3 * turns, len(passages))
    goal = f"≥ {LEAST_RATE:,.0f}"
    collated, tokenized = (statistics.median(rates[name]) for name in ("collate", "tokenize"))
    return [
        Measured("batches from token ids", collated, "passages/s", "feeding a GPU", LEAST_RATE, goal),
        Measured("tokenizing", tokenized, "passages/s", "feeding a GPU", LEAST_RATE, "about 1"),
    ]


def library() -> Any:
    """Return the library's class, or None after saying how to install it."""
    try:
        from gliner import GLiNER
    except ImportError as error:
        say(
            f"gliner is skipped ({error}); to compare, install it apart: pip install --no-deps --target "
            "FOLDER gliner==0.2.29, then PYTHONPATH=FOLDER make bench-encoder"
        )
        return None
    return GLiNER


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=Path, help="a file with a passage a line")
    parser.add_argument("--passages", type=int, help="unset: 32, on a GPU 512")
    parser.add_argument("--gpu", action="store_true", help="a BERT-base on the GPU")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.getLogger("gliner").setLevel(logging.ERROR)
    text = options.texts.read_text(encoding="utf-8") if options.texts else ""
    lines = [line for line in text.splitlines() if line.strip()]
    count = options.passages or (512 if options.gpu else 32)
    passages = lines[:count] or made_up_passages(count)
    gliner, rows = library(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, (size, sizes) in enumerate((GPU_SIZES if options.gpu else SIZES).items()):
            model = make_encoder(Path(folder) / str(number), sizes, passages)
            for count in GOALS:
                rows += tagging(size, model, gliner, passages, type_names(count), options.turns, options.gpu)
        rows += cpu_side(model, lines or made_up_passages(1_000), type_names(10), options.turns)
    words = statistics.mean(len(passage.split()) for passage in passages)
    say(
        f"{len(passages)} passages of {words:.0f} words on average; median of {options.turns} turns, "
        f"{'wall' if options.gpu else 'CPU'} time"
    )
    show(rows)


if __name__ == "__main__":
    main()
