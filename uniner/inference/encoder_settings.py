"""How an encoder is run in an actor. torch is imported only where it is started."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from uniner.config.schema import EngineSection
from uniner.errors import UserError
from uniner.overlaps import Overlaps
from uniner.storage.filesystem import is_remote
from uniner.storage.model_folders import ENCODER_THRESHOLD, local_model

if TYPE_CHECKING:
    from uniner.inference.encoder import EncoderTagger


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How an encoder is run and what of its scores counts.

    threshold, threshold_of_type: lowest score of a mention. types_per_pass: None is the number of its
    training. batch_tokens: of a batch, filled up; on CPU at most 1,024. on_gpu: runs in bfloat16 unless
    dtype says otherwise. threads: of torch on CPU.
    """

    threshold: float = ENCODER_THRESHOLD
    threshold_of_type: Mapping[str, float] = field(default_factory=dict)
    types_per_pass: int | None = None
    overlaps: Overlaps = "keep"
    batch_tokens: int = 4096
    on_gpu: bool = False
    dtype: str = "auto"
    threads: int | None = None

    @classmethod
    def of(cls, engine: EngineSection, **counts: Any) -> Self:
        """Return the settings for the actors that a section describes. counts: what of the scores counts."""
        return cls(
            batch_tokens=engine.max_num_batched_tokens,
            on_gpu=engine.gpus > 0,
            dtype=engine.dtype,
            threads=max(1, int(engine.cpus)),
            **counts,
        )


def require_room_for_types(
    model: str, selections: Iterable[Sequence[str]], types_per_pass: int | None
) -> None:
    """Check that an encoder reads types as long as these. Only a local folder is looked at, without weights.

    Raises:
        UserError: naming a type that is too long, or the folder is not an encoder's.
    """
    if is_remote(model) or not Path(model).is_dir():
        return
    from uniner.encoder.folder import collator_of, read_parts

    collator = collator_of(*read_parts(model), types_per_pass)
    for types in selections:
        collator.prompts(types)


def start_encoder(model: str, settings: EncoderSettings) -> "EncoderTagger":
    """Load an encoder (folder, s3:// address or hub name) in this process."""
    from uniner.encoder.folder import load_encoder
    from uniner.inference.encoder import EncoderTagger

    folder = local_model(model)
    if not Path(folder).is_dir():
        folder = fetch_encoder(folder)
    return EncoderTagger(load_encoder(folder), settings)


def fetch_encoder(name: str, only: str | None = None) -> str:
    """Fetch a hub's model, or only the files of a pattern. Returns its folder on this machine.

    Raises:
        UserError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, allow_patterns=only)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name} is no folder of this machine and cannot be fetched from the hub ({reason}); name a "
            "folder, or a model that is there, such as urchade/gliner_medium-v2.1"
        ) from None
