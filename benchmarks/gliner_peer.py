"""Train an encoder with the library gliner's own trainer on what a run's encoder was trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

from uniner.config.schema import Config
from uniner.encoder.folder import load_encoder
from uniner.records import Conversation, from_table
from uniner.storage.model_folders import own_model
from uniner.storage.stage_folder import run_folder
from uniner.templates import make_template
from uniner.train.encoder.samples import asked_passages, make_samples

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def train_gliner(config: Config, steps: int, folder: Path) -> tuple[str, float]:
    """Train for these steps with the settings of section `encoder`, unless the folder has the model.

    Returns its folder and the threshold with the best F1 on the validation passages, as ours has.
    """
    from gliner import GLiNER

    ready, model_folder = folder / "threshold.json", folder / "model"
    if not ready.exists():
        section, rows = config.encoder, _rows(config)
        own = own_model(run_folder(config.run.root, config.run.name), "encoder").url
        fields = json.loads(Path(own, "gliner_config.json").read_text(encoding="utf-8"))
        fields.pop("encoder_config", None)
        fields |= {"model_name": section.base, "vocab_size": -1, "class_token_index": -1}
        model = GLiNER.from_config(fields)
        model.train_model(
            rows["train"], None, output_dir=str(folder / "trainer"), max_steps=steps,
            per_device_train_batch_size=section.batch_passages, learning_rate=section.learning_rate,
            others_lr=section.head_learning_rate, weight_decay=section.weight_decay,
            others_weight_decay=section.weight_decay, warmup_ratio=section.warmup_share,
            lr_scheduler_type="cosine", max_grad_norm=section.max_grad_norm, focal_loss_alpha=0.75,
            bf16=section.dtype == "bfloat16", use_cpu=not section.use_gpu, save_strategy="no",
            dataloader_num_workers=0, seed=config.run.seed,
        )  # fmt: skip
        f1 = {each: model.evaluate(rows["validation"], True, threshold=each)[1] for each in THRESHOLDS}
        model.save_pretrained(model_folder)
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        ready.write_text(json.dumps(max(f1, key=lambda each: f1[each])), encoding="utf-8")
    return str(model_folder), json.loads(ready.read_text(encoding="utf-8"))


def _rows(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Return build's conversations as gliner's rows, cut and asked as for our own encoder."""
    run = run_folder(config.run.root, config.run.name)
    conversations = from_table((run / "build").read_rows(), Conversation)
    template = make_template(config.student.template, config.student.group_types)
    collator = load_encoder(own_model(run, "encoder").url).collator()
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "validation"):
        passages = asked_passages((each for each in conversations if each.split == split), template)
        for sample in make_samples(passages, collator, config.encoder.max_width).samples:
            passage, words = passages[sample.passage], sample.piece.window.words
            bounds = zip(words.starts.tolist(), words.ends.tolist(), strict=True)
            types = [list(passage.asked)[number] for number in sample.piece.prompt.numbers]
            row = {
                "tokenized_text": [passage.text[start:end] for start, end in bounds],
                "ner": [[first, last, types[kind]] for first, last, kind in sample.spans.tolist()],
                "ner_labels": types,
            }
            rows.setdefault(split, []).append(row)
    return rows
