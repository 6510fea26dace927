"""The real stage on a real local Ray: any number of workers, a killed worker, a stop and another start."""

import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from uniner.config import Config
from uniner.errors import UserError
from uniner.progress import Progress
from uniner.storage import Folder
from uniner.student import student_facts
from uniner.templates import Renderer
from uniner.train import stage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
STEPS = 7


def make_config(root, base, name, **changes) -> Config:
    train = {
        "epochs": 2,
        "max_steps": STEPS,
        "batch_conversations": 6,
        "learning_rate": 1e-2,
        "dtype": "float32",
        "use_gpu": False,
        "checkpoint_steps": 2,
        "failures": 0,
        **changes,
    }
    return Config.model_validate(
        {
            "run": {"root": str(root), "name": name},
            "student": {"base": str(base), "max_tokens": 256},
            "ingest": {"shards": ["none"]},
            "train": train,
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def prepare(root, base, conversations, write_build):
    """Return a function that makes a run with its build stage done, and the config to train it."""

    def make(name: str, **changes) -> Config:
        if not (root / name).exists():
            write_build(Folder(str(root)) / name / "build", conversations)
        return make_config(root, base, name, **changes)

    return make


@pytest.fixture(scope="module")
def alone(ray_session, prepare):
    """The manifest and the history of one worker that nothing disturbs."""
    config = prepare("alone")
    return stage.run(config), history_of(config)


def history_of(config: Config) -> dict:
    return (Folder(config.run.root) / config.run.name / "train").read_json("history.json")


def require_same_curve(history, expected):
    assert [step["step"] for step in history["steps"]] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "learning_rate", "tokens", "answer_tokens"):
        figures = [step[name] for step in history["steps"]]
        assert figures == pytest.approx([step[name] for step in expected["steps"]], abs=1e-5, rel=1e-5)
    assert history["validation"][-1]["loss"] == pytest.approx(expected["validation"][-1]["loss"], abs=1e-5)


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""


@pytest.fixture
def kill_after(monkeypatch, root):
    """Return a function that lets the driver kill a training process once after each of some steps.

    It waits until every second step has its checkpoint registered, to be gone on from.
    """

    def registered() -> int:
        snapshot = root / "killed/train/ray/checkpoint_manager_snapshot.json"
        return len(set(re.findall(r"checkpoint_2\d[^\"]+", snapshot.read_text()))) if snapshot.exists() else 0

    def arm(*steps: int) -> list[int]:
        left = list(steps)

        class Killing(Progress):
            def add(self, rows, share=None, note=""):
                super().add(rows, share, note)
                if left and self._rows >= left[0] and registered() >= left[0] // 2:
                    workers = [
                        child
                        for child in psutil.Process().children(recursive=True)
                        if "RayTrainWorker" in command_of(child)
                    ]
                    os.kill(workers[-1].pid, signal.SIGKILL)
                    left.pop(0)

        monkeypatch.setattr(stage, "Progress", Killing)
        return left

    return arm


def test_one_worker_learns_and_says_so(alone, prepare):
    manifest, history = alone
    figures = manifest["figures"]
    assert manifest["parents"] == {"build": (Folder(prepare("alone").run.root) / "alone/build").digest()}
    assert figures["steps"] == STEPS and figures["conversations"] == manifest["rows"] == 21
    assert figures["last_loss"] == history["steps"][-1]["loss"] < figures["first_loss"] - 1
    assert figures["tokens"] == sum(step["tokens"] for step in history["steps"])
    assert figures["validation_loss"] == history["validation"][-1]["loss"]
    assert [measured["step"] for measured in history["validation"]] == [4, STEPS]
    assert 0 < figures["useful_share"] <= 1 and figures["tokens_per_s"] > 0 and figures["resumed"] == 0


def test_the_student_loads_and_names_its_template(alone, prepare, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = prepare("alone")
    folder = f"{config.run.root}/alone/train/student"
    facts = student_facts(folder)
    assert facts["template"] == "type" and facts["max_tokens"] == 256 and facts["types"] == ["type 1"]
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


def test_the_card_says_what_was_done_and_how_to_ask(alone, prepare, tokenizer):
    manifest, _ = alone
    card = Folder(f"{prepare('alone').run.root}/alone/train/student").read("README.md").decode()
    assert "run\nalone," in card and "| conversations to train on | 21 |" in card
    assert f"| loss of the last step | {manifest['figures']['last_loss']:.4f} |" in card
    prompt = card.split("```\n")[1].strip().replace("PASSAGE", "In Rome.")
    head, question = prompt.split("</s>")
    ids = Renderer(tokenizer).prompts("In Rome.", ["What describes type 1 in the text?"])[0]
    texts = [head, question]
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [*encoded[0], tokenizer.eos_token_id, *encoded[1]] == [
        id_ for id_ in ids if id_ != tokenizer.bos_token_id
    ]


def test_the_curves_stand_for_tensorboard(alone, prepare):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, history = alone
    read = EventAccumulator(f"{prepare('alone').run.root}/alone/train/tensorboard").Reload()
    for name in ("loss", "grad_norm", "tokens_per_s"):
        drawn = {event.step: event.value for event in read.Scalars(f"train/{name}")}
        assert drawn == pytest.approx({step["step"]: step[name] for step in history["steps"]}, rel=1e-5)
    assert [event.step for event in read.Scalars("validation/loss")] == [4, STEPS]


def test_a_second_run_is_a_no_op(alone, prepare, capsys):
    manifest, _ = alone
    assert stage.run(prepare("alone", workers=2, checkpoint_steps=1)) == manifest
    assert "train: already done, 21 conversations" in capsys.readouterr().err


def test_two_workers_on_s3_give_the_curve_of_one(alone, base, bucket, conversations, write_build):
    """All of it on S3: the base model, the conversations, the checkpoints, the student."""
    root = Folder(bucket) / "train"
    (root / "base").upload(base)
    write_build(root / "two" / "build", conversations)
    config = make_config(root.url, (root / "base").url, "two", workers=2, pack_tokens=300)
    stage.check(config)
    stage.run(config)
    require_same_curve(history_of(config), alone[1])
    assert student_facts((root / "two/train/student").url)["base"] == (root / "base").url


def test_killed_workers_and_a_failed_run_change_nothing(
    alone, prepare, kill_after, monkeypatch, root, capsys
):
    """A first killed worker is survived, a second fails the run, and the same run goes on with one worker.

    A bit of the newest checkpoint has been flipped meanwhile: the one before is taken.
    """
    config = prepare("killed", workers=2, failures=1)
    left = kill_after(2, 4)
    with pytest.raises(Exception, match="Training failed due to worker errors"):
        stage.run(config)
    assert left == []
    monkeypatch.undo()
    kept = root / "killed/train/ray"
    registered = (
        kept / "checkpoint_manager_snapshot.json"
    ).read_text()  # the kill may leave one more, half done
    steps_of = {
        folder: len(json.loads((folder / "state.json").read_text())["history"])
        for folder in kept.glob("checkpoint_*")
        if folder.is_dir() and folder.name in registered
    }
    newest = max(steps_of, key=steps_of.get)
    shard = next(newest.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))
    again = prepare("killed", workers=1)
    stage.check(again)
    manifest = stage.run(again)
    history = history_of(again)
    require_same_curve(history, alone[1])
    assert manifest["figures"]["resumed"] == len(history["resumed"]) in (1, 2)
    assert history["resumed"][-1] < steps_of[newest]
    assert f"checkpoint {newest.name} is broken ({shard.name} has other bytes" in capsys.readouterr().err
    assert not kept.exists()  # the student stands


def test_an_error_that_no_retry_mends_ends_the_run_at_once(prepare, root):
    config = prepare("far", learning_rate=1e30, failures=3)
    with pytest.raises(UserError, match=r"train: step \d has loss .* p\d+ .*learning_rate"):
        stage.run(config)
    assert not (root / "far/train/manifest.json").exists()


def test_check_names_what_is_wrong(alone, prepare, root):
    with pytest.raises(UserError, match=r"train.epochs was 2, now 3"):
        stage.check(prepare("alone", epochs=3))
    with pytest.raises(UserError, match=r"pack_tokens = 100 is below student.max_tokens = 256"):
        stage.check(prepare("alone", pack_tokens=100))
    with pytest.raises(UserError, match="nowhere"):
        stage.check(make_config(root, root / "nowhere", "new"))


def test_more_than_the_machine_has_is_refused(prepare):
    with pytest.raises(UserError, match=r"train.workers = 1 needs as many GPUs.*train.use_gpu=false"):
        stage.run(prepare("gpu", use_gpu=True))
