"""The settings of evaluate's systems: `[evaluate.system.NAME]`, a table whose `kind` says which ones it has.

Those that vLLM answers for (template, vicuna, alpaca), and instructuie and gliner, run in the actors that the
section `engine` describes: its GPUs, CPUs and longest answer are theirs too.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from uniner.config.base import HOW, Count, Name, Requests, Section, Share

Instructing = Literal["published", "json"]


class TemplateSystem(Section):
    """A model that is asked by a template of ours, through vLLM."""

    kind: Literal["template"]
    """`template`."""
    model: str
    """Model folder or hub name; `base` and `student` are this run's."""
    template: Literal["type", "definition", "grouped", "all_in_one"] | None = None
    """See student.template; unset: the model's own, or student.template of a model that is no student."""
    group_types: Annotated[int, Field(ge=2)] | None = None
    """Types a question of the template `grouped`; unset: as with template."""


class ChatSystem(Requests):
    """A chat model on an OpenAI-compatible server."""

    kind: Literal["chat"]
    """`chat`."""
    model: str
    """The model's name on the server."""
    base_url: str | None = Field(None, json_schema_extra=HOW)
    """The server; unset: the client's default. The key is OPENAI_API_KEY."""
    instruction: Instructing = "published"
    """How it is asked: `published`, the prompt behind the published rows of ChatGPT and Vicuna (Ye et al.
    2023), all types in one; `json`, ours, a type a question, answered by a JSON list."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature."""
    max_reply_tokens: Count = 512
    """Longest reply in tokens; a longer one has the outcome too_long."""
    cache: str | None = Field(None, json_schema_extra=HOW)
    """Folder of the replies that were paid for; unset: reply-cache under run.root."""
    actors: Count = Field(1, json_schema_extra=HOW)
    """Most actors that ask."""
    budget_usd: Annotated[float, Field(ge=0)] | None = Field(None, json_schema_extra=HOW)
    """What this system may spend in all: the run stops with exit code 3, and goes on with a higher one."""


class InstructedSystem(Section):
    """An instruction-tuned model in its own prompt form, through vLLM."""

    kind: Literal["vicuna", "alpaca"]
    """The prompt form: Vicuna's of version 1.1 or Alpaca's."""
    model: str
    """A Hugging Face folder (local or s3://) or hub name."""
    instruction: Instructing = "published"
    """As of a chat model."""
    max_prompt_tokens: Count = 1024
    """Longest prompt; a longer one is not sent and has the outcome overlong."""


class InstructUIESystem(Section):
    """InstructUIE: all types in one instruction, an encoder-decoder model, through transformers."""

    kind: Literal["instructuie"]
    """`instructuie`."""
    model: str
    """A Hugging Face folder (local or s3://) or hub name."""
    max_prompt_tokens: Count = 512
    """Longest prompt (InstructUIE: 512); a longer one is not asked and has the outcome overlong."""
    batch_passages: Count = Field(16, json_schema_extra=HOW)
    """Passages that are decoded together."""


class BertSystem(Section):
    """An encoder that is trained on each data set's train split to tag words, as BERT's published rows."""

    kind: Literal["bert"]
    """`bert`."""
    model: str
    """What training starts from: a Hugging Face folder (local or s3://) or hub name with a fast tokenizer."""
    train: dict[Name, str]
    """Data set's name, as in evaluate.gold, to the address of its train split; others are not scored."""
    epochs: Count = 3
    """Passes over a train split."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Peak of a linear schedule with a tenth of warm-up."""
    batch_passages: Count = 32
    """Passages a step, over all workers."""
    max_tokens: Count = 512
    """Longest piece of a passage in tokens; a longer passage is tagged in pieces."""
    max_passages: Count | None = None
    """Train on the first so many passages of each split; unset: all."""
    workers: Count = Field(1, json_schema_extra=HOW)
    """Training processes (Ray Train); the batch does not depend on it."""
    use_gpu: bool = Field(True, json_schema_extra=HOW)
    """A GPU a training process."""


class GlinerSystem(Section):
    """GLiNER, by its own library, which is none of our requirements."""

    kind: Literal["gliner"]
    """`gliner`."""
    model: str
    """A GLiNER folder (local or s3://) or hub name."""
    threshold: Share = 0.5
    """Least score of a mention (GLiNER: 0.5)."""
    batch_passages: Count = Field(8, json_schema_extra=HOW)
    """Passages that are tagged together."""
    pip: list[str] = Field([], json_schema_extra=HOW)
    """Packages that Ray installs for this system's actors alone, such as ["gliner==0.2.29"]: it needs a
    transformers older than ours."""
    python: str | None = Field(None, json_schema_extra=HOW)
    """In place of pip: the Python of an environment that has gliner, and all that this project needs."""


AnySystem = TemplateSystem | ChatSystem | InstructedSystem | InstructUIESystem | BertSystem | GlinerSystem
System = Annotated[AnySystem, Field(discriminator="kind")]
"""A system's settings, told apart by `kind`."""
SYSTEMS: dict[str, type[Section]] = {
    kind: system
    for system in get_args(AnySystem)
    for kind in get_args(system.model_fields["kind"].annotation)
}
"""The settings of each kind."""
