"""The real stage on a real local Ray: several workers, killed ones, damaged checkpoints, resuming.

In every case the 20 steps equal those of one undisturbed worker, to 1e-5:

    two workers on S3, one of them killed (SIGKILL) while a checkpoint's upload hangs, started again by Ray
    two workers on disk, one killed at a random step, the newest checkpoint's bytes flipped, one goes on
    one worker on S3, as there is no room for two, killed at a random step with the newest checkpoint's
    state.json lost; then there is room, and Ray starts two
"""

import logging
import random
import threading
from pathlib import Path

import psutil
import pytest
import ray

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.inference.engine import EngineSettings
from uniner.runtime import trainer
from uniner.storage.model_folders import student_facts
from uniner.storage.stage_folder import StageFolder
from uniner.templates import SINGLE_TYPE, Renderer
from uniner.train import export_check, stage, worker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
STEPS, EPOCH_ENDS = 20, [4, 8, 12, 16, 20]
CHANCE = random.Random(20260801)


def make_config(root, base, name, **changes) -> Config:
    train = {
        "epochs": 5,
        "batch_conversations": 6,
        "learning_rate": 1e-2,
        "dtype": "float32",
        "use_gpu": False,
        "checkpoint_steps": 2,
        "check_export": False,
        "max_failures": 0,
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
            write_build(StageFolder(str(root)) / name / "build", conversations)
        return make_config(root, base, name, **changes)

    return make


@pytest.fixture(scope="module")
def run(stage_context):
    """Return a function that runs the stage for a config and returns its manifest."""
    return lambda config: stage.run(stage_context(stage, config))


@pytest.fixture(scope="module")
def check(stage_context):
    """Return a function that checks a config."""
    return lambda config: stage.check(stage_context(stage, config))


@pytest.fixture(autouse=True)
def info(caplog):
    caplog.set_level(logging.INFO, "uniner")


@pytest.fixture(scope="module")
def alone(ray_session, prepare, run):
    """The manifest and the history of one undisturbed worker."""
    config = prepare("alone", check_export=True)
    return run(config), history_of(config)


def history_of(config: Config) -> dict:
    return (StageFolder(config.run.root) / config.run.name / "train").read_json("history.json")


def require_same_curve(history, expected):
    assert [step["step"] for step in history["steps"]] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "learning_rate", "tokens", "answer_tokens"):
        figures = [step[name] for step in history["steps"]]
        assert figures == pytest.approx([step[name] for step in expected["steps"]], abs=1e-5, rel=1e-5)
    for measured, reference in zip(history["validation"], expected["validation"], strict=True):
        assert measured == pytest.approx(reference, abs=1e-5)  # the generation eval too


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # the process has ended
        return ""


def killed_at(step, rank, mark, last_act=lambda checkpoints: None):
    """Return a training function: after the step, the worker of this rank runs last_act and dies, once.

    It waits for each checkpoint before the next one is due, so that the test knows which are finished.
    """

    def train(job, session):
        import os
        import signal
        import time

        import torch.distributed as dist

        from uniner.train import CHECKPOINTS, worker
        from uniner.train.checkpoint import Checkpoints

        def wait_until_idle(self):
            self.wait()
            return True

        # Else a checkpoint may be put off to the next step, whose report waits for it.
        Checkpoints.idle = wait_until_idle
        checkpoints = job.run / "train" / CHECKPOINTS

        def finished(number):
            return any(f"{number:08d}" in name and "state.json" in name for name in checkpoints.tree())

        class KilledSession:
            preempted, say = session.preempted, session.say
            measure, checkpointed = session.measure, session.checkpointed

            def report(self, done, steps, note):
                session.report(done, steps, note)
                while done > 2 and done % 2 and not mark.exists() and not finished(done - 1):
                    time.sleep(0.01)
                if done == step and dist.get_rank() == rank and not mark.exists():
                    mark.touch()
                    last_act(checkpoints)
                    os.kill(os.getpid(), signal.SIGKILL)

        return worker.train(job, KilledSession())

    return train


def newest_checkpoint(folder: StageFolder) -> tuple[StageFolder, int]:
    """Return the newest finished checkpoint, and its step."""
    checkpoints = folder / "checkpoints"
    name = max(name.split("/")[0] for name in checkpoints.tree() if "state.json" in name)
    return checkpoints / name, int(name.split("-")[1])


@pytest.fixture
def kill_in_upload(s3_server, monkeypatch):
    """Return a function that kills a worker during the upload of a run's second checkpoint.

    The server answers that upload only once the worker has ended.
    """
    answer = s3_server._server.app
    lock, seen = threading.Lock(), []

    def arm(run: str) -> list[str]:
        def hang(environ, start_response):
            path = environ["PATH_INFO"]
            if environ["REQUEST_METHOD"] in ("PUT", "POST") and f"{run}/train/checkpoints/step-" in path:
                with lock:
                    step = path.split("step-")[1].split("-")[0]
                    if step not in seen:
                        seen.append(step)
                        if len(seen) == 2:
                            worker = CHANCE.choice(train_workers())
                            worker.kill()
                            worker.wait(60)
            return answer(environ, start_response)

        monkeypatch.setattr(s3_server._server, "app", hang)
        return seen

    return arm


def train_workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "RayTrainWorker" in command_of(child)]


def test_one_worker_learns_and_reports_it(alone, prepare):
    manifest, history = alone
    figures = manifest.figures
    build = StageFolder(prepare("alone").run.root) / "alone/build"
    assert manifest.identity.parents == {"build": build.digest()}
    assert figures["steps"] == STEPS and figures["conversations"] == manifest.rows == 21
    assert figures["last_loss"] == history["steps"][-1]["loss"] < figures["first_loss"] - 1
    assert figures["tokens"] == sum(step["tokens"] for step in history["steps"])
    assert figures["validation_loss"] == history["validation"][-1]["loss"]
    assert [measured["step"] for measured in history["validation"]] == EPOCH_ENDS
    assert (figures["validation_questions"], "validation_f1" in figures) == (6, True)
    assert 0 < figures["useful_share"] <= 1 and figures["tokens_per_s"] > 0 and figures["resumed"] == 0


def test_the_student_loads_and_names_its_template(alone, prepare, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = prepare("alone")
    folder = f"{config.run.root}/alone/train/student"
    facts = student_facts(folder)
    assert facts.template == "type" and facts.max_tokens == 256 and facts.types == ("type 1",)
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


def test_the_student_answered_a_validation_question_in_vllm(alone, conversations):
    manifest, _ = alone
    answer = manifest.results["check"]
    (reply,) = answer["replies"]
    first = next(row for row in conversations if row.split == "validation").conversations
    assert f"Text: {answer['passage']}" == first[0]["value"]
    assert SINGLE_TYPE.question([reply["type"]]) == first[2]["value"]
    assert reply["outcome"] in ("ok", "unparseable", "too_long") and reply["text"]


def test_a_student_that_does_not_load_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"written, but vLLM does not answer .*train.check_export=false"):
        export_check.ask(str(tmp_path), SINGLE_TYPE, "a", ("b",), EngineSettings(max_prompt_tokens=64))


def test_the_card_has_the_figures_and_the_prompt(alone, prepare, tokenizer):
    manifest, _ = alone
    card = StageFolder(f"{prepare('alone').run.root}/alone/train/student").read("README.md").decode()
    assert "run\nalone," in card and "| conversations to train on | 21 |" in card
    assert f"| loss of the last step | {manifest.figures['last_loss']:.4f} |" in card
    prompt = card.split("```\n")[1].strip().replace("PASSAGE", "In Rome.")
    head, question = prompt.split("</s>")
    ids = Renderer(tokenizer).prompts("In Rome.", ["What describes type 1 in the text?"])[0]
    texts = [head, question]
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [*encoded[0], tokenizer.eos_token_id, *encoded[1]] == [
        id_ for id_ in ids if id_ != tokenizer.bos_token_id
    ]


def test_tensorboard_reads_the_curves(alone, prepare):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, history = alone
    read = EventAccumulator(f"{prepare('alone').run.root}/alone/train/tensorboard").Reload()
    for name in ("loss", "grad_norm", "tokens_per_s"):
        drawn = {event.step: event.value for event in read.Scalars(f"train/{name}")}
        assert drawn == pytest.approx({step["step"]: step[name] for step in history["steps"]}, rel=1e-5)
    for name in ("loss", "f1"):
        assert [event.step for event in read.Scalars(f"validation/{name}")] == EPOCH_ENDS


def test_a_second_run_is_a_no_op(alone, prepare, run, caplog):
    manifest, _ = alone
    assert run(prepare("alone", workers=2, checkpoint_steps=1)) == manifest
    assert "train: already done, 21 conversations" in caplog.text


@pytest.mark.slow
def test_two_workers_on_s3_give_the_same_curve_when_one_is_killed_in_an_upload(
    alone, base, bucket, conversations, write_build, kill_in_upload, run, check, caplog
):
    """Base model, conversations, checkpoints and student are on S3. Each worker has a whole copy."""
    root = StageFolder(bucket) / "train"
    (root / "base").upload(base)
    write_build(root / "two" / "build", conversations)
    changes = {"workers": 2, "pack_tokens": 300, "max_failures": 1, "shard_workers": 1}
    config = make_config(root.url, (root / "base").url, "two", **changes)
    check(config)
    uploaded = kill_in_upload("two")
    run(config)
    history = history_of(config)
    require_same_curve(history, alone[1])
    assert uploaded[0] == "00000002" and history["resumed"] == [2]
    assert f"checkpoint step-{uploaded[1]}-" in caplog.text
    assert "was never finished; it is skipped" in caplog.text
    assert "train: resuming after step 2 with 2 workers" in caplog.text
    assert student_facts((root / "two/train/student").url).base == (root / "base").url
    assert (root / "two/train/checkpoints").tree() == []


def test_two_workers_stop_at_a_random_step_and_one_resumes(
    alone, prepare, run, check, monkeypatch, tmp_path, caplog
):
    """The newest checkpoint has other bytes than were written: the run resumes from the one before."""
    step, rank = CHANCE.randrange(6, STEPS - 1), CHANCE.randrange(2)
    print(f"worker {rank} is killed after step {step}")
    config = prepare("stopped", workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", killed_at(step, rank, tmp_path / "killed"))
        with pytest.raises(UserError, match=r"^train: .*RayTrainWorker.* died .*goes on from the last check"):
            run(config)
    newest, kept = newest_checkpoint(StageFolder(config.run.root) / "stopped/train")
    assert kept == (step - 1) // 2 * 2
    shard = newest.read("__1_0.distcp")
    newest.write("__1_0.distcp", shard[:-1] + bytes([shard[-1] ^ 1]))
    again = prepare("stopped", workers=1)
    check(again)
    manifest = run(again)
    history = history_of(again)
    require_same_curve(history, alone[1])
    assert history["resumed"] == [kept - 2] and manifest.figures["resumed"] == 1
    name = newest.url.rsplit("/", 1)[-1]
    assert f"checkpoint {name} is broken (__1_0.distcp has other bytes" in caplog.text


@pytest.mark.slow
def test_the_end_of_the_process_that_controls_the_workers_is_one_line_and_the_same_command_goes_on(
    alone, prepare, run, monkeypatch, tmp_path
):
    """As where the driver's machine runs out of memory: it dies with more failures of workers allowed."""

    def kill_controller(checkpoints):
        for process in psutil.Process().parent().children():
            if "TrainController" in " ".join(process.cmdline()):
                process.kill()
                process.wait(60)

    config = prepare("uncontrolled", max_failures=3)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", killed_at(9, 0, tmp_path / "killed", kill_controller))
        with pytest.raises(UserError, match=r"^train: .*TrainController.* died .*from the last checkpoint$"):
            run(config)
    assert (tmp_path / "killed").exists()
    run(config)
    history = history_of(config)
    require_same_curve(history, alone[1])
    assert history["resumed"] == [8]


def test_the_progress_outlives_the_process_that_collects_it():
    import os

    board = trainer._start_board()
    process = psutil.Process(ray.get(board.__ray_call__.remote(lambda _: os.getpid())))
    process.kill()
    process.wait(60)
    assert ray.get(board.read.remote())[0].step == 0
    board.report.remote(trainer.RunProgress(3, 9, "loss"))
    assert ray.get(board.read.remote()) == ((3, 9, "loss"), [])


@pytest.mark.slow
def test_one_worker_stops_at_a_random_step_and_two_resume_when_there_is_room(
    alone, base, bucket, conversations, write_build, run, monkeypatch, tmp_path, caplog
):
    """On S3; the newest checkpoint lacks state.json, as after a cut upload: the one before is taken."""
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as room

    step = CHANCE.randrange(6, STEPS - 1)
    print(f"the worker is killed after step {step}")
    taken = [{"CPU": 1.0}] * (int(ray.cluster_resources()["CPU"]) - 1)
    most = room.ResourceRequestPriority.HIGH
    coordinator = room.get_or_create_autoscaling_coordinator()
    ray.get(coordinator.request_resources.remote("others", taken, expire_after_s=3600, priority=most))

    def last_act(checkpoints):
        state = max(name for name in checkpoints.tree() if "state.json" in name)
        checkpoints.remove([state])
        ray.get(room.get_or_create_autoscaling_coordinator().cancel_request.remote("others"))

    monkeypatch.setattr(worker, "train", killed_at(step, 0, tmp_path / "killed", last_act))
    root = StageFolder(bucket) / "grown"
    write_build(root / "r" / "build", conversations)
    config = make_config(root.url, base, "r", workers=[1, 2], max_failures=1)
    run(config)
    history = history_of(config)
    require_same_curve(history, alone[1])
    (resumed,) = history["resumed"]
    assert resumed == (step - 1) // 2 * 2 - 2
    assert f"step-{resumed + 2:08d}-" in caplog.text and "was never finished; it is skipped" in caplog.text
    assert f"train: resuming after step {resumed} with 2 workers" in caplog.text


def test_an_error_on_all_workers_ends_the_run_at_once(prepare, root, run):
    config = prepare("far", learning_rate=1e30, max_failures=3)
    with pytest.raises(UserError, match=r"train: step \d has loss .* p\d+ .*learning_rate"):
        run(config)
    assert not (root / "far/train/manifest.json").exists()


def test_check_names_what_is_wrong(alone, prepare, root, base, check):
    with pytest.raises(UserError, match=r"train.epochs was 5, now 3"):
        check(prepare("alone", epochs=3))
    with pytest.raises(UserError, match=r"pack_tokens = 100 is below .* set train.pack_tokens=256 or more"):
        check(prepare("alone", pack_tokens=100))
    for changes, message in (
        ({"workers": 3, "shard_workers": 2}, "shard_workers = 2 must divide train.workers = 3"),
        ({"attention": "flex_attention"}, "flex_attention trains only on GPUs"),
        ({"lora_bits": 4}, "set train.lora_rank too"),
    ):
        with pytest.raises(UserError, match=message):
            check(make_config(root, base, "new", **changes))
    with pytest.raises(UserError, match="nowhere"):
        check(make_config(root, root / "nowhere", "new"))


def test_more_than_the_machine_has_is_refused(prepare, run):
    with pytest.raises(
        UserError, match=r"train: needs 1 GPU, 1 CPU, .* train.workers, .*train.use_gpu=false"
    ):
        run(prepare("gpu", use_gpu=True))
