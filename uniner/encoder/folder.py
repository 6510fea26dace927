"""Read and write an encoder's folder, in GLiNER's format: `gliner_config.json`, weights and tokenizer."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from uniner.encoder.batches import Collator, ReadingLimits
from uniner.encoder.model import TOKEN_LEVEL, EncoderModel, EncoderShape, begin_unlikely
from uniner.encoder.words import WordTokenizer
from uniner.errors import UserError

CONFIG = "gliner_config.json"
WEIGHTS, OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"
TYPE_MARK, SEPARATOR_MARK = "<<ENT>>", "<<SEP>>"
_UNUSED_MARK = "[FLERT]"
"""GLiNER's library adds it before its two marks; nothing uses it, but it has a row of the embeddings."""
_TEXT_ENCODER = "token_rep_layer.bert_layer.model."
_DEFAULTS: dict[str, Any] = {
    "max_width": 12,
    "hidden_size": 512,
    "dropout": 0.4,
    "span_mode": "markerV0",
    "max_types": 25,
    "max_len": 384,
    "subtoken_pooling": "first",
    "words_splitter_type": "whitespace",
    "num_rnn_layers": 1,
    "embed_ent_token": True,
    "class_token_index": -1,
    "vocab_size": -1,
    "ent_token": TYPE_MARK,
    "sep_token": SEPARATOR_MARK,
}
"""What a config that leaves a field out means, in the library's reading."""
_SUPPORTED = {
    "span_mode": ("markerV0", TOKEN_LEVEL),
    "words_splitter_type": ("whitespace",),
    "subtoken_pooling": ("first", "last"),
}


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 24


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "max_width": _whole(1),
    "hidden_size": _whole(1),
    "max_types": _whole(1),
    "max_len": _whole(1),
    "num_rnn_layers": _whole(-1),
    "class_token_index": _whole(-1),
    "vocab_size": lambda value: _whole(-1)(value) and value != 0,
    "dropout": lambda value: isinstance(value, int | float) and 0 <= value < 1,
    "embed_ent_token": lambda value: isinstance(value, bool),
    "ent_token": lambda value: isinstance(value, str) and bool(value.strip()),
    "sep_token": lambda value: isinstance(value, str) and bool(value.strip()),
}
"""What each field must be."""
# Fields of other architectures, with the values that mean they are absent.
_ABSENT = (
    "labels_encoder", "labels_decoder", "decoder_config", "relations_layer", "post_fusion_schema",
    "fuse_layers", "represent_spans", "precomputed_prompts_mode", "span_encoder_config",
)  # fmt: skip
_UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, ImportError, UnpicklingError,
    SafetensorError, StrictDataclassError, EOFError, ArithmeticError, struct.error,
)  # fmt: skip
"""What transformers, torch and safetensors raise for files that are not what they should be."""
_UNLIMITED = 1 << 20  # a tokenizer that states no limit says a larger number
_RELATIVE = 1024  # tokens where nothing limits them: beyond, attention costs more than windows


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """A model with what it needs to read texts. config: the fields of gliner_config.json."""

    model: EncoderModel
    tokenizer: Any
    config: dict[str, Any]

    def collator(self, types_per_pass: int | None = None) -> Collator:
        """Return what makes its batches. types_per_pass: None is the number of its training."""
        return collator_of(self.config, self.tokenizer, self.model.text_encoder.config, types_per_pass)


def collator_of(
    config: dict[str, Any], tokenizer: Any, text_config: Any, types_per_pass: int | None = None
) -> Collator:
    """Return what makes the batches of an encoder, from its parts (`read_parts`)."""
    ids = [tokenizer.convert_tokens_to_ids(config[name]) for name in ("ent_token", "sep_token")]
    pad = tokenizer.pad_token_id
    return Collator(
        WordTokenizer(tokenizer),
        ReadingLimits(
            tokens=most_tokens(text_config, tokenizer),
            words=config["max_len"],
            types=types_per_pass or config["max_types"],
            overlap=2 * config["max_width"],
        ),
        type_id=ids[0],
        separator_id=ids[1],
        pad_id=0 if pad is None else pad,
        type_place=0 if config["embed_ent_token"] else 1,
        last_subtoken=config["subtoken_pooling"] == "last",
    )


def most_tokens(text_config: Any, tokenizer: Any) -> int:
    """Return how many tokens a text encoder reads at once: what its tokenizer and its positions allow."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _UNLIMITED else []
    positions = getattr(text_config, "max_position_embeddings", 0)  # T5 has none
    # DeBERTa-v3's positions are relative alone, and XLNet's, which says -1.
    if getattr(text_config, "position_biased_input", True) and positions > 0:
        if text_config.model_type in ("roberta", "xlm-roberta", "camembert"):
            positions -= (text_config.pad_token_id or 0) + 1  # theirs begin after the padding's
        limits.append(positions)
    return min(limits, default=_RELATIVE)


def shape_of(config: dict[str, Any]) -> EncoderShape:
    """Return the sizes of the network's layers."""
    return EncoderShape(
        hidden=config["hidden_size"],
        max_width=config["max_width"],
        dropout=config["dropout"],
        token_head=config["span_mode"] == TOKEN_LEVEL,
        rnn_layers=max(0, config["num_rnn_layers"]),
    )


def load_encoder(folder: str) -> LoadedEncoder:
    """Load an encoder from a local folder of ours or of GLiNER's.

    A folder without tokenizer or text encoder's config names its base, whose are then taken.

    Raises:
        UserError: it is not such a folder, or of an architecture that this module does not have.
    """
    config, tokenizer, text_config = read_parts(folder)
    try:
        model = EncoderModel(AutoModel.from_config(text_config), shape_of(config))
        weights = _read_weights(Path(folder))
    except _UNREADABLE as error:
        raise _not_loaded(folder, error) from None
    vectors = weights.get(_TEXT_ENCODER + "embeddings.word_embeddings.weight")
    if vectors is not None and len(vectors) != text_config.vocab_size:
        text_config.vocab_size = len(vectors)
        model = EncoderModel(AutoModel.from_config(text_config), shape_of(config))
    _require_rows(tokenizer, text_config.vocab_size, folder)
    _fill(model, weights, folder)
    return LoadedEncoder(model=model.eval(), tokenizer=tokenizer, config=config)


def read_parts(folder: str) -> tuple[dict[str, Any], Any, Any]:
    """Read all of an encoder but its weights: config, tokenizer with marks, and the text encoder's config.

    Raises:
        UserError: as `load_encoder`.
    """
    config = read_config(folder)
    try:
        base = config.get("model_name") or ""
        own = (Path(folder) / "tokenizer_config.json").exists()
        tokenizer = AutoTokenizer.from_pretrained(folder if own else base)
        text_config = _text_config(config, base)
        _add_unused_mark(tokenizer, config)
        add_marks(tokenizer, config)
        if not isinstance(tokenizer.model_max_length, int | float):
            raise ValueError(f"model_max_length = {tokenizer.model_max_length!r} is no number")
    except _UNREADABLE as error:
        raise _not_loaded(folder, error) from None
    if getattr(text_config, "is_encoder_decoder", False):
        raise UserError(
            f"{folder}: a text encoder of kind {text_config.model_type} is not supported. Score it with its "
            "own library, as evaluate's system of kind gliner"
        )
    mark, stated = config["ent_token"], config["class_token_index"]
    number = tokenizer.convert_tokens_to_ids(mark)
    if -1 not in (stated, config["vocab_size"]) and stated != number:
        raise UserError(
            f"{folder}: its tokenizer has {mark} as number {number:,}, and class_token_index of its {CONFIG} "
            f"is {stated:,}; copy the folder again, with the tokenizer that belongs to the weights"
        )
    if config["vocab_size"] != -1:
        text_config.vocab_size = config["vocab_size"]
    elif config["class_token_index"] == -1:
        text_config.vocab_size = len(tokenizer)
    return config, tokenizer, text_config


def read_config(folder: str) -> dict[str, Any]:
    """Read a folder's gliner_config.json, with the library's values for fields that it leaves out."""
    path = Path(folder) / CONFIG
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not an encoder: it has no {CONFIG}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({_line(error)}); copy the folder again") from None
    if not isinstance(stated, dict):
        raise UserError(f"{path}: must be an object of settings, as GLiNER writes it")
    config = with_defaults(stated)
    for name, right in _RIGHT.items():
        if not right(config[name]):
            raise UserError(f"{path}: {name} = {config[name]!r} is not a right value; copy the folder again")
    for name, known in _SUPPORTED.items():
        if config[name] not in known:
            raise UserError(
                f"{folder}: {name} = {config[name]!r} is not supported; supported: {', '.join(known)}. "
                "Score it with its own library, as evaluate's system of kind gliner"
            )
    if others := [name for name in _ABSENT if config.get(name)]:
        raise UserError(
            f"{folder}: an encoder with {others[0]} is not supported. Score it with its own library, as "
            "evaluate's system of kind gliner"
        )
    return config


def with_defaults(stated: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a config, with the library's values for those that it leaves out."""
    return {**_DEFAULTS, **{name: value for name, value in stated.items() if value is not None}}


def add_marks(tokenizer: Any, config: dict[str, Any]) -> None:
    """Add the marks of types and of the text to a tokenizer that lacks them, as its last tokens."""
    tokenizer.add_tokens([config["ent_token"], config["sep_token"]], special_tokens=True)


def _add_unused_mark(tokenizer: Any, config: dict[str, Any]) -> None:
    """Add what stands before the marks in the library, to a tokenizer that lacks them.

    The published models of 2024 have no tokenizer and no numbers of the marks: both come from the base.
    """
    index, rows = config["class_token_index"], config["vocab_size"]
    comes_first = -1 in (index, rows) or index == len(tokenizer) + 1
    if comes_first and config["ent_token"] not in tokenizer.get_vocab():
        tokenizer.add_tokens([_UNUSED_MARK], special_tokens=True)


def new_encoder(base: str, config: dict[str, Any]) -> LoadedEncoder:
    """Return an encoder to train: the text encoder of a base, with new layers around it.

    base: local folder or hub name. config: fields of gliner_config.json; those about the vocabulary are set.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = with_defaults(config)
    add_marks(tokenizer, config)
    text_encoder = AutoModel.from_pretrained(base, dtype=torch.float32)
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config |= vocabulary_fields(tokenizer, config)
    model = EncoderModel(text_encoder, shape_of(config))
    begin_unlikely(model)
    return LoadedEncoder(model=model, tokenizer=tokenizer, config=config)


def vocabulary_fields(tokenizer: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the config that a tokenizer with marks decides."""
    mark = tokenizer.convert_tokens_to_ids(config["ent_token"])
    return {"class_token_index": mark, "vocab_size": len(tokenizer)}


def save_encoder(folder: Path, encoder: LoadedEncoder, weights: dict[str, torch.Tensor]) -> None:
    """Write an encoder's folder, which also the library reads. weights: the model's state."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = dict(encoder.config)
    kind = "token" if config["span_mode"] == TOKEN_LEVEL else "span"
    config |= {
        "model_type": f"gliner_uni_encoder_{kind}",
        "encoder_config": encoder.model.text_encoder.config.to_dict(),
    }
    contiguous = {name: weight.contiguous().clone() for name, weight in weights.items()}
    save_file(contiguous, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    encoder.tokenizer.save_pretrained(folder)


def _text_config(config: dict[str, Any], base: str) -> Any:
    stated = config.get("encoder_config")
    if not stated:
        return AutoConfig.from_pretrained(base)
    kind = stated.get("model_type", "deberta-v2")
    return AutoConfig.for_model(
        kind, **{name: value for name, value in stated.items() if name != "model_type"}
    )


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if (folder / WEIGHTS).exists():
        return load_file(folder / WEIGHTS)
    if not (folder / OLD_WEIGHTS).exists():
        raise ValueError(f"it has neither {WEIGHTS} nor {OLD_WEIGHTS}")
    weights = torch.load(folder / OLD_WEIGHTS, map_location="cpu", weights_only=True)
    if not isinstance(weights, dict):
        raise ValueError(f"{OLD_WEIGHTS} has no weights by name")
    return weights


def _require_rows(tokenizer: Any, rows: int, folder: str) -> None:
    """Refuse a tokenizer of another model: an id without an embedding would end the work in its middle."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise UserError(
            f"{folder}: its tokenizer has ids up to {largest:,}, and its weights have {rows:,} embeddings; "
            "copy the folder again, with the tokenizer that belongs to the weights"
        )


def _fill(model: nn.Module, weights: dict[str, torch.Tensor], folder: str) -> None:
    try:
        found = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"{folder}: the weights do not fit the config: {_line(error)}") from None
    for name, weight in weights.items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise UserError(f"{folder}: {name} has numbers that are not finite; copy the folder again")
    # Position ids are no weights; old folders list them.
    unexpected = [name for name in found.unexpected_keys if not name.endswith("position_ids")]
    if found.missing_keys or unexpected:
        name = (found.missing_keys or unexpected)[0]
        state = "lacks" if found.missing_keys else "has the unknown"
        raise UserError(f"{folder}: the file of weights {state} {name}; it is not of this architecture")


def _not_loaded(folder: str, error: Exception) -> UserError:
    return UserError(
        f"{folder} cannot be loaded as an encoder: {_line(error)}. Copy the folder again, or name another, "
        "such as urchade/gliner_medium-v2.1"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
