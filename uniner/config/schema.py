"""The one config tree: a section for what the stages share, a section a stage, and the loader.

Defaults < TOML file < `section.key=value` words; a file that begins with `like = "other.toml"` says only what
differs from that file of the same folder. Everything is checked here, before Ray starts; a wrong key or value
raises `UserError` with one line that names it. Credentials never stand here: they come from the environment
(`OPENAI_API_KEY`, `AWS_*`).

A field marked `HOW` says where or how fast a stage works, not what comes out: it may change between a run
and its resumption. All other fields are the stage's identity and are compared with its manifest.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, field_validator

from uniner.config.base import HOW, Count, Name, Requests, Section, Share, TypeName, Weight
from uniner.config.systems import System

Group = Literal["zero-shot-7", "supervised-20", "all"]
"""Data sets of UniversalNER's benchmark: its zero-shot or supervised table's, or all 49 splits of 43."""


class Run(Section):
    """Where a run keeps its data."""

    root: str = Field("runs", json_schema_extra=HOW)
    """Folder of all runs: a local path or s3://bucket/prefix."""
    name: Name = Field(json_schema_extra=HOW)
    """The run's own folder under the root. Another recipe is another name."""
    seed: int = 0
    """Seed of sampling, negatives, split and training order."""


class Student(Section):
    """The model that is trained, and how it is asked."""

    base: str
    """Base model: a Hugging Face folder (local or s3://) or hub name. Its tokenizer cuts the passages."""
    template: Literal["type", "definition", "grouped", "all_in_one"] = "type"
    """How types are asked for: each by its name (the paper's best), each by a sentence that defines it,
    `group_types` a question (fewer questions, a little less exact), or all in one question."""
    group_types: Annotated[int, Field(ge=2)] = 5
    """Types a question of the template `grouped`."""
    max_tokens: Count = 1024
    """Longest conversation in tokens, in training and in tagging (paper: 1,024)."""


class Generate(Section):
    """Domains to passages that annotate's teacher writes, for ingest to read beside its shards."""

    domains: dict[Annotated[str, Field(pattern=r"^\S(.*\S)?$")], Count] = {}
    """Domain's name to how many passages of it, such as {"contract law" = 500}; none: the stage is skipped.
    Their source is generated:<domain>."""
    words: Count = 150
    """Words a passage on average: each is asked to have half to one and a half times as many."""
    aspects: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """What varies from passage to passage, such as {"Kind of text" = ["court ruling", "contract"]}, drawn by
    the seed; unset: kind of text, register, time, place and what it is rich in, by values of our own."""
    prompt: str | None = Field(None, json_schema_extra=HOW)
    """Text file of a prompt of one's own: {brief} where domain, aspects and length go, a first line
    `System: ...` if wanted. Unset: ours. The stage's identity is the file's content, not its address."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Sampling temperature."""
    max_reply_tokens: Count = 1024
    """Longest reply in tokens; a longer one is cut, has the outcome too_long and is not read by ingest."""
    chunk_passages: Count = 64
    """Passages a chunk, all of one domain."""
    max_bad_share: Share = Field(0.2, json_schema_extra=HOW)
    """Share of passages whose outcome may be other than ok before the stage fails."""


class Ingest(Section):
    """Corpus shards, and what generate wrote, to passages."""

    shards: list[str] = []
    """Paths or globs, local, s3:// or of any other protocol that fsspec knows: JSON lines (.jsonl, .json,
    .ndjson) and text, a document a file (.txt), both also with .gz or .zst; Parquet (.parquet). None where
    all is to come from generate.domains."""
    max_tokens: Count = 256
    """Longest passage in tokens of the student's tokenizer (paper: 256)."""
    overlap_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of a passage that the next one repeats, for tagging: an entity at a cut is whole in one of the
    two, and is given to exactly one. At most half of max_tokens."""
    chunk_passages: Count = 128
    """Passages a chunk: about a minute of a teacher's or a student's work."""
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the passages that is taken, each with the same chance, by the seed and its place in the corpus
    alone; only documents with a passage in the sample are tokenised."""
    sample_of_source: dict[str, Share] = {}
    """Another share for passages of these sources; 0 leaves a source out. Generated ones are all taken (1)
    where they do not stand here."""
    passages: Count | None = None
    """Take so many of the sample, each with the same chance; too small a sample is an error. Unset: all."""
    stratified: bool = False
    """Take the same number of `passages` from each source, as far as it has them."""
    read_mb: Count | None = None
    """Read only the first so many MB (decompressed) of each shard, for a quick look; the manifest says so.
    Text files are read whole."""
    text_field: str = "text"
    """Where the text stands in a row; dots go into nested objects."""
    id_field: str | None = None
    """Where a document's own id stands; unset: its place (part of the corpus, row) is its id."""
    source_field: str = "meta.pile_set_name"
    """Where the name of the sub-corpus stands; absent is allowed."""
    min_tokens: Count = 1
    """Passages of fewer tokens are dropped and counted, like those of the next four settings."""
    languages: list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]] = []
    """Keep passages of these languages (ISO 639 codes such as "en"; py3langid's model); none: of all. A
    language is guessed: of a short passage, of code or of a list of names wrongly at times."""
    decontaminate: dict[str, str] = {}
    """Benchmark's name to its file (of any kind that shards may be, the text in `text`): passages that share
    an n-gram of words with its texts are dropped."""
    decontaminate_words: Count = 12
    """Words of that n-gram. Benchmark texts of fewer words cannot be noticed; the manifest counts them."""
    dedupe: bool = False
    """Keep only the first of passages that have the same text but for case and white space."""
    max_row_mb: Count = 64
    """Longest row of a shard in MB (decompressed); a longer one is rejected, so that memory stays bounded."""
    max_reject_share: Share = Field(0.01, json_schema_extra=HOW)
    """Share of a run's rows that may be rejected before the stage fails. What was rejected stands in
    rejects-*.jsonl beside the chunks: shard, line and reason."""


class Annotate(Requests):
    """Passages to the teacher's annotations."""

    model: str = "gpt-3.5-turbo"
    """The teacher's model name (paper: gpt-3.5-turbo-0301); served, its Hugging Face folder (local or s3://)
    or hub name."""
    base_url: str | None = Field(None, json_schema_extra=HOW)
    """OpenAI-compatible server; unset: the client's default. The key is OPENAI_API_KEY."""
    served: bool = Field(False, json_schema_extra=HOW)
    """No server is asked: the actors load an open model into vLLM engines of their own, see [teacher]. What
    concerns HTTP (in_flight, timeout_s, retries) has no meaning then."""
    recording: str | None = Field(None, json_schema_extra=HOW)
    """Recorded replies (JSON lines of passage and reply) to serve over loopback HTTP instead of base_url."""
    prompt: str | None = Field(None, json_schema_extra=HOW)
    """Text file of a prompt of one's own: {passage} where the passage goes, a first line `System: ...` if
    wanted. Unset: the paper's. The stage's identity is the file's content, not its address."""
    reply_format: Literal["tuples", "json_schema"] = "tuples"
    """Format of the reply: the paper's list of tuples, or a JSON schema, for a server that knows them."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature (paper: 0)."""
    max_reply_tokens: Count = 1024
    """Longest reply in tokens; a longer one is cut and has the outcome too_long."""
    located: Literal["all", "best"] = "all"
    """Which occurrences of a mention in its passage become entities: all, or of each the most likely, the
    first that is no part of a longer mention."""
    cache: str | None = Field(None, json_schema_extra=HOW)
    """Folder of the replies that were paid for, shared by all runs that name it; unset: reply-cache under
    run.root, but none for a recording, whose replies cost nothing."""
    actors: Count = Field(1, json_schema_extra=HOW)
    """Most actors that ask the teacher; served, each is an engine."""
    budget_usd: Annotated[float, Field(ge=0)] | None = Field(None, json_schema_extra=HOW)
    """What the run may spend in all, generated passages included, by these prices: no request goes that may
    lead beyond it, and the run stops with exit code 3; with a higher budget it goes on. Unset: no limit."""
    batch: bool = Field(False, json_schema_extra=HOW)
    """Ask in files through the server's Batch API: answered within 24 hours, at OpenAI for half the price
    (set the usd_per_million_* to what a batch costs). A stop leaves the batches running; the same command
    goes on with them. in_flight and the limits a minute have no meaning then. budget_usd holds by what
    requests can cost at the most: where it is less than that, files go one after another. The stage
    generate asks online all the same."""
    plan: bool = Field(False, json_schema_extra=HOW)
    """Only tell what the stage would take (passages, tokens, price, time, a sample prompt); spend nothing."""
    max_bad_share: Share = Field(0.2, json_schema_extra=HOW)
    """Share of passages whose outcome may be other than ok before the stage fails."""


class Build(Section):
    """Annotations to conversations."""

    negatives: Literal["none", "uniform", "frequency"] = "frequency"
    """How absent types are drawn: not at all, evenly, or in proportion to their mentions (paper's best)."""
    negatives_per_positive: Annotated[float, Field(ge=0)] = 1.0
    """Negative questions a positive one; the paper states no number (its data has about 0.5 or more)."""
    negatives_per_passage: Annotated[float, Field(ge=0)] | None = None
    """Negative questions a passage, whatever its positive ones; set, it stands in place of the former."""
    drop_types: list[str] = [
        "none",
        "na",
        "n/a",
        "misc",
        "miscellaneous",
        "else",
        "other",
        "entity",
        "unknown",
    ]
    """Types that say nothing, dropped (paper: None, NA, MISC, ELSE)."""
    singular_types: bool = False
    """Count a plural type as its singular where both occur: 'cities' as 'city'."""
    require_in_passage: bool = True
    """Drop mentions that the passage does not hold."""
    require_latin: bool = True
    """Drop mentions mostly of other than Latin letters (paper: entities that are not English)."""
    max_mention_words: Count = 20
    """Longer mentions are dropped."""
    teacher_weight: Weight = 1.0
    """How often each of the teacher's conversations stands in the training set; a fraction is a chance. 0
    leaves the teacher out: annotate need not have run."""
    supervised: dict[Name, str] = {}
    """Gold data sets to train on beside the teacher's: name to address, in any format of evaluate.gold."""
    supervised_weight: Weight = 1.0
    """How often each supervised conversation stands in the training set."""
    supervised_examples: Count = 10_000
    """Most passages of each gold data set, drawn by the seed (paper: 10,000)."""
    labels: dict[str, str] = {}
    """Labels of gold data sets in plain words, such as {PER = "person"}, to be trained on and, by evaluate,
    asked for. Others have those of the benchmark's data set of that name, or keep theirs in lower case; a
    file that asks questions itself keeps its own."""
    dataset_line: bool = True
    """Begin a supervised passage with 'Dataset: <name>' (the paper's data-set-specific template)."""
    train_json: bool = False
    """Write all conversations as train.json too, in the layout that the original's training code reads."""
    validation_share: Share = 0.02
    """Share of the passages kept for validation (paper: 2 %)."""


def _workers(value: Any) -> int | tuple[int, int]:
    counts = list(value) if isinstance(value, list | tuple) else [value, value]
    whole = all(isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in counts)
    if not whole or len(counts) != 2 or counts[0] > counts[1]:
        raise ValueError("must be a number of workers, or [fewest, most]")
    return (counts[0], counts[1]) if isinstance(value, list | tuple) else counts[0]


class Train(Section):
    """Conversations to the student."""

    epochs: Count = 3
    """Passes over the conversations (paper: 3)."""
    max_steps: Count | None = None
    """Stop after so many steps, whatever the epochs; the schedule ends there too."""
    batch_conversations: Count = 256
    """Conversations a step over all workers (paper: 256)."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Peak of the cosine schedule (paper: 2e-5)."""
    warmup_share: Share = 0.04
    """Share of the steps with a rising rate (paper: 0.04)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay (paper: 0)."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest gradient norm."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the forward pass; master weights and reductions stay float32."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA's adapters; 0 trains all weights (paper). The student is base and adapters merged, and the
    adapters stand beside it in train/adapter. Frozen weights are kept in dtype."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the adapters: their product counts alpha / rank times."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that are left out by chance in training."""
    lora_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Layers that get adapters, by the ends of their names such as ["q_proj", "v_proj"]; all-linear: every
    linear layer but the output."""
    lora_bits: Literal[4] | None = None
    """Bits of the frozen layers that have adapters. 4 is QLoRA (NF4, by bitsandbytes): their memory is a
    quarter of bfloat16's, a step is slower. The student is the rounded base and the adapters, merged."""
    pack_tokens: Count | None = Field(None, json_schema_extra=HOW)
    """Tokens a packed row, at least student.max_tokens (the default)."""
    activation_checkpointing: bool = Field(False, json_schema_extra=HOW)
    """Compute activations again in the backward pass instead of keeping them."""
    validation_questions: Annotated[int, Field(ge=0)] = Field(200, json_schema_extra=HOW)
    """Questions of the validation conversations, drawn by the seed, that the student in training answers at
    each epoch's end, for the F1 beside the validation loss; 0: none. What is right is what the teacher said
    (or the gold data that are trained on): evaluate measures on gold data that the student has not seen."""
    attention: Literal["auto", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"] = Field(
        "auto", json_schema_extra=HOW
    )
    """How attention is computed, by transformers' names; each tells a packed row's samples apart. auto: a
    FlashAttention that is installed, on a GPU in bfloat16, else sdpa. flex_attention trains on GPUs alone."""
    compile: bool = Field(False, json_schema_extra=HOW)
    """Compile each layer with torch.compile: faster on GPUs, minutes more before the first step."""
    shard_workers: Count | None = Field(None, json_schema_extra=HOW)
    """Workers that share one copy of weights and moments (HSDP): with the GPUs of a node, slow networks carry
    gradients alone, and a worker's memory is as on one node. Must divide workers. Unset: all share one."""
    workers: Annotated[int | tuple[int, int], PlainValidator(_workers)] = Field(1, json_schema_extra=HOW)
    """Training processes; the global batch does not depend on it. [fewest, most]: as many as there is room
    for; lost ones are done without, and when there is room for more, all go on from the last checkpoint."""
    use_gpu: bool = Field(True, json_schema_extra=HOW)
    """A GPU a worker; false trains on CPU over gloo."""
    checkpoint_steps: Count = Field(200, json_schema_extra=HOW)
    """Steps between checkpoints. They are written behind the steps; one that is due too early waits for the
    one before, and the steps do not."""
    keep_checkpoints: Count = Field(2, json_schema_extra=HOW)
    """Newest checkpoints that are kept while training, so that a broken one has others before it; all are
    deleted once the student stands."""
    export: Literal["last", "best"] = "last"
    """The step that becomes the student: the last (paper), or of those measured, at each epoch's end, the one
    with the lowest validation loss; its checkpoint is kept beside the newest."""
    spike_factor: Annotated[float, Field(gt=1)] | None = Field(None, json_schema_extra=HOW)
    """Stop, and name the passages, at a step whose loss is more than so many times the median of the last 20.
    Unset: only a loss or gradient that is not finite stops the run."""
    failures: Annotated[int, Field(ge=0)] = Field(3, json_schema_extra=HOW)
    """Worker failures that are survived by going on from the last checkpoint."""
    check_export: bool = Field(True, json_schema_extra=HOW)
    """Before the stage is done, load the student into vLLM, as [engine] says (on CPU where training was), and
    ask it one question: takes as long as an engine's start."""
    tracker: Literal["wandb", "mlflow"] | None = Field(None, json_schema_extra=HOW)
    """Write the curves to Weights & Biases or MLflow too; the service's own variables (WANDB_*, MLFLOW_*) say
    where, and who. TensorBoard's stand in train/tensorboard always."""
    plan: bool = Field(False, json_schema_extra=HOW)
    """Only tell what the stage would take (tokens, steps, memory, compute, time, price); train nothing."""
    share_of_peak: Annotated[float, Field(gt=0, le=1)] = Field(0.4, json_schema_extra=HOW)
    """Share of a GPU's peak that the plan counts with, repeated work included."""
    usd_per_gpu_hour: Annotated[float, Field(ge=0)] = Field(0.0, json_schema_extra=HOW)
    """Price of a GPU for an hour, for the plan."""

    @property
    def fewest_workers(self) -> int:
        """Return how many workers there must be."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Return how many workers there are at most."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def _whole(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError("more than one GPU must be a whole number of them")
    return gpus


class Serving(Section):
    """How an actor serves a model with vLLM."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of weights and activations."""
    gpus: Annotated[float, Field(ge=0), AfterValidator(_whole)] = Field(1, json_schema_extra=HOW)
    """GPUs an actor, all of one node: the model is split over them (tensor parallel); 0 runs vLLM on CPU."""
    cpus: Annotated[float, Field(gt=0)] = Field(2, json_schema_extra=HOW)
    """CPUs an actor (engine process, tokenizer, this process)."""
    max_num_seqs: Count = Field(256, json_schema_extra=HOW)
    """Questions (of a teacher, passages) that are decoded together."""
    max_num_batched_tokens: Count = Field(8192, json_schema_extra=HOW)
    """Tokens computed in one engine step."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(0.9, json_schema_extra=HOW)
    """Share of the GPU's memory for weights and KV cache."""
    block_size: Count | None = Field(None, json_schema_extra=HOW)
    """KV-cache block in tokens; on CPU set 32, else short passages never share a prefix."""
    chunks_in_flight: Count = Field(2, json_schema_extra=HOW)
    """Chunks an actor works on at once, so that no tail idles the engine."""
    hang_seconds: Annotated[float, Field(gt=0)] = Field(600, json_schema_extra=HOW)
    """Seconds in which an engine that has questions gives not one token, looked at as often: it hangs, its
    process ends, and another does its chunks again."""
    poison_tries: Count = Field(3, json_schema_extra=HOW)
    """Deaths of an actor with a chunk in hand until its rows are tried one by one; one that kills the engine
    all by itself, twice, has the outcome poison, and the run goes on."""


class Teacher(Serving):
    """The vLLM engine of a teacher that annotate's actors serve themselves (annotate.served)."""

    max_prompt_tokens: Count = 2048
    """Longest prompt; the passage of a longer one is not asked about and has the outcome rejected. With
    annotate.max_reply_tokens it makes the engine's window, or the model's own does where that is shorter."""
    chunks_in_flight: Count = Field(4, json_schema_extra=HOW)
    """Chunks an actor works on at once: together their passages should be more than max_num_seqs."""


class Engine(Serving):
    """The vLLM engine that evaluate and tag use."""

    actors: Count = Field(1, json_schema_extra=HOW)
    """Most engines at once, an actor each."""
    min_actors: Count = Field(1, json_schema_extra=HOW)
    """Least engines at once: more start while chunks wait, and end when there are none left for them."""
    max_answer_tokens: Count = 256
    """Longest answer (paper: 256); a longer one has the outcome too_long."""
    retry_answer_tokens: Annotated[int, Field(ge=0)] = 1024
    """What an answer that is cut there may have in a second try of tag, as far as the model's own limit lets
    it; 0: there is none. evaluate keeps to the paper's limit, so that its scores can be compared."""
    quantization: Literal["fp8"] | None = None
    """fp8: weights in 8 bits, made of the student's as it is loaded. Unset: as they are. With this or the
    next setting evaluate scores students both ways, and tag refuses where F1 falls too far."""
    kv_cache_dtype: Literal["fp8"] | None = None
    """fp8: the KV cache in 8 bits, so that it holds twice as many tokens. Unset: as the model computes."""
    max_f1_loss: Share = Field(0.01, json_schema_extra=HOW)
    """How far F1, on average over evaluate's data sets, may fall by the two settings before tag refuses."""
    max_bad_share: Share = Field(0.5, json_schema_extra=HOW)
    """Share of passages whose outcome may be other than ok before the stage fails."""

    usd_per_gpu_hour: Annotated[float, Field(ge=0)] | None = Field(None, json_schema_extra=HOW)
    """Price of a GPU for an hour, for tag.plan."""

    @field_validator("min_actors")
    @classmethod
    def _at_most_actors(cls, least: int, checked: ValidationInfo) -> int:
        if least > checked.data.get("actors", least):
            raise ValueError("must not be more than engine.actors")
        return least


class Evaluate(Section):
    """Gold data to scores."""

    gold: dict[Name, str] = {}
    """Data set's name to its address, a file, a glob or a folder, whose format is recognised: JSON lines of
    {"text", "entities": [{"start", "end", "text", "type"}]}; CoNLL columns, token first and tag last (BIO,
    IOB1, BIOES, BILOU); PubTator; UniversalNER's conversations (train.json, test.json), which are asked the
    file's own questions; a Hugging Face split in Parquet (tokens, ner_tags); a brat folder of .txt and .ann,
    whose discontinuous annotations are left out and counted in the manifest. All but the last two also with
    .gz or .zst. A document of brat's or PubTator's is one passage."""
    group: Group | None = Field(None, json_schema_extra=HOW)
    """Score a group of the benchmark's data sets too, as far as they lie under evaluate.data."""
    data: str | None = Field(None, json_schema_extra=HOW)
    """Folder (local or s3://) of the benchmark's data sets, each a file or folder of its name, with its test
    split; evaluate.catalogue lists the names. Their labels are asked for in plain words (PER as person), also
    where evaluate.gold names a data set as the catalogue does; see build.labels."""
    catalogue: bool = Field(False, json_schema_extra=HOW)
    """Only list the benchmark's data sets: which lie under evaluate.data, and where to get the others."""
    systems: list[str] = ["base", "student"]
    """What is scored: `base`, `student` (of this run), a model folder or hub name, or a name of
    evaluate.system."""
    system: dict[Name, System] = Field({}, json_schema_extra=HOW)
    """Other systems by a name of your own, such as [evaluate.system.vicuna-7b]; `kind` says which settings it
    has: template, chat, vicuna, alpaca, instructuie, bert or gliner."""
    chunk_passages: Count = 256
    """Passages a chunk."""
    max_passages: Count | None = None
    """Score the first so many passages of each data set."""
    max_questions: Count = 200_000
    """Most questions, (passage, type) pairs, of each data set (paper: 200,000); of more so many are drawn,
    the same ones in each run."""
    else_types: bool = False
    """Ask for types that say nothing (misc, miscellaneous, other, else, none) too, where gold has them. They
    count in protocol `strict_with_else` alone, so that the others are the same with and without them."""


class Tag(Section):
    """Passages to entities."""

    types: list[TypeName] = []
    """Types to ask for, with those of the next two settings; none at all: the 200 most frequent of the
    student's training set."""
    types_file: str | None = None
    """Text file of types, one a line, # begins a comment. The stage's identity is the types, not the file."""
    top_types: Count | None = None
    """Ask for so many of the most frequent types of the student's training set, at most 200."""
    types_of_source: dict[str, list[TypeName]] = {}
    """Other types for passages of these sources, in place of all others; an empty list asks nothing."""
    student: str | None = None
    """Model folder to tag with; unset: this run's student."""
    located: Literal["all", "best"] = "all"
    """Which occurrences of an answered mention become entities: all, or in each passage the most likely, the
    first that is no part of a longer mention (not "Paris" in "Paris Hilton")."""
    min_score: Share = 0.0
    """Drop entities of a lower score: the probability that the student gave to the mention, calibrated where
    the next setting says so."""
    calibration: Name | None = None
    """Calibrate the scores, so that of those of 0.8 about 80 % are right, with what evaluate measured of the
    student on this gold data set (it stands in the student's folder). Unset: as the student gave them."""
    ungrounded: Literal["keep", "drop"] = "keep"
    """What becomes of answered mentions that the passage does not hold: kept without offsets, or dropped."""
    overlaps: Literal["keep", "flat"] = "keep"
    """Whether entities may overlap, also as one span of two types. flat: they never do; the higher score
    stays, then the longer, then the earlier."""
    top_surfaces: Count = Field(100, json_schema_extra=HOW)
    """Surfaces of each type in aggregate.parquet, the most frequent ones. This and the next two settings may
    change later: the same command then writes the tables anew, and tags nothing again."""
    entity_table: bool = Field(False, json_schema_extra=HOW)
    """Write all entities as a flat table too: entities/part-*.parquet, a row an entity."""
    partition_by_source: bool = Field(False, json_schema_extra=HOW)
    """Lay that table out by source, in folders entities/source=<source>/, as Hive does."""
    plan: bool = Field(False, json_schema_extra=HOW)
    """Only tag a few hundred passages (they count as done), and tell what the whole corpus would take:
    questions, tokens, hours, price."""
    text: str | None = Field(None, json_schema_extra=HOW)
    """Tag this text, or with `-` what comes on standard input, in this process; print it with its entities in
    colour, and touch no run."""
    page: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, json_schema_extra=HOW)
    """Serve a small page on this port of 127.0.0.1 that tags what is typed there, until the job is stopped;
    touch no run. Needs Gradio (pip install '.[page]')."""


class Config(Section):
    """The tree."""

    run: Run
    student: Student
    generate: Generate = Generate()
    ingest: Ingest = Ingest()
    annotate: Annotate = Annotate()
    teacher: Teacher = Teacher()
    build: Build = Build()
    train: Train = Train()
    engine: Engine = Engine()
    evaluate: Evaluate = Evaluate()
    tag: Tag = Tag()
