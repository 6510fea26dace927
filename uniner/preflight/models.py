"""Checks of models by their config and tokenizer: nothing is loaded, and no weights are fetched."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniner.config.base import Serving
from uniner.errors import UserError
from uniner.inference.encoder_settings import fetch_encoder
from uniner.preflight.results import CheckResult, error, ok, size
from uniner.storage.filesystem import explained, is_remote
from uniner.storage.folder import Folder
from uniner.storage.model_folders import (
    ENCODER_CONFIG,
    loading,
    model_address,
    require_end_token,
    require_model,
    require_text_encoder,
)

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt", ".npz")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class ModelUse:
    """A model that a run loads, and the setting that names it.

    serving: of the vLLM engine that loads it, if one does. window: tokens of its longest question and answer.
    chat: it is asked in chat messages.
    """

    setting: str
    name: str
    serving: Serving | None = None
    window: int = 0
    chat: bool = False


@dataclass(frozen=True)
class KnownModel:
    """A model's config and tokenizer, of transformers, and its files' sizes; a hub name has none here."""

    name: str
    config: Any
    tokenizer: Any
    files: dict[str, int] = field(hash=False)

    @property
    def fetched_bytes(self) -> int:
        """Return the bytes that each machine copies to its temporary folder: of a remote folder."""
        return sum(self.files.values()) if is_remote(self.name) else 0


@functools.lru_cache(maxsize=32)
def read_model(setting: str, name: str) -> KnownModel:
    """Read a model's config and tokenizer. setting: that names it, for the messages.

    Raises:
        UserError: it is not a model, or it lacks weights.
    """
    from transformers import AutoConfig, AutoTokenizer

    require_model(name, setting=setting)
    with explained(name):
        files = Folder(name).sizes() if is_remote(name) or Path(name).is_dir() else {}
    if files:
        _require_weights(setting, name, files)
    with _without_weights(name, files) as place, loading(name, setting):
        config = AutoConfig.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
    return KnownModel(name, config, tokenizer, files)


def _require_weights(setting: str, name: str, files: dict[str, int]) -> None:
    folder = Folder(name)
    index = next((folder.read_json(each) for each in _INDEXES if each in files), None)
    named = set(index.get("weight_map", {}).values()) if isinstance(index, dict) else set()
    missing = sorted(named - files.keys())
    if missing or not any(file.endswith(_WEIGHTS) for file in files):
        lacking = (
            f"lacks {missing[0]}, which its index names" if missing else "has no weights (*.safetensors)"
        )
        raise UserError(f"{setting} {name} {lacking}; copy the whole folder again")


@contextlib.contextmanager
def _without_weights(name: str, files: dict[str, int]) -> Iterator[str]:
    """Yield the model as transformers takes it; of a remote folder a copy without its weights."""
    if not is_remote(name):
        yield model_address(name)
        return
    with tempfile.TemporaryDirectory(prefix="uniner-preflight-") as copy:
        for file in files:
            if not file.endswith(_WEIGHTS):
                (Path(copy) / file).write_bytes(Folder(name).read(file))
        yield copy


def check_use(use: ModelUse) -> Iterator[CheckResult]:
    """Check that a model can be loaded, by its config and tokenizer, and asked as it is used."""
    model = read_model(use.setting, use.name)
    kind, sizes = model.config.model_type, f", {size(sum(model.files.values()))}" if model.files else ""
    if use.chat and not getattr(model.tokenizer, "chat_template", None):
        yield error(
            use.setting,
            f"{use.name}: its tokenizer has no chat template; name a model that follows instructions, or put "
            "its chat_template.jinja into the folder",
        )
    else:
        yield ok(use.setting, f"{use.name}: {kind}, its config and tokenizer load{sizes}")


def check_encoder(setting: str, name: str) -> Iterator[CheckResult]:
    """Check that an encoder in GLiNER's format can be loaded, by its configs and tokenizer."""
    from uniner.encoder.folder import read_parts

    require_model(name, ENCODER_CONFIG, setting)
    with explained(name):
        files = Folder(name).sizes() if is_remote(name) or Path(name).is_dir() else {}
    if not files:
        fetch_encoder(model_address(name), only=ENCODER_CONFIG)
        yield ok(setting, f"{name}: the hub has it; its weights are fetched when it is loaded")
        return
    _require_weights(setting, name, files)
    with _without_weights(name, files) as place:
        config, _, text_config = read_parts(place)
    head = f"{text_config.model_type} with a {config['span_mode']} head"
    yield ok(setting, f"{name}: {head}, its configs and tokenizer load, {size(sum(files.values()))}")


def check_encoder_base(base: str) -> Iterator[CheckResult]:
    """Check that a base is a text encoder, from which the encoder can be trained."""
    require_text_encoder(base, read_model("encoder.base", base).config)
    yield from check_use(ModelUse("encoder.base", base))


def check_base(base: str, max_tokens: int) -> Iterator[CheckResult]:
    """Check that a base model can be trained on conversations of so many tokens."""
    from uniner.train.prepare import require_attention, require_window

    model = read_model("student.base", base)
    config = model.config
    require_attention(base, config)
    require_end_token(f"student.base {base}", model.tokenizer)
    require_window(max_tokens, config)
    yield from check_use(ModelUse("student.base", base))
