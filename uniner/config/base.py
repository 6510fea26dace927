"""The base of all config sections, the types of their fields, and the settings of a vLLM engine."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from uniner.labels import is_visible, stripped

NOT_IDENTITY: JsonDict = {"identity": False}
"""Marks a field that may change when a run resumes: it says where or how fast, not what comes out."""


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


NUMBER = BeforeValidator(_no_truth)
"""Refuses true and false, which Python takes for 1 and 0."""
Share = Annotated[float, NUMBER, Field(ge=0, le=1)]
Count = Annotated[int, NUMBER, Field(ge=1)]
Epochs = Annotated[int, NUMBER, Field(ge=1, le=10_000)]
"""Passes over data. All of a run's steps are laid out before the first, so there is a limit."""
Positive = Annotated[float, NUMBER, Field(gt=0)]
NotNegative = Annotated[float, NUMBER, Field(ge=0)]
Temperature = Annotated[float, NUMBER, Field(ge=0, le=2)]


def _type_name(name: str) -> str:
    if name != stripped(name) or len(name.splitlines()) > 1 or not is_visible(name):
        raise ValueError('must be a line in visible characters, without blanks around it, such as "person"')
    return name


TypeName = Annotated[str, AfterValidator(_type_name)]
Language = Annotated[str, Field(pattern="^[a-z]{2,3}$")]
"""A code of ISO 639."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""Part of a file's or folder's name."""


class Section(BaseModel):
    """A frozen section of the config; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the stage's output: all fields without the mark `NOT_IDENTITY`."""
        unmarked = {
            name
            for name, field in type(self).model_fields.items()
            if not isinstance(field.json_schema_extra, dict) or field.json_schema_extra.get("identity", True)
        }
        return self.model_dump(mode="json", include=unmarked)


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError("more than one GPU must be a whole number, such as 2")
    return gpus


class Serving(Section):
    """A vLLM engine in each actor."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of weights and activations."""
    gpus: Annotated[NotNegative, AfterValidator(_whole_above_one)] = Field(1, json_schema_extra=NOT_IDENTITY)
    """GPUs per actor, all on one node. More than 1 splits the model over them (tensor parallel). Less than 1
    has several engines share a GPU, such as 0.25 for four, each with that part of gpu_memory_utilization: a
    small student needs it to fill a large GPU, and tag's estimate says when. 0 runs vLLM on CPU."""
    cpus: Positive = Field(2, json_schema_extra=NOT_IDENTITY)
    """CPUs per actor (engine process, tokenizer, actor)."""
    max_num_seqs: Count = Field(256, json_schema_extra=NOT_IDENTITY)
    """Questions (for a teacher: passages) decoded together."""
    max_num_batched_tokens: Count = Field(8192, json_schema_extra=NOT_IDENTITY)
    """Tokens computed in one engine step."""
    gpu_memory_utilization: Annotated[float, NUMBER, Field(gt=0, le=1)] = Field(
        0.9, json_schema_extra=NOT_IDENTITY
    )
    """Share of the GPU's memory for weights and KV cache."""
    block_size: Count | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """KV-cache block in tokens. On CPU set 32: with vLLM's default, short passages never share a prefix."""
    chunks_in_flight: Count | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Chunks an actor works on at once. Unset: at least 2, and as many as fill the engine while one ends."""
    hang_timeout_s: Positive = Field(600, json_schema_extra=NOT_IDENTITY)
    """An engine that has questions and produces no token for this many seconds is hung: its process ends, and
    another actor redoes its chunks."""
    max_chunk_crashes: Count = Field(3, json_schema_extra=NOT_IDENTITY)
    """Crashes of actors on a chunk before its rows are tried one by one. A row that crashes the engine twice
    when tried alone gets the outcome `poison`, and the run goes on."""
