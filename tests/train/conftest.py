"""A tiny base model, and conversations to train it on."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from uniner.config.schema import Student, Train
from uniner.records import CONVERSATION, Conversation, to_table
from uniner.storage.stage_folder import Chunk, StageFolder
from uniner.templates import Renderer, render_conversation
from uniner.train import packing
from uniner.train.packing import RenderedConversation
from uniner.train.prepare import TrainJob

NAMES = ["Berlin", "Ada Lovelace", 'a "quoted" name', "Zürich", "Nairobi", "Grace [Hopper]"]


# Query heads that share keys. head_dim: vLLM on CPU runs no smaller one.
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer):
    texts = ["USER: What describes a city in the text? ASSISTANT:"] * 3
    special = ("<s>", "</s>")
    return make_tokenizer(texts, 300, special, bos_token="<s>", clean_up_tokenization_spaces=False)


@pytest.fixture(scope="session")
def save_llama(tokenizer, make_llama, tmp_path_factory):
    """Return a function that makes a base model and returns its folder."""

    def save(**changes) -> Path:
        folder = tmp_path_factory.mktemp("base")
        make_llama(tokenizer, **SIZES, **changes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def base(save_llama) -> Path:
    """A base model's folder."""
    return save_llama()


@pytest.fixture(scope="session")
def tied_base(save_llama) -> Path:
    """A base model whose output layer is its embedding."""
    return save_llama(tie_word_embeddings=True)


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
        conversations=render_conversation(passage, dict(asked)),
        positive_types=positive,
        negative_types=negative,
        dataset="",
        split=split,
    )


@pytest.fixture(scope="session")
def conversations() -> list[Conversation]:
    return [make_conversation(number, "validation" if number % 8 == 7 else "train") for number in range(24)]


@pytest.fixture(scope="session")
def write_build(complete_stage):
    """Return a function that writes a build folder: two chunks and a manifest."""

    def write(folder: StageFolder, conversations: list[Conversation]) -> None:
        half = len(conversations) // 2
        parts = [("0", conversations[:half]), ("1", conversations[half:])]
        complete_stage(folder, [Chunk(key, to_table(rows, CONVERSATION)) for key, rows in parts])

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
    root = StageFolder(str(tmp_path)) / "run"
    write_build(root / "build", conversations)

    def make(**changes) -> TrainJob:
        settings = {"batch_conversations": 6, "learning_rate": 1e-2, "dtype": "float32", "use_gpu": False}
        train = Train(**{**settings, "checkpoint_steps": 1, **changes})
        student = Student(base=str(base), max_tokens=256)
        return TrainJob(student=student, train=train, seed=0, run=root, base_address=str(base))

    return make


@pytest.fixture
def local_session():
    """The class of a session of one process, which keeps its reports and lines."""

    class LocalSession:
        def __init__(self):
            self.lines, self.reports, self.measured = [], [], []

        def preempted(self):
            return False

        def report(self, step, steps, note):
            self.reports.append((step, steps, note))

        def say(self, line):
            self.lines.append(line)

        def measure(self, figures):
            self.measured.append(figures)

        def checkpointed(self, seconds):
            pass

    return LocalSession
