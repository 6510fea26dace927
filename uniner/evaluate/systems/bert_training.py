"""Training of an encoder to label words: what each training process does. No Ray.

The loss of a step is the mean over its labelled words, whatever the number of processes. There are no
checkpoints: it takes minutes, and begins again after a failure.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from uniner.errors import UserError
from uniner.evaluate.systems.bert import Piece, labels_of, pieces, to_labels
from uniner.gold.catalogue import label_renamer
from uniner.gold.reader import read_gold
from uniner.storage.folder import Folder
from uniner.storage.model_folders import loading, local_model

_NO_LABEL = -100
_WARM_UP, _WEIGHT_DECAY, _CLIP = 0.1, 0.01, 1.0


@dataclass(frozen=True)
class Order:
    """What is to be trained on what.

    base: folder, s3:// address or hub name. gold: the train split of the data set. labels: as build.labels.
    folder_url: where the model goes.
    """

    base: str
    dataset: str
    gold: str
    labels: dict[str, str]
    folder_url: str
    epochs: int
    learning_rate: float
    batch_passages: int
    max_tokens: int
    max_passages: int | None
    seed: int
    use_gpu: bool


@dataclass(frozen=True)
class _Example:
    piece: Piece
    labels: list[int]


def train(order: Order) -> dict[str, Any]:
    """Train and write the model. Returns its figures, or {"error": one line}; the same on every process."""
    try:
        return _train(order)
    except UserError as error:  # all read the same and raise it together; trying again would not help
        return {"error": str(error)}


def _train(order: Order) -> dict[str, Any]:
    import torch
    import torch.distributed as dist
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    torch.manual_seed(order.seed)
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with loading(order.base, "evaluate.system.*.model"):
        base = local_model(order.base)
        tokenizer = AutoTokenizer.from_pretrained(base)
    names, examples = _examples(order, tokenizer)
    with loading(order.base, "evaluate.system.*.model"):
        model: Any = AutoModelForTokenClassification.from_pretrained(
            base, id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)}
        )
    device = torch.device("cuda", torch.cuda.current_device()) if order.use_gpu else torch.device("cpu")
    model = model.to(device).train()
    net = torch.nn.parallel.DistributedDataParallel(model) if workers > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), order.learning_rate, weight_decay=_WEIGHT_DECAY)
    a_pass = -(-len(examples) // order.batch_passages)
    steps = a_pass * order.epochs
    warm_up = max(1, round(_WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up + 1))
    )
    generator = torch.Generator().manual_seed(order.seed)
    last = 0.0
    for _ in range(order.epochs):
        shuffled = [examples[n] for n in torch.randperm(len(examples), generator=generator).tolist()]
        for first in range(0, len(shuffled), order.batch_passages):
            batch = shuffled[first : first + order.batch_passages]
            words = sum(len(example.labels) for example in batch)
            mine = batch[rank::workers]
            # A process with nothing to do takes part all the same, with no weight: the others wait for it.
            loss = _loss(net, tokenizer, mine or batch[:1], device) * (workers / words if mine else 0.0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
            last = float(loss.detach()) / workers if mine else 0.0
    if workers > 1:
        total = torch.tensor([last], device=device)
        dist.all_reduce(total)
        last = float(total)
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            Folder(order.folder_url).upload(Path(folder))
    return {"examples": len(examples), "steps": steps, "last_loss": round(last, 6), "types": len(names) // 2}


def _examples(order: Order, tokenizer: Any) -> tuple[list[str], list[_Example]]:
    rename = label_renamer(order.dataset, order.labels)
    passages = list(islice(read_gold(order.gold, rename=rename), order.max_passages))
    names = labels_of(sorted({entity.type for passage in passages for entity in passage.entities}))
    number = {name: place for place, name in enumerate(names)}
    examples = []
    for passage in passages:
        for piece in pieces(tokenizer, passage.text, order.max_tokens):
            if piece.words:
                labels = [number[label] for label in to_labels(piece.words, passage.entities)]
                examples.append(_Example(piece, labels))
    return names, examples


def _loss(net: Any, tokenizer: Any, examples: Sequence[_Example], device: Any) -> Any:
    """Return the sum over the labelled words."""
    import torch

    batch = tokenizer.pad({"input_ids": [example.piece.ids for example in examples]}, return_tensors="pt")
    wanted = torch.full(batch["input_ids"].shape, _NO_LABEL)
    for row, example in enumerate(examples):
        for word, label in zip(example.piece.words, example.labels, strict=True):
            wanted[row, word.token] = label
    logits = net(
        input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
    ).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten().to(device), ignore_index=_NO_LABEL, reduction="sum"
    )
