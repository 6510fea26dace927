"""Tiny encoders of random weights, of three kinds of text encoder."""

import functools
import re

import pytest
import torch

from uniner.encoder.folder import LoadedEncoder, new_encoder
from uniner.encoder.model import TOKEN_LEVEL

TEXTS = [
    "Ann Lee of Velmora met Bo-Jon in Tarn on 3 May 2021 .",
    "The river Tarn flows by Velmora; person city river date organisation",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Several threads on a busy machine wait for one another, for longer than these models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_base(tmp_path_factory):
    """Return a function that makes a base's folder: `bert`, `deberta` or `modernbert`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoModel, BertConfig, DebertaV2Config, ModernBertConfig, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Listed, not trained: the trainer settles ties by chance, and so would the models differ from run to run.
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789-.,;_"})
    words = sorted({word for text in TEXTS for word in re.findall(r"\w+", text.lower()) if len(word) > 1})
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    sizes = {
        "vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 128,
    }  # fmt: skip
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    configs = {
        "bert": lambda: BertConfig(**sizes),
        "deberta": lambda: DebertaV2Config(
            **sizes, relative_attention=True, position_biased_input=False, pos_att_type=["p2c", "c2p"],
            position_buckets=32, norm_rel_ebd="layer_norm", share_att_key=True, type_vocab_size=0,
        ),
        "modernbert": lambda: ModernBertConfig(**sizes, **ids),
    }  # fmt: skip

    @functools.cache
    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
        pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        pieces.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = dict(
            zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
        )
        PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=128, **names).save_pretrained(
            folder
        )
        torch.manual_seed(0)
        AutoModel.from_config(configs[kind]()).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def make_encoder(make_base):
    """Return a function that makes an encoder whose scores spread around 0.5."""

    def make(kind="bert", head="markerV0", **fields) -> LoadedEncoder:
        base = make_base(kind)
        torch.manual_seed(1)
        config = {
            "model_name": base, "span_mode": head, "hidden_size": 32, "max_width": 4, "max_len": 40,
            "num_rnn_layers": 0, "dropout": 0.1, **fields,
        }  # fmt: skip
        encoder = new_encoder(base, config)
        with torch.no_grad():
            for name, weight in encoder.model.named_parameters():
                if "token_rep_layer" not in name and weight.dim() > 1:
                    weight.mul_(1.5)
                if name.endswith(".3.bias"):
                    weight.zero_()  # where training begins, all scores are low
        encoder.model.eval()
        return encoder

    return make


HEADS = ("markerV0", TOKEN_LEVEL)
