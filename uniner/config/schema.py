"""The sections of the config, one per stage, and what the stages share.

A field marked `NOT_IDENTITY` may change between a run and its resumption; all others are compared with the
stage's identity.json. Credentials come from the environment alone (`AWS_*`, `teacher.api_key_env`).
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator

from uniner.config.base import (
    NOT_IDENTITY,
    NUMBER,
    Count,
    Epochs,
    Language,
    Name,
    NotNegative,
    Positive,
    Section,
    Serving,
    Share,
    Temperature,
    TypeName,
)
from uniner.config.systems import System, TemplateName
from uniner.config.teachers import OpenAITeacher, Teacher
from uniner.overlaps import Overlaps
from uniner.templates import DEFAULT_GROUP_TYPES, default_group_types

Group = Literal["zero-shot-7", "supervised-20", "all"]
Occurrences = Literal["all", "best"]


class Run(Section):
    """Where a run keeps its data, its seed and its budget."""

    root: str = Field("runs", json_schema_extra=NOT_IDENTITY)
    """Folder of all runs: a local path or s3://bucket/prefix."""
    name: Name = Field(json_schema_extra=NOT_IDENTITY)
    """The run's own folder under the root. Take another name for another recipe."""
    seed: Annotated[int, NUMBER] = 0
    """Seed of sampling, negatives, split and training order."""
    budget_usd: NotNegative | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Most US dollars that generate, annotate and describe may spend together, by the teacher's prices. The
    run then stops with exit code 3; with a higher budget the same command goes on. Unset: no limit."""
    storage_patience_s: NotNegative = Field(300.0, json_schema_extra=NOT_IDENTITY)
    """Seconds that reading and writing are tried again where the storage answers with a server's error or not
    at all. Then the stage fails, and the same command goes on from there."""


class Student(Section):
    """The model that is trained, and the template of its questions."""

    base: str
    """Base model: a Hugging Face folder (local or s3://) or hub name. Its tokenizer cuts the passages."""
    template: TemplateName = "type"
    """How types are asked for: `type`, one question per type by its name (the paper's best); `definition`, by
    a sentence that defines it; `grouped`, group_types per question (fewer questions, slightly less exact);
    `all_in_one`, all in one question; `words`, all in one question that is answered by each word of the
    passage with its tag, about twice the passage's tokens whatever the number of types."""
    group_types: Annotated[int, NUMBER, Field(ge=2)] | None = None
    """Types per question of the templates `grouped` and `words`. Unset: 5 for grouped, 50 for words."""
    max_tokens: Count = 1024
    """Longest conversation in tokens, in training and tagging (paper: 1,024). With the template `words` it
    has to hold three times a passage and more."""

    @property
    def types_per_question(self) -> int:
        """Return group_types, or what it is where it is unset."""
        return self.group_types or default_group_types(self.template)

    def template_identity(self) -> dict[str, Any]:
        """Return what decides the questions and the form of their answers."""
        grouped = self.template in DEFAULT_GROUP_TYPES
        return {"template": self.template, **({"group_types": self.types_per_question} if grouped else {})}


class Generate(Section):
    """Names of domains to passages that the teacher writes; ingest reads them beside its shards."""

    domains: dict[TypeName, Count] = {}
    """Domain to the number of its passages, such as {"contract law" = 500}. Their source is
    generated:<domain>. Empty: the stage is skipped."""
    words: Count = 150
    """Mean words per passage; each brief asks for half to one and a half times as many."""
    aspects: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """What varies from passage to passage, such as {"Kind of text" = ["court ruling", "contract"]}, drawn by
    the seed. Unset: kind of text, register, time, place and focus, with built-in values."""
    prompt: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Text file with your own prompt: {brief} marks the place of domain, aspects and length; an optional
    first line `System: ...` is the system message. Unset: the built-in one. The content is identity."""
    temperature: Temperature = 1.0
    """Sampling temperature."""
    max_reply_tokens: Count = 1024
    """Longest reply in tokens; a longer one gets the outcome `too_long`, and ingest does not read it."""
    chunk_passages: Count = 64
    """Passages per chunk, all of one domain."""
    max_bad_share: Share = Field(0.2, json_schema_extra=NOT_IDENTITY)
    """Largest share of passages with an outcome other than ok before the stage fails."""


class Ingest(Section):
    """Corpus shards, and what generate wrote, to passages."""

    shards: list[str] = []
    """Paths or globs, local, s3:// or any protocol of fsspec: JSON lines (.jsonl, .json, .ndjson) and text, a
    document per file (.txt), both also .gz or .zst; Parquet (.parquet). Empty where all passages come from
    generate.domains."""
    max_tokens: Count = 256
    """Longest passage in tokens of the student's tokenizer (paper: 256)."""
    overlap_tokens: Annotated[int, NUMBER, Field(ge=0)] = 0
    """Tokens that a passage shares with the next, so that an entity at a cut is whole in one of the two and
    counted once. At most half of max_tokens."""
    chunk_passages: Count = 128
    """Passages per chunk: about a minute of a teacher's or a student's work."""
    sample: Annotated[float, NUMBER, Field(gt=0, le=1)] = 1.0
    """Share of the passages to take, each with the same chance, by seed and place in the corpus. Only
    documents with a sampled passage are tokenised."""
    sample_of_source: dict[str, Share] = {}
    """Other shares for passages of these sources, such as {"GitHub" = 0}. Generated passages are all taken
    unless named here."""
    max_passages: Count | None = None
    """Take this many passages of the sample, each with the same chance; it is an error if the sample has
    fewer. Unset: all."""
    stratified: bool = False
    """Take the same number of max_passages from each source, as far as it has them."""
    zstd_window_mib: Annotated[int, NUMBER, Field(ge=128, le=2048)] = Field(
        128, json_schema_extra=NOT_IDENTITY
    )
    """Largest window in MiB of a .zst shard (`zstd --long=31` uses 2048). Each reader may take that much
    memory."""
    read_mb: Count | None = None
    """Read only the first MB (decompressed) of each shard, for a quick look; the manifest says so. Text files
    are read whole."""
    text_field: str = "text"
    """Field of a row with the text; dots go into nested objects."""
    id_field: str | None = None
    """Field with a document's own id, a string or a whole number; documents that share an id are counted and
    said. Unset: its place (part of the corpus, row) is its id. A text file's id is always its path below the
    folder that all text files share."""
    source_field: str = "meta.pile_set_name"
    """Field with the name of the sub-corpus; may be absent."""
    min_tokens: Count = 1
    """Shorter passages are dropped and counted, as by the next four settings."""
    languages: list[Language] = []
    """Keep passages of these languages (ISO 639 codes, such as ["en"]; guessed by py3langid, at times wrongly
    for short passages, code or lists of names). Empty: all."""
    decontaminate: dict[str, str] = {}
    """Benchmark's name to its file (any format of shards, the text in `text`): passages that share an n-gram
    of words with its texts are dropped."""
    decontaminate_words: Count = 12
    """Words of that n-gram. Benchmark texts with fewer words cannot be noticed; the manifest counts them."""
    dedupe: bool = False
    """Keep only the first of passages with the same text up to case and white space."""
    max_row_mb: Count = 64
    """Longest row of a shard in MB (decompressed); longer rows are rejected, so that memory stays bounded."""
    max_reject_share: Share = Field(0.01, json_schema_extra=NOT_IDENTITY)
    """Largest share of rejected rows before the stage fails. rejects-*.jsonl beside the chunks has each row's
    shard, line and reason."""


class Annotate(Section):
    """Passages to annotations by the teacher."""

    prompt: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Text file with your own prompt: {passage} marks the passage's place; an optional first line
    `System: ...` is the system message. Unset: the paper's. The file's content is identity."""
    reply_format: Literal["tuples", "json_schema"] = "tuples"
    """The paper's list of tuples, or a JSON schema for a server that enforces schemas."""
    temperature: Temperature = 0.0
    """Sampling temperature (paper: 0)."""
    max_reply_tokens: Count = 1024
    """Longest reply in tokens; a longer one is cut and gets the outcome `too_long`."""
    occurrences: Occurrences = "all"
    """Which occurrences of a mention become entities: all, or the best one, the first. One inside a longer
    mention ("Paris" in "Paris Hilton") counts only where the mention occurs nowhere else."""
    max_bad_share: Share = Field(0.2, json_schema_extra=NOT_IDENTITY)
    """Largest share of passages with an outcome other than ok before the stage fails."""


class Describe(Section):
    """Types to descriptions and synonyms by the teacher, for build's questions."""

    types: Annotated[int, NUMBER, Field(ge=0)] = 0
    """Number of the most frequent types of the annotations that the teacher describes, a request each. 0: the
    stage is skipped. build then asks for these types by name, by synonym and by name with description."""
    prompt: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Text file with your own prompt: {type} marks the type's place; an optional first line `System: ...` is
    the system message. The reply must be {"description": "...", "synonyms": ["..."]}. Unset: the built-in
    one. The content is identity."""
    temperature: Temperature = 0.0
    """Sampling temperature."""
    max_reply_tokens: Count = 256
    """Longest reply in tokens; a longer one gets the outcome `too_long`."""
    chunk_types: Count = 64
    """Types per chunk."""
    max_bad_share: Share = Field(0.2, json_schema_extra=NOT_IDENTITY)
    """Largest share of types with an outcome other than ok before the stage fails. They are asked for by name
    alone."""


class Build(Section):
    """Annotations and gold data to conversations."""

    negatives: Literal["none", "uniform", "frequency"] = "frequency"
    """How absent types are drawn: not at all, evenly, or in proportion to their mentions (paper's best)."""
    skip_near_synonyms: bool = True
    """Never ask for a type as a negative beside one that means nearly the same, such as location where the
    passage has a country: its answer would be wrong. Two types are close if the teacher gave them to the same
    words in different passages; build/near-synonyms.json and the data card list them with the evidence."""
    near_synonym_encoder: str | None = None
    """Also take two types for near-synonyms whose names are close by this text encoder, such as
    "sentence-transformers/all-MiniLM-L6-v2" (a folder or hub name; one made for likeness of sentences). The
    machine of the driver runs it on its CPU: 13,000 names take it about a minute."""
    near_synonym_likeness: Annotated[float, NUMBER, Field(ge=0.5, le=1)] = 0.75
    """Likeness of two names, a cosine, from which they are close. With less than 0.5 so many unrelated names
    would be close that their pairs fill the driver's memory."""
    type_descriptions_file: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """JSON file of descriptions and synonyms, in place of what describe wrote: {"person": {"description": "a
    human being, called by a name", "synonyms": ["individual"]}}. The content is identity. Unset: those of
    describe, if describe.types is set; else all types are asked for by name."""
    synonym_share: Share = 0.25
    """Share of the questions about a type with synonyms that ask by one of them. None is drawn that means
    another type of the passage. Counts only beside descriptions, as does the next setting."""
    description_share: Share = 0.25
    """Share of the questions about a type with a description that ask by name and description: person (a
    human being, called by a name). Both shares are at most 1 together; the rest asks by name, and so do all
    validation questions. Template `type` alone: other templates' answers repeat what was asked."""
    negatives_per_positive: NotNegative = 1.0
    """Negative questions per positive one. The paper states no number; its data has about 0.5 or more."""
    negatives_per_passage: NotNegative | None = None
    """Negative questions per passage; replaces negatives_per_positive."""
    drop_types: list[str] = [
        "none", "na", "n/a", "misc", "miscellaneous", "else", "other", "entity", "unknown",
    ]  # fmt: skip
    """Meaningless types to drop (paper: None, NA, MISC, ELSE)."""
    singular_types: bool = False
    """Count a plural type as its singular where both occur: 'cities' as 'city'."""
    require_in_passage: bool = True
    """Drop mentions that do not occur in the passage."""
    require_latin: bool = True
    """Drop mentions that are mostly not in Latin letters (paper: non-English entities)."""
    max_mention_words: Count = 20
    """Drop longer mentions."""
    teacher_weight: NotNegative = 1.0
    """Copies of each teacher conversation in the training set; a fraction is a chance. With 0 the teacher is
    left out, and annotate need not have run."""
    supervised: dict[Name, str] = {}
    """Gold data sets to train on: name to address, in any format of evaluate.gold."""
    supervised_weight: NotNegative = 1.0
    """Copies of each supervised conversation in the training set."""
    supervised_examples: Count = 10_000
    """Most passages of each gold data set, drawn by the seed (paper: 10,000)."""
    labels: dict[str, str] = {}
    """Plain words for the labels of gold data sets, such as {PER = "human being"}, in training; and in
    evaluate, where evaluate.labels is unset. Other labels get the words of the benchmark's data set of that
    name, or those that many data sets share (PER is person), or their own, split at capitals and punctuation.
    A file that asks its own questions keeps them."""
    dataset_line: bool = True
    """Begin a supervised passage with 'Dataset: <name>' (the paper's data-set-specific template)."""
    train_json: bool = Field(False, json_schema_extra=NOT_IDENTITY)
    """Also write all conversations as train.json, in the layout of the original training code."""
    validation_share: Share = 0.02
    """Share of the passages kept for validation (paper: 2 %)."""


def _workers(value: Any) -> int | tuple[int, int]:
    counts = list(value) if isinstance(value, list | tuple) else [value, value]
    whole = all(isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in counts)
    if not whole or len(counts) != 2 or counts[0] > counts[1]:
        raise ValueError("must be a number of workers, such as 4, or [fewest, most], such as [2, 8]")
    return (counts[0], counts[1]) if isinstance(value, list | tuple) else counts[0]


class Train(Section):
    """Conversations to the student."""

    epochs: Epochs = 3
    """Passes over the conversations (paper: 3)."""
    max_steps: Count | None = None
    """Stop after this many steps, whatever the epochs; the learning-rate schedule ends there too."""
    batch_conversations: Count = 256
    """Conversations per step, over all workers (paper: 256)."""
    learning_rate: Positive = 2e-5
    """Peak of the cosine schedule (paper: 2e-5)."""
    warmup_share: Share = 0.04
    """Share of the steps with a rising learning rate (paper: 0.04)."""
    weight_decay: NotNegative = 0.0
    """AdamW's weight decay (paper: 0)."""
    max_grad_norm: Positive = 1.0
    """Largest gradient norm; larger gradients are scaled down."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the forward pass. Master weights and reductions stay float32."""
    lora_rank: Annotated[int, NUMBER, Field(ge=0)] = 0
    """Rank of LoRA's adapters; 0 trains all weights (paper). The student is base and adapters merged; the
    adapters alone are in train/adapter. Frozen weights are kept in dtype."""
    lora_alpha: Positive = 16.0
    """Scale of the adapters: their product counts alpha / rank times."""
    lora_dropout: Annotated[float, NUMBER, Field(ge=0, lt=1)] = 0.0
    """Dropout on an adapter's inputs in training."""
    lora_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Layers with adapters, by the ends of their names, such as ["q_proj", "v_proj"]; all-linear: every
    linear layer but the output."""
    lora_bits: Literal[4] | None = None
    """Bits of the frozen layers that have adapters. 4 is QLoRA (NF4, by bitsandbytes): a quarter of
    bfloat16's memory, slower steps. The student is the rounded base and the adapters, merged."""
    float8: bool = False
    """Multiply in 8 bits (torchao), on GPUs since L40S and H100: large models train faster with it and with
    compile, small ones hardly. tag then compares the student's F1 with that of tag.float8_reference."""
    pack_tokens: Count | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Tokens per packed row, at least student.max_tokens. They may be more than the model's window, as each
    conversation has positions of its own. Unset: on a GPU as many as fit and a step has, at most 16384, since
    a row of 16384 tokens takes a small student no longer than one of 4096; on CPU student.max_tokens. Results
    do not depend on it. `uniner train CONFIG --estimate` says what fits which GPU."""
    activation_checkpointing: bool | Literal["selective"] = Field(False, json_schema_extra=NOT_IDENTITY)
    """Compute activations again in the backward pass instead of keeping them: true, or "selective", which
    keeps the results of matrix products and attention. A 7B Llama then keeps about half of its activations
    and takes hardly longer; with true it keeps a tenth and takes a third longer."""
    validation_questions: Annotated[int, NUMBER, Field(ge=0)] = Field(200, json_schema_extra=NOT_IDENTITY)
    """Validation questions, drawn by the seed, that the student answers at the end of each epoch, for an F1
    beside the validation loss; 0: none. The reference is the teacher (or the gold data that are trained on);
    evaluate measures on unseen gold data."""
    attention: Literal[
        "auto", "varlen", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"
    ] = Field("auto", json_schema_extra=NOT_IDENTITY)
    """Attention by transformers' names, and torch's own varlen kernel; each keeps the samples of a packed row
    apart. auto: on a GPU in bfloat16 an installed FlashAttention; else, and on CPU, varlen, which computes
    only the pairs of tokens that see each other; sdpa for models that it does not suit. flex_attention trains
    on GPUs alone."""
    compile: bool = Field(False, json_schema_extra=NOT_IDENTITY)
    """Compile each layer with torch.compile: faster on GPUs, minutes more before the first step."""
    shard_workers: Count | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Workers that share one copy of weights and moments (HSDP), such as the GPUs of a node: then slow
    networks carry gradients alone. Must divide workers. Unset: all share one."""
    workers: Annotated[int | tuple[int, int], PlainValidator(_workers)] = Field(
        1, json_schema_extra=NOT_IDENTITY
    )
    """Training processes; the global batch does not depend on it. [fewest, most] takes as many as there is
    room for: it goes on without lost workers, and from the last checkpoint when there is room for more."""
    use_gpu: bool = Field(True, json_schema_extra=NOT_IDENTITY)
    """One GPU per worker; false trains on CPU over gloo."""
    checkpoint_steps: Count = Field(200, json_schema_extra=NOT_IDENTITY)
    """Steps between checkpoints. They are written in the background; one that is due while the previous is
    still being written waits, and the steps do not."""
    keep_checkpoints: Count = Field(2, json_schema_extra=NOT_IDENTITY)
    """Newest checkpoints kept while training, so that a broken one has others before it. All are deleted once
    the student is complete."""
    export: Literal["last", "best"] = "last"
    """The step that becomes the student: the last (paper), or of the steps measured at each epoch's end the
    one with the lowest validation loss, whose checkpoint is then kept too."""
    loss_spike_factor: Annotated[float, NUMBER, Field(gt=1)] | None = Field(
        None, json_schema_extra=NOT_IDENTITY
    )
    """Stop at a step whose loss is this many times the median of the last 20, and name its passages. Unset:
    only a loss or gradient that is not finite stops the run."""
    max_failures: Annotated[int, NUMBER, Field(ge=0)] = Field(3, json_schema_extra=NOT_IDENTITY)
    """Worker failures after which training goes on from the last checkpoint; one more ends the run."""
    check_export: bool = Field(True, json_schema_extra=NOT_IDENTITY)
    """Before the stage is complete, load the student into vLLM as [engine] says (on CPU where training was)
    and ask it one question. Takes as long as an engine's start."""
    tracker: Literal["wandb", "mlflow"] | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Also log the curves to Weights & Biases or MLflow, configured by their own variables (WANDB_*,
    MLFLOW_*). TensorBoard's are always in train/tensorboard."""
    share_of_peak: Annotated[float, NUMBER, Field(gt=0, le=1)] = Field(0.4, json_schema_extra=NOT_IDENTITY)
    """Share of a GPU's peak speed that the estimate counts with, recomputation included."""
    usd_per_gpu_hour: NotNegative = Field(0.0, json_schema_extra=NOT_IDENTITY)
    """Price of a GPU-hour, for the estimate."""

    @property
    def fewest_workers(self) -> int:
        """Return the least number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Return the greatest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class Encoder(Section):
    """The encoder student: build's questions to a model in GLiNER's format, for bulk tagging."""

    base: str | None = None
    """Untrained text encoder (BERT, DeBERTa-v3, ModernBERT, XLM-R): a Hugging Face folder (local or s3://) or
    hub name, such as "answerdotai/ModernBERT-base". Unset: no encoder is trained."""
    head: Literal["span", "token"] = "span"
    """`span`: a score for each span of at most max_width words. `token`: scores for words as start, end and
    inside of a mention, without a limit; dearer with many types."""
    max_width: Count = 12
    """Longest mention in words (head `span`); longer ones are counted and not learnt."""
    max_words: Count = 384
    """Words read at once; a longer passage is read in overlapping windows."""
    max_types: Count = 25
    """Types asked at once; more are asked in several passes."""
    hidden_size: Count | None = None
    """Width of word and type vectors. Unset: the base's."""
    embed_ent_token: bool = True
    """The mark before a type stands for it, as in GLiNER's models. false: the type's first token does, which
    a base of random weights learns sooner; types that begin alike are then harder to tell apart."""
    dropout: Annotated[float, NUMBER, Field(ge=0, lt=1)] = 0.3
    """Dropout of the layers above the base, in training (GLiNER: 0.3)."""
    epochs: Epochs = 3
    """Passes over the conversations."""
    max_steps: Count | None = None
    """Stop after this many steps, whatever the epochs; the learning-rate schedule ends there too."""
    batch_passages: Count = 8
    """Passages per step, over all workers (GLiNER: 8)."""
    learning_rate: Positive = 1e-5
    """Peak of the base's cosine schedule (GLiNER: 1e-5)."""
    head_learning_rate: Positive = 5e-5
    """Peak of the new layers' (GLiNER: 5e-5)."""
    warmup_share: Share = 0.1
    """Share of the steps with a rising learning rate."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay."""
    max_grad_norm: Positive = 10.0
    """Largest gradient norm; larger gradients are scaled down (GLiNER: 10)."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the forward pass. Master weights and reductions stay float32."""
    eval_steps: Count | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Steps between measurements of loss and F1 on validation passages. Unset: each epoch's end."""
    eval_passages: Annotated[int, NUMBER, Field(ge=0)] = Field(500, json_schema_extra=NOT_IDENTITY)
    """Most validation passages tagged for that F1, whose best threshold is kept for tagging; 0: none, which
    needs export = "last"."""
    patience: Count | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Stop after this many measurements without a better F1. Unset: all steps."""
    export: Literal["last", "best"] = "best"
    """The step that becomes the student: the last, or of those measured the one with the best F1, whose
    checkpoint is then kept too. The best is often early (GLiNER-L: step 4,000 of 30,000)."""
    row_tokens: Count = Field(8192, json_schema_extra=NOT_IDENTITY)
    """Tokens of the passages computed together on a worker, filled up to the longest."""
    workers: Count = Field(1, json_schema_extra=NOT_IDENTITY)
    """Training processes; the global batch does not depend on it."""
    shard_workers: Count | None = Field(1, json_schema_extra=NOT_IDENTITY)
    """Workers that share one copy of weights and moments; must divide workers."""
    use_gpu: bool = Field(True, json_schema_extra=NOT_IDENTITY)
    """One GPU per worker; false trains on CPU over gloo."""
    checkpoint_steps: Count = Field(500, json_schema_extra=NOT_IDENTITY)
    """Steps between checkpoints, which are written in the background."""
    keep_checkpoints: Count = Field(2, json_schema_extra=NOT_IDENTITY)
    """Newest checkpoints kept while training."""
    max_failures: Annotated[int, NUMBER, Field(ge=0)] = Field(3, json_schema_extra=NOT_IDENTITY)
    """Worker failures after which training goes on from the last checkpoint; one more ends the run."""


class EngineSection(Serving):
    """The vLLM engines of evaluate and tag."""

    actors: Count = Field(1, json_schema_extra=NOT_IDENTITY)
    """Greatest number of engines at once, one per actor."""
    min_actors: Count = Field(1, json_schema_extra=NOT_IDENTITY)
    """Smallest number of engines at once; more start while chunks wait, and end when none are left."""
    max_answer_tokens: Count = 256
    """Longest answer in tokens (paper: 256); a longer one gets the outcome `too_long`."""
    retry_answer_tokens: Annotated[int, NUMBER, Field(ge=0)] = 1024
    """An answer cut there goes on once to this length in tag, as far as the model's window allows; 0: never.
    evaluate keeps the paper's limit, so that its scores can be compared."""
    quantization: Literal["fp8"] | None = None
    """fp8: 8-bit weights, made as the student is loaded. With this or the next setting evaluate scores the
    student both ways, and tag refuses where F1 falls by more than max_f1_loss."""
    kv_cache_dtype: Literal["fp8"] | None = None
    """fp8: 8-bit KV cache, which holds twice as many tokens. Unset: the model's own format."""
    max_f1_loss: Share = Field(0.01, json_schema_extra=NOT_IDENTITY)
    """Largest loss of F1, averaged over evaluate's data sets, that tag accepts from 8 bits, in the engine or
    in training."""
    max_bad_share: Share = Field(0.5, json_schema_extra=NOT_IDENTITY)
    """Largest share of passages with an outcome other than ok before the stage fails."""
    usd_per_gpu_hour: NotNegative | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Price of a GPU-hour, for tag's estimate and the costs on evaluate's leaderboard."""

    @field_validator("min_actors")
    @classmethod
    def _at_most_actors(cls, min_actors: int, checked: ValidationInfo) -> int:
        if min_actors > checked.data.get("actors", min_actors):
            raise ValueError("must not be more than engine.actors")
        return min_actors


class Evaluate(Section):
    """Gold data and systems to scores."""

    gold: dict[Name, str] = {}
    """Data set's name to its address: a file, glob or folder, whose format is recognised. JSON lines or lists
    of {"text", "entities": [{"start", "end", "text", "type"}]}, of tokens and tags (T-NER), of doccano,
    GLiNER, spaCy, Label Studio, or UniversalNER's conversations (train.json, test.json), whose own questions
    are asked; CoNLL columns, token first and tag last (BIO, IOB1, BIOES, BILOU, or bare types beside O);
    CoNLL-U with `# text`; PubTator; spaCy's DocBin; a Hugging Face split in Parquet (tokens, ner_tags); a
    brat folder of .txt and .ann, without its discontinuous annotations, which the manifest counts. Where
    several could be meant, the format goes before the address: doccano:data/train.jsonl. All but the last two
    also .gz or .zst. A document of brat, PubTator or DocBin is one passage; where it is longer than a model's
    window, it is asked about in overlapping windows, and each mention counts once. Wrong rows and annotations
    are left out and counted, up to 1 %."""
    group: Group | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Also score this group of the benchmark's data sets, as far as they are under evaluate.data."""
    data: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Folder (local or s3://) of the benchmark's data sets, each a file or folder of its name with its test
    split; `uniner evaluate --datasets` lists the names, and warns where their counts are not those of the
    public copies."""
    labels: dict[str, str] | None = None
    """Plain words to ask for, for labels of gold data, such as {PER = "human being"}. Unset: build.labels.
    Other labels get the words of the benchmark's data set of that name, or those that many data sets share
    (PER is asked for as person), or their own, split at capitals and punctuation."""
    trust_gold: list[Name] = Field([], json_schema_extra=NOT_IDENTITY)
    """Data sets to score although types of the benchmark's data set of that name are missing, or most of
    their words are numbers; otherwise they are refused."""
    systems: list[str] = ["base", "student"]
    """What to score: `base`, `student`, `encoder` (this run's), a model folder or hub name (also a GLiNER
    model's, such as "urchade/gliner_medium-v2.1"), or a name of evaluate.system."""
    system: dict[Name, System] = Field({}, json_schema_extra=NOT_IDENTITY)
    """Other systems by a name of your own, such as [evaluate.system.vicuna-7b]. `kind` says which settings it
    has: template, chat, vicuna, alpaca, instructuie, bert, encoder or gliner."""
    chunk_passages: Count = 256
    """Passages per chunk."""
    max_passages: Count | None = None
    """Score the first passages of each data set, at most this many."""
    max_questions: Count = 200_000
    """Most questions, (passage, type) pairs, per data set (paper: 200,000). Of more, this many are drawn, the
    same ones in each run."""
    threshold_precision: Share | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Precision that the proposed tag.min_score_of_type should reach, such as 0.9. Unset: those with the best
    F1. Scores are as the model gives them: with tag.calibration the thresholds differ."""
    paraphrase: bool = Field(False, json_schema_extra=NOT_IDENTITY)
    """Also ask for each type by two synonyms and by a description, and score protocol `paraphrase`: F1 by
    name, in other words, and the loss between. Three more answers a question. A table that ships has the
    words for the benchmark's types."""
    paraphrases_file: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """JSON file with words for other types, or in place of the table's, in the layout of
    build.type_descriptions_file."""
    else_types: bool = False
    """Also ask for types without meaning (misc, miscellaneous, other, else, none) where gold has them. They
    count in protocol `strict_with_else` alone; the other protocols do not change."""


class Tag(Section):
    """Passages to entities by the student."""

    types: list[TypeName] = []
    """Types to ask for, together with those of types_file and top_types. All empty: the 200 most frequent
    types of the student's training set. A type may carry a description, such as "person: a human being"; it
    is asked with it, and named without it in the output."""
    types_file: str | None = None
    """Text file of types, one per line, with or without descriptions; # begins a comment. Other types need
    another run; another file name does not."""
    top_types: Count | None = None
    """Also ask for this many of the most frequent types of the student's training set, at most 200."""
    unknown_types: Literal["itself", "nearest", "both"] = "itself"
    """How types are asked that the student was not trained on: as themselves, as the nearest that it was
    trained on (where there is one), or as both, merged. Tables keep the name. The nearest has that synonym,
    shared its mentions, is close by nearest_encoder, or has a similar name."""
    nearest_encoder: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """A text encoder that finds the nearest type by its name, such as
    "sentence-transformers/all-MiniLM-L6-v2" (a folder or hub name). The words asked are identity."""
    types_of_source: dict[str, list[TypeName]] = {}
    """Types for passages of these sources, in place of all others; an empty list asks for none."""
    student: str = "student"
    """What tags: `student` or `encoder` (this run's), or a model folder or hub name, also of a model that
    others trained. One in GLiNER's format, such as "urchade/gliner_medium-v2.1", runs as an encoder. Another,
    such as "Universal-NER/UniNER-7B-type", is asked as student.template and student.max_tokens say where its
    folder does not say how it was trained to be asked."""
    prefilter: Annotated[str, Field(min_length=1)] | None = None
    """An encoder that reads each passage first: `encoder` (this run's), or a folder or hub name. The student
    is then asked only for the types that it finds likely there."""
    prefilter_threshold: Share | None = None
    """A type is asked for where its best span has at least this score. Unset: the highest of those that
    evaluate has tried at which the student loses at most prefilter_max_recall_loss; that needs `student` and
    `encoder` in evaluate.systems."""
    prefilter_max_recall_loss: Share = Field(0.01, json_schema_extra=NOT_IDENTITY)
    """Largest share of the student's right answers, on evaluate's gold data, that the prefilter may lose."""
    types_per_pass: Count | None = None
    """Types that an encoder is asked for at once; more are asked in several passes. Unset: as in its
    training."""
    float8_reference: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """For a student trained with train.float8: a student trained without it, such as
    "runs/plain/train/student". Both must be in evaluate.systems; tag refuses where F1 is lower than the
    reference's by more than engine.max_f1_loss."""
    occurrences: Occurrences = "all"
    """Which occurrences of a mention become entities: all, or in each passage the best one, the first. One
    inside a longer mention ("Paris" in "Paris Hilton") counts only where the mention occurs nowhere else."""
    chunk_passages: Count | None = None
    """Least passages per chunk: chunks of ingest, which suit a teacher, are joined up to it. Unset: a
    thousandth of the run's passages, at most 2,048, some seconds to a minute of an engine's work."""
    min_score: Share | None = None
    """Drop entities with a lower score: the probability that the student gave to the mention, calibrated
    where tag.calibration is set. Unset: 0; for an encoder what was best on its validation passages, 0.5 where
    that is not known or scores are calibrated."""
    min_score_of_type: dict[TypeName, Share] = {}
    """Other lowest scores for these types, such as {date = 0.8}; each must be one that is asked for."""
    rules: Annotated[str, Field(min_length=1)] | None = None
    """File of rules that add, change or drop entities after the model, one JSON object per line: patterns in
    the layout of spaCy's EntityRuler, such as {"label": "company", "pattern": "Acme Corp"}, and others (see
    docs/rules.md). Other rules need another run; another file name does not."""
    rules_language: Language = "en"
    """Whose spaCy tokenizer divides passages into words for the token patterns of tag.rules, such as de; xx:
    that of no language."""
    calibration: Name | None = None
    """Calibrate scores with what evaluate measured on this gold data set, so that of scores of 0.8 about 80 %
    are right. Unset: the student's own."""
    ungrounded: Literal["keep", "drop"] = "keep"
    """What happens to mentions that do not occur in the passage: kept without offsets, or dropped."""
    overlaps: Overlaps | None = None
    """keep: entities may overlap. flat: no two do, even as one span of two types; the higher score wins, then
    the longer, then the earlier. longest: no two do, and the longer wins first. nested: one may lie inside
    another, but none crosses another. Unset: keep; for an encoder flat, as GLiNER does."""
    top_surfaces: Count = Field(100, json_schema_extra=NOT_IDENTITY)
    """How many of the most frequent surfaces per type aggregate.parquet lists. Changing this, entity_table or
    partition_by_source only rewrites the tables."""
    entity_table: bool = Field(False, json_schema_extra=NOT_IDENTITY)
    """Also write all entities as a flat table: entities/part-*.parquet, one row per entity."""
    partition_by_source: bool = Field(False, json_schema_extra=NOT_IDENTITY)
    """Lay that table out as Hive does, in folders entities/source=<source>/."""


class ReviewSection(Section):
    """Tagged passages for people to correct; corrected ones as gold data."""

    passages: Count = Field(100, json_schema_extra=NOT_IDENTITY)
    """Passages that a round gives out."""
    random_share: Share = Field(0.2, json_schema_extra=NOT_IDENTITY)
    """Share of a round that is drawn at random from all passages, for an unbiased estimate of precision and
    recall. The rest are passages where the student is least sure, differs from review.against, or
    contradicts a rule, in equal parts, from all types and sources in turn."""
    against: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Folder of another run that tagged the same passages, such as "runs/encoder": passages on which the two
    differ are reviewed too."""
    after: str | None = Field(None, json_schema_extra=NOT_IDENTITY)
    """Folder of an earlier run whose rounds of review this one goes on from, such as "runs/my-run": its
    reviewed passages are not given out again, and its estimate is what the next one is compared with."""


class Report(Section):
    """The run's page."""

    passages: Annotated[int, NUMBER, Field(ge=0, le=20_000)] = Field(2_000, json_schema_extra=NOT_IDENTITY)
    """Most passages to show on the page, the same ones each time; 0: none. A thousand take about 1 MB."""


class Config(Section):
    """The config: one section per stage, and run, student, teacher and engine, which stages share."""

    run: Run
    student: Student
    teacher: Teacher = OpenAITeacher()
    generate: Generate = Generate()
    ingest: Ingest = Ingest()
    annotate: Annotate = Annotate()
    describe: Describe = Describe()
    build: Build = Build()
    train: Train = Train()
    encoder: Encoder = Encoder()
    engine: EngineSection = EngineSection()
    evaluate: Evaluate = Evaluate()
    tag: Tag = Tag()
    review: ReviewSection = ReviewSection()
    report: Report = Report()
