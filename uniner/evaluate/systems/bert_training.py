"""Train an encoder to label words: once for each data set, by Ray Train, and what each process does.

The loss of a step is the mean over its labelled words, whatever the number of processes. There are no
checkpoints: training takes minutes, and starts again after a failure.
"""

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from uniner.config.systems import BertSystem
from uniner.errors import UserError
from uniner.evaluate.systems.bert import EncodedPiece, bio_labels, encode_pieces, label_words
from uniner.gold.catalogue import label_renamer, tag_column
from uniner.gold.reader import gold_digest, read_gold
from uniner.runtime import trainer
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.manifest import Identity, Manifest
from uniner.storage.model_folders import loading, local_model, model_digest
from uniner.storage.stage_folder import StageFolder

_NO_LABEL = -100
_WARM_UP, _WEIGHT_DECAY, _MAX_NORM = 0.1, 0.01, 1.0
_MAX_FAILURES = 3
_HYPERPARAMETERS = {"epochs", "learning_rate", "batch_passages", "max_tokens", "max_passages"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BertTrainingJob:
    """A model to train on the train split of a data set.

    settings: the system's section. base: folder, s3:// address or hub name. labels: as evaluate.labels.
    output: address of the folder for the model.
    """

    settings: BertSystem
    base: str
    dataset: str
    labels: Mapping[str, str]
    output: str
    seed: int


@dataclass(frozen=True)
class LabelledPiece:
    """A piece of a passage with the label numbers of its words."""

    piece: EncodedPiece
    labels: list[int]


@dataclass(frozen=True, kw_only=True)
class BertTrainingResult:
    """What training made, or the error in one line; the same on every process."""

    examples: int = 0
    steps: int = 0
    types: int = 0
    last_loss: float = 0.0
    error: str = ""


def train_model(job: BertTrainingJob) -> StageFolder:
    """Train a model on Ray Train, unless its folder is complete. Returns the folder."""
    folder = StageFolder(job.output)
    settings = {**job.settings.model_dump(include=_HYPERPARAMETERS), "labels": dict(job.labels)}
    identity = Identity(
        stage="evaluate train",
        settings={"run": {"seed": job.seed}, "system": {**settings, "dataset": job.dataset}},
        parents={"model": model_digest(job.base), "train": gold_digest(job.settings.train[job.dataset])},
    )
    if folder.begin(identity):
        return folder
    log.info(f"evaluate: training {job.settings.model} on {job.dataset}")
    started = time.monotonic()
    result: BertTrainingResult = trainer.run_training(
        train_worker,
        job,
        folder=folder,
        workers=job.settings.workers,
        use_gpu=job.settings.use_gpu,
        max_failures=_MAX_FAILURES,
        section="evaluate.system.*",
    )
    if result.error:
        raise UserError(result.error)
    with explained(folder.url):
        (folder / trainer.RAY_FOLDER).remove_all()
    figures = {name: value for name, value in asdict(result).items() if name != "error"}
    manifest = Manifest.of(identity, [], time.monotonic() - started, content=model_digest(folder.url))
    folder.write_manifest(replace(manifest, rows=result.examples, figures=figures))
    return folder


def train_worker(job: BertTrainingJob, _session: trainer.TrainerSession | None = None) -> BertTrainingResult:
    """Train in one process of all, and write the model."""
    try:
        return _train(job)
    except UserError as error:  # every process raises the same one, and a retry would not help
        return BertTrainingResult(error=str(error))


def _train(job: BertTrainingJob) -> BertTrainingResult:
    import torch
    import torch.distributed as dist
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    settings = job.settings
    torch.manual_seed(job.seed)
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with loading(job.base, "evaluate.system.*.model"):
        base = local_model(job.base)
        tokenizer = AutoTokenizer.from_pretrained(base)
    names, examples = _examples(job, tokenizer)
    with loading(job.base, "evaluate.system.*.model"):
        model: Any = AutoModelForTokenClassification.from_pretrained(
            base, id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)}
        )
    device = torch.device("cuda", torch.cuda.current_device()) if settings.use_gpu else torch.device("cpu")
    model = model.to(device).train()
    steps = -(-len(examples) // settings.batch_passages) * settings.epochs
    loss = _optimise(job, model, tokenizer, examples, steps, rank, workers)
    total = torch.tensor(loss, device=device, dtype=torch.float64)
    if workers > 1:
        dist.all_reduce(total)
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            Folder(job.output).upload(Path(folder))
    return BertTrainingResult(
        examples=len(examples), steps=steps, types=len(names) // 2, last_loss=round(total.item(), 6)
    )


def _optimise(
    job: BertTrainingJob,
    model: Any,
    tokenizer: Any,
    examples: Sequence[LabelledPiece],
    steps: int,
    rank: int,
    workers: int,
) -> float:
    """Train for all epochs. Returns this process's share of the last step's loss."""
    import torch

    settings = job.settings
    net = torch.nn.parallel.DistributedDataParallel(model) if workers > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY)
    warm_up = max(1, round(_WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up + 1))
    )
    generator = torch.Generator().manual_seed(job.seed)
    last_loss = 0.0
    for _ in range(settings.epochs):
        shuffled = [examples[n] for n in torch.randperm(len(examples), generator=generator).tolist()]
        for first in range(0, len(shuffled), settings.batch_passages):
            batch = shuffled[first : first + settings.batch_passages]
            words = sum(len(example.labels) for example in batch)
            own = batch[rank::workers]
            # A process without examples takes part with weight 0: the others wait for its gradients.
            loss = _loss(net, tokenizer, own or batch[:1], model.device) * (workers / words if own else 0.0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_NORM)
            optimizer.step()
            schedule.step()
            last_loss = float(loss.detach()) / workers if own else 0.0
    return last_loss


def _examples(job: BertTrainingJob, tokenizer: Any) -> tuple[list[str], list[LabelledPiece]]:
    """Return the label names and the examples."""
    settings, rename = job.settings, label_renamer(job.dataset, job.labels)
    gold = read_gold(settings.train[job.dataset], rename=rename, tag_column=tag_column(job.dataset))
    passages = list(islice(gold, settings.max_passages))
    names = bio_labels(sorted({entity.type for passage in passages for entity in passage.entities}))
    numbers = {name: number for number, name in enumerate(names)}
    examples = []
    for passage in passages:
        for piece in encode_pieces(tokenizer, passage.text, settings.max_tokens):
            if piece.words:
                labels = [numbers[label] for label in label_words(piece.words, passage.entities)]
                examples.append(LabelledPiece(piece, labels))
    return names, examples


def _loss(net: Any, tokenizer: Any, examples: Sequence[LabelledPiece], device: Any) -> Any:
    """Return the sum of the loss over the labelled words."""
    import torch

    batch = tokenizer.pad({"input_ids": [example.piece.ids for example in examples]}, return_tensors="pt")
    targets = torch.full(batch["input_ids"].shape, _NO_LABEL)
    for row, example in enumerate(examples):
        for word, label in zip(example.piece.words, example.labels, strict=True):
            targets[row, word.token] = label
    logits = net(
        input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
    ).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten().to(device), ignore_index=_NO_LABEL, reduction="sum"
    )
