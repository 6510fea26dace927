"""Write the quickstart's nano encoder base: a ModernBERT of random weights with the nano base's tokenizer.

It is not trained: with rotary positions a nano encoder learns the quickstart's task from random weights, with
BERT's or DeBERTa's positions it does not. The same seed gives the same weights.
"""

import tempfile
from pathlib import Path

from uniner.storage.folder import Folder
from uniner.storage.model_folders import load_tokenizer

SEED = 0
_MADE_WITH = "made_with.json"
SIZES = {
    "hidden_size": 96,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    # A width of 96 learns faster from weights of 0.1 than from ModernBERT's 0.02.
    "initializer_range": 0.1,
}


def write_encoder_base(folder: Folder, tokenizer_from: str) -> None:
    """Write the base, unless the folder has it. tokenizer_from: the model whose tokenizer it takes."""
    made_with = {**SIZES, "seed": SEED}
    if folder.read_json(_MADE_WITH) == made_with:
        return
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    tokenizer = load_tokenizer(tokenizer_from)
    end = tokenizer.eos_token_id
    ends = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), end
    )
    config = ModernBertConfig(vocab_size=len(tokenizer), **SIZES, **ends)
    with tempfile.TemporaryDirectory(prefix="uniner-encoder-base-") as local, torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        ModernBertModel(config).save_pretrained(local)
        tokenizer.save_pretrained(local)
        folder.upload(Path(local))
    folder.write_json(_MADE_WITH, made_with)
