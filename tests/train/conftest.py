"""A tiny Llama with a byte-level tokenizer, and conversations to train it on."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from uniner.config.schema import Student, Train
from uniner.records import CONVERSATION, Conversation, to_table
from uniner.storage.stage_folder import Chunk, Folder
from uniner.templates import Renderer, turns
from uniner.train import packing
from uniner.train.packing import RenderedConversation
from uniner.train.prepare import TrainJob
from uniner.train.stage import train_job

NAMES = ["Berlin", "Ada Lovelace", 'a "quoted" name', "Zürich", "Nairobi", "Grace [Hopper]"]


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    bare.train_from_iterator(["USER: What describes a city in the text? ASSISTANT:"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def make_llama(tokenizer, **changes):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,  # the smallest that vLLM supports on CPU
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **changes,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**settings))


@pytest.fixture(scope="session")
def base(tokenizer, tmp_path_factory) -> Path:
    """A base model's folder."""
    folder = tmp_path_factory.mktemp("base")
    make_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tied_base(tokenizer, tmp_path_factory) -> Path:
    """A base model whose output layer is its embedding."""
    folder = tmp_path_factory.mktemp("tied-base")
    make_llama(tokenizer, tie_word_embeddings=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_conversation(number: int, split: str = "train") -> Conversation:
    passage = (
        f"{number}: " + " and ".join(NAMES[(number + shift) % 6] for shift in range(1 + number % 4)) + "."
    )
    asked = [
        (f"type {kind}", [NAMES[(number + kind) % 6]] if kind % 2 else []) for kind in range(1 + number % 3)
    ]
    positive = tuple(name for name, mentions in asked if mentions)
    negative = tuple(name for name, mentions in asked if not mentions)
    return Conversation(
        id=f"c{number}",
        passage_id=f"p{number}",
        conversations=turns(passage, dict(asked)),
        positive_types=positive,
        negative_types=negative,
        dataset="",
        split=split,
    )


@pytest.fixture(scope="session")
def conversations() -> list[Conversation]:
    return [make_conversation(number, "validation" if number % 8 == 7 else "train") for number in range(24)]


@pytest.fixture(scope="session")
def write_build():
    """Return a function that writes a build folder: two chunks and a manifest."""

    def write(folder: Folder, conversations: list[Conversation]) -> None:
        half = len(conversations) // 2
        summaries = [
            folder.write_chunk(Chunk(key, to_table(rows, CONVERSATION)))
            for key, rows in [("0", conversations[:half]), ("1", conversations[half:])]
        ]
        plan = {"stage": "build", "config": {}, "parents": {}}
        folder.begin(plan)
        folder.finish(plan, summaries)

    return write


@pytest.fixture
def answers():
    """Return a function that reads the answers of a conversation without the renderer."""

    def read(conversation: Conversation) -> list[list[str]]:
        return [json.loads(turn["value"]) for turn in conversation.conversations[3::2]]

    return read


@pytest.fixture(scope="module")
def group():
    """A process group of this process only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is tiny: threads would only wait for each other
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def samples(tokenizer, conversations):
    """The conversations as samples of at most 512 tokens."""
    renderer = Renderer(tokenizer)
    rendered = (
        RenderedConversation(conversation.passage_id, *renderer.blocks(conversation.conversations))
        for conversation in conversations
    )
    return packing.fit(rendered, 512).samples


@pytest.fixture
def make_job(base, conversations, write_build, tmp_path):
    """Return a function that makes the job of a worker without Ray, in the run `run`."""
    root = Folder(str(tmp_path)) / "run"
    write_build(root / "build", conversations)

    def make(**changes) -> TrainJob:
        settings = {"batch_conversations": 6, "learning_rate": 1e-2, "dtype": "float32", "use_gpu": False}
        train = Train(**{**settings, "checkpoint_steps": 1, **changes})
        student = Student(base=str(base), max_tokens=256)
        return train_job(student, train, 0, root)

    return make


@pytest.fixture
def local_session():
    """The class of a session of one process, which keeps its reports and lines."""

    class LocalSession:
        def __init__(self):
            self.lines, self.reports = [], []

        def preempted(self):
            return False

        def report(self, step, steps, note):
            self.reports.append((step, steps, note))

        def say(self, line):
            self.lines.append(line)

    return LocalSession
