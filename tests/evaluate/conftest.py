"""Gold files, and tiny models made by the tests instead of the systems' real checkpoints."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def write_gold():
    """Return a function that writes a gold file of texts, each with its mentions' types. Returns its path."""

    def write(path: Path, passages: list[tuple[str, dict[str, str]]]) -> str:
        rows = []
        for text, types in passages:
            starts = {mention: text.index(mention) for mention in types}
            entities = [
                {"start": start, "end": start + len(mention), "text": mention, "type": types[mention]}
                for mention, start in starts.items()
            ]
            rows.append({"text": text, "entities": entities})
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


@pytest.fixture(scope="session")
def word_pieces():
    """Return a function that trains a BERT tokenizer on texts, saves it and returns its vocabulary size."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    def make(texts, size, folder):
        pieces = BertWordPieceTokenizer(lowercase=False)
        pieces.train_from_iterator(texts, vocab_size=size, show_progress=False)
        vocabulary = pieces.get_vocab()
        (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
        BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
        return len(vocabulary)

    return make


@pytest.fixture(scope="session")
def tiny_bert(word_pieces, tmp_path_factory):
    """A folder with a small random BERT, with a WordPiece tokenizer of the quickstart's words."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from uniner.quickstart.corpus import documents
    from uniner.quickstart.domains import DOMAINS

    texts = (document.text for document in documents(DOMAINS, 300, 0, "train"))
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    settings = {
        "vocab_size": word_pieces(texts, 2000, folder), "hidden_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 192, "max_position_embeddings": 256,
        # BERT's own value suits a width of 768: here training would start too slowly.
        "initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    BertForMaskedLM(BertConfig(**settings)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_encoder(tiny_bert, tmp_path_factory):
    """A folder with a small random encoder in GLiNER's format, whose scores spread around 0.5."""
    import torch

    from uniner.encoder.folder import new_encoder, save_encoder

    torch.manual_seed(0)
    fields = {"model_name": tiny_bert, "hidden_size": 32, "max_width": 4, "max_len": 64, "num_rnn_layers": 0}
    encoder = new_encoder(tiny_bert, fields)
    with torch.no_grad():
        for name, weight in encoder.model.named_parameters():
            if "token_rep_layer" not in name and weight.dim() > 1:
                weight.mul_(2)
            if name.endswith(".3.bias"):
                weight.zero_()  # where training begins, all scores are low
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder, encoder, encoder.model.state_dict())
    return str(folder)


@pytest.fixture(scope="session")
def trained_encoder(tiny_encoder):
    """Return a function that writes the encoder of a run, as train-encoder does."""

    def write(run: Path, threshold: float = 0.45) -> Path:
        folder = run / "train-encoder" / "encoder"
        shutil.copytree(tiny_encoder, folder)
        facts = {"template": "encoder", "max_tokens": 256, "base": "b", "types": ["city", "person"]}
        (folder / "uniner.json").write_text(json.dumps({**facts, "threshold": threshold}))
        (folder / "README.md").write_text("---\nbase_model: b\n---\n# An encoder\n\n## Scores\n\nNone yet.\n")
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_t5(base, tmp_path_factory):
    """A folder with a small random T5."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(tokenizer), "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    T5ForConditionalGeneration(T5Config(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
