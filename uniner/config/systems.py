"""The settings of evaluate's systems: tables `[evaluate.system.NAME]` with the settings of their `kind`.

Systems answered by vLLM (template, vicuna, alpaca), instructuie, encoder and gliner run in the actors that
the section `engine` describes: its GPUs, CPUs and longest answer apply to them too.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from uniner.config.base import (
    NOT_IDENTITY,
    NUMBER,
    Count,
    Epochs,
    Name,
    NotNegative,
    Positive,
    Section,
    Share,
    Temperature,
)
from uniner.config.teachers import Teacher
from uniner.overlaps import Overlaps

TemplateName = Literal["type", "definition", "grouped", "all_in_one", "words"]
InstructionName = Literal["published", "json"]


class TemplateSystem(Section):
    """A model asked by one of the student's templates, through vLLM."""

    kind: Literal["template"]
    """`template`."""
    model: str
    """Model folder or hub name; `base` and `student` are this run's."""
    template: TemplateName | None = None
    """As student.template. Unset: the template the model was trained with, as its folder says or as is known
    of the released UniNER models, else student.template."""
    group_types: Annotated[int, NUMBER, Field(ge=2)] | None = None
    """Types per question of the templates `grouped` and `words`. Unset: as for template."""


class ChatSystem(Section):
    """A chat model, such as ChatGPT, asked as a teacher is."""

    kind: Literal["chat"]
    """`chat`."""
    teacher: Teacher
    """The model and how to reach it, with the settings of the section `teacher`."""
    instruction: InstructionName = "published"
    """The prompt. `published`: the one behind the published rows of ChatGPT and Vicuna (Ye et al. 2023), all
    types at once. `json`: ours, one type per question, answered by a JSON list."""
    temperature: Temperature = 0.0
    """Sampling temperature."""
    max_reply_tokens: Count = 512
    """Longest reply in tokens; a longer one gets the outcome `too_long`."""
    budget_usd: NotNegative | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Most US dollars for this system in all; the run then stops with exit code 3. With a higher budget the
    same command goes on."""


class InstructedSystem(Section):
    """An instruction-tuned model in its own prompt form, through vLLM."""

    kind: Literal["vicuna", "alpaca"]
    """The prompt form: that of Vicuna 1.1 or of Alpaca."""
    model: str
    """Hugging Face folder (local or s3://) or hub name."""
    instruction: InstructionName = "published"
    """As for a chat system."""
    max_prompt_tokens: Count = 1024
    """Longest prompt. A passage that makes a longer one is asked about in overlapping windows."""


class InstructUIESystem(Section):
    """InstructUIE: an encoder-decoder model that gets all types in one instruction, through transformers."""

    kind: Literal["instructuie"]
    """`instructuie`."""
    model: str
    """Hugging Face folder (local or s3://) or hub name."""
    max_prompt_tokens: Count = 512
    """Longest prompt (InstructUIE: 512). A passage that makes a longer one is asked about in overlapping
    windows."""
    batch_passages: Count = Field(16, json_schema_extra=NOT_IDENTITY)
    """Passages decoded together."""


class BertSystem(Section):
    """An encoder trained on each data set's train split to tag words, as in BERT's published rows."""

    kind: Literal["bert"]
    """`bert`."""
    model: str
    """The untrained encoder: a Hugging Face folder (local or s3://) or hub name, with a fast tokenizer."""
    train: dict[Name, str]
    """Data set's name, as in evaluate.gold, to the address of its train split. Other data sets are not
    scored."""
    epochs: Epochs = 3
    """Passes over a train split."""
    learning_rate: Positive = 5e-5
    """Peak of a linear schedule; the first tenth is warm-up."""
    batch_passages: Count = 32
    """Passages per step, over all workers."""
    max_tokens: Count = 512
    """Longest window in tokens; a longer passage is tagged in several."""
    max_passages: Count | None = None
    """Train on the first passages of each split, at most this many. Unset: all."""
    workers: Count = Field(1, json_schema_extra=NOT_IDENTITY)
    """Training processes (Ray Train); the global batch does not depend on it."""
    use_gpu: bool = Field(True, json_schema_extra=NOT_IDENTITY)
    """One GPU per training process."""


class EncoderSystem(Section):
    """An encoder in GLiNER's format, by this package's own code, which tag uses too."""

    kind: Literal["encoder"]
    """`encoder`."""
    model: str
    """Folder (local or s3://) or hub name of a GLiNER model; `encoder` is this run's."""
    threshold: Share | None = None
    """Lowest score of a mention. Unset: the best on the validation passages of an encoder that was trained
    here, else 0.5 (GLiNER)."""
    types_per_pass: Count | None = None
    """Types asked at once; more are asked in several passes. Unset: the number that it was trained with."""
    overlaps: Overlaps = "flat"
    """flat: of two mentions that overlap the surer counts, even of two types (GLiNER's protocol). longest:
    the longer one. nested: one may lie inside another. keep: all count."""


class GlinerSystem(Section):
    """GLiNER, by its own library, which this package does not require: for comparison, and for architectures
    that the kind `encoder` does not have."""

    kind: Literal["gliner"]
    """`gliner`."""
    model: str
    """GLiNER folder (local or s3://) or hub name."""
    threshold: Share = 0.5
    """Lowest score of a mention (GLiNER: 0.5)."""
    batch_passages: Count = Field(8, json_schema_extra=NOT_IDENTITY)
    """Passages tagged together."""
    pip: list[str] = Field([], json_schema_extra=NOT_IDENTITY)
    """Packages that Ray installs for this system's actors alone, such as ["gliner==0.2.29"], which needs an
    older transformers than ours."""
    python: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """In place of pip: the Python of an environment that has gliner and this package's requirements."""


AnySystem = (
    TemplateSystem
    | ChatSystem
    | InstructedSystem
    | InstructUIESystem
    | BertSystem
    | EncoderSystem
    | GlinerSystem
)
System = Annotated[AnySystem, Field(discriminator="kind")]
"""A system's settings by `kind`."""
SYSTEMS: dict[str, type[Section]] = {
    kind: system
    for system in get_args(AnySystem)
    for kind in get_args(system.model_fields["kind"].annotation)
}
"""The settings of each kind."""
