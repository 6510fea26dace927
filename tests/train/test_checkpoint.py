"""Checkpoints of one process without Ray: no step waits, state.json is last, damage is noticed."""

import dataclasses
import hashlib
import pickle
import random
import threading
from collections import Counter

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from uniner.errors import UserError
from uniner.storage.sealed_json import open_sealed_json
from uniner.storage.stage_folder import StageFolder
from uniner.train import checkpoint, checkpoint_reader, export, loop, model, packing, steps, worker
from uniner.train.checkpoint import STATE, Checkpoints, TrainState
from uniner.train.loop import LoopSettings, StepFigures, ValidationFigures

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("group")


def load(base):
    config = AutoConfig.from_pretrained(base)
    net = model.load_sharded(config, model.read_base(str(base)), torch.float32, CPU)
    return net, loop.make_optimizer(net, 0.0)


def steps_of(net, optimizer, samples, losses=()):
    lengths = [len(sample) for sample in samples]
    schedule = packing.schedule(lengths, [1] * len(samples), seed=0, epochs=2, batch=8, row_tokens=1024)
    settings = LoopSettings(peak_rate=1e-2, warmup_share=0.2, max_grad_norm=1.0)
    return loop.train(net, optimizer, samples, schedule, settings, losses=losses, device=CPU)


STEP = StepFigures(
    step=1, loss=0.0, learning_rate=0.0, grad_norm=0.0, tokens=1, answer_tokens=1, seconds=1.0,
    tokens_per_s=1.0,
)  # fmt: skip


def state_of(steps, **more) -> TrainState:
    return TrainState("digest", [STEP] * steps, **more)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def keep(folder):
    """Return a function that makes the checkpoints of a new attempt, which keeps the two newest."""
    return lambda best=None: Checkpoints(StageFolder(str(folder)), 2, best, CPU)


@pytest.mark.parametrize("which", ["base", "tied_base"])
def test_a_resumed_run_has_the_same_curve(which, request, samples, keep):
    """Steps run while the checkpoint is written: it holds the state of the moment it was saved."""
    base = request.getfixturevalue(which)
    net, optimizer = load(base)
    steps = steps_of(net, optimizer, samples)
    state = TrainState("digest", [next(steps) for _ in range(3)])
    written = threading.Event()
    with keep() as checkpoints:
        # The thread waits until the next steps have changed the weights, then writes the checkpoint.
        checkpoints._thread.submit(written.wait)
        checkpoints.save(net, optimizer, state)
        saved = dataclasses.replace(state, history=list(state.history))
        rest = []
        for step in steps:
            assert not checkpoints.idle()
            rest.append(step.loss)
            state.history.append(step)
        written.set()
    again, fresh = load(base)
    resumed = keep().resume(again, fresh, "digest", print)
    assert resumed.history == saved.history and resumed.resumed == [3]
    done = [step.loss for step in resumed.history]
    losses = [step.loss for step in steps_of(again, fresh, samples, done)]
    assert len(losses) == 3 and losses == pytest.approx(rest, abs=1e-6)


def test_the_state_is_written_last_and_no_step_waits(base, folder, keep):
    net, optimizer = load(base)
    upload, files = threading.Event(), []

    def after_shards():
        upload.wait(60)
        files.extend(StageFolder(str(folder)).tree())

    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1), after_shards)
        assert not checkpoints.idle()
        upload.set()
        checkpoints.wait()
        assert checkpoints.idle()
        assert any(name.endswith(".distcp") for name in files) and not any(STATE in name for name in files)
        assert any(STATE in name for name in StageFolder(str(folder)).tree())


def test_each_checkpoint_s_seconds_are_told_once_it_is_complete(make_job, local_session, tmp_path):
    """The last too, and not only as the next one begins."""
    folder, told = StageFolder(str(tmp_path / "run/train/checkpoints")), []

    class Timed(local_session):
        def checkpointed(self, seconds):
            newest = max(name[:13] for name in folder.tree() if name.endswith(STATE))
            told.append((newest, seconds))

    worker.train(make_job(epochs=1, checkpoint_steps=2, max_steps=3), Timed())
    assert [newest for newest, _ in told][-1] == "step-00000003"
    assert all(0 < seconds < 60 for _, seconds in told)
    assert len(told) == len({newest for newest, _ in told}) >= 1


@pytest.mark.parametrize("error", [OSError("no space left"), UserError("s3://bucket: access refused")])
def test_an_error_of_the_writing_thread_is_raised(base, folder, keep, error):
    net, optimizer = load(base)

    def fail():
        raise error

    checkpoints = keep()
    checkpoints.save(net, optimizer, state_of(1), fail)
    with pytest.raises(type(error), match=str(error)):
        checkpoints.wait()
    assert not any(STATE in name for name in StageFolder(str(folder)).tree())
    lines = []
    with keep() as again:
        assert again.resume(net, optimizer, "digest", lines.append).steps == 0
        assert len(lines) == 1 and "was never finished" in lines[0]
        again.save(net, optimizer, state_of(1))
    assert [path.name.split("-")[1] for path in folder.iterdir()] == [
        "00000001"
    ]  # the unfinished one is deleted


def test_the_newest_and_the_best_are_kept(base, folder, keep):
    net, optimizer = load(base)
    losses = {1: 0.5, 2: 0.25, 3: 0.75, 4: 0.25, 5: 0.3}
    validation = []
    with keep(best="loss") as checkpoints:
        for step, loss in losses.items():
            with torch.no_grad():
                next(net.parameters()).fill_(step)
            validation.append(ValidationFigures(step=step, loss=loss))
            checkpoints.save(net, optimizer, state_of(step, validation=validation))
        checkpoints.wait()
        assert sorted(int(path.name.split("-")[1]) for path in folder.iterdir()) == [2, 4, 5]
        checkpoints.load_best(net, state_of(5, validation=validation))
    assert (next(net.parameters()).full_tensor() == 2).all()


def test_a_checkpoint_of_another_schedule_is_refused(base, keep):
    net, optimizer = load(base)
    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1))
    with pytest.raises(UserError, match="of another schedule"):
        keep().resume(net, optimizer, "other", print)


def test_a_resume_fetches_each_file_once(base, keep, monkeypatch):
    net, optimizer = load(base)
    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1))
    opened, filesystem = Counter(), checkpoint_reader.filesystem

    def counted(url):
        opened[url.rsplit("/", 1)[-1]] += 1
        return filesystem(url)

    monkeypatch.setattr(checkpoint_reader, "filesystem", counted)
    assert keep().resume(net, optimizer, "digest", print).steps == 1
    assert set(opened.values()) == {1} and len(opened) == 2


def damage_of(folder):
    with checkpoint.fetched(folder) as fetched:
        return fetched.damage


def test_every_kind_of_damage_is_noticed(base, folder, keep):
    net, optimizer = load(base)
    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1))
        checkpoints.save(net, optimizer, state_of(2))
    _, newest = sorted(folder.iterdir())
    shard, state, at = next(newest.glob("*.distcp")), newest / STATE, StageFolder(str(newest))
    assert damage_of(at) == ""
    whole, stored = shard.read_bytes(), state.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1

    def require_skipped(reason):
        lines = []
        assert keep().resume(net, optimizer, "digest", lines.append).steps == 1
        assert len(lines) == 1 and newest.name in lines[0] and reason in lines[0]

    shard.write_bytes(flipped)
    require_skipped(f"{shard.name} has other bytes than were written")
    shard.write_bytes(whole[:-1])
    require_skipped(f"{shard.name} is missing or cut short")
    shard.unlink()
    require_skipped(f"{shard.name} is missing or cut short")
    state.write_bytes(stored[: len(stored) // 2])
    require_skipped(f"{STATE} cannot be read")
    state.unlink()
    require_skipped("was never finished")


@dataclasses.dataclass
class Trap:
    """Runs a function when it is unpickled."""

    path: str

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("trap_in", ["contents", "values"])
def test_a_checkpoint_runs_no_code_even_with_fitting_digests(base, folder, keep, tmp_path, trap_in):
    net, optimizer = load(base)
    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1))
    (newest,) = folder.iterdir()
    sprung = tmp_path / "sprung"
    if trap_in == "contents":
        (newest / ".metadata").write_bytes(pickle.dumps(Trap(str(sprung))))
    else:
        weights, moments = checkpoint.get_state_dict(net, optimizer, options=checkpoint._LEARNED)
        moments["param_groups"] = [{**group, "lr": Trap(str(sprung))} for group in moments["param_groups"]]
        for shard in newest.glob("*.distcp"):
            shard.unlink()
        checkpoint.dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=str(newest))
    at = StageFolder(str(newest))
    stored = open_sealed_json(at.read(STATE))
    stored["files"] = {
        path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in newest.iterdir()
        if path.name != STATE
    }
    at.write_sealed_json(STATE, stored)
    sprung.unlink(missing_ok=True)
    assert damage_of(at) == ""
    with pytest.raises(UserError, match="holds something else than a checkpoint"):
        keep().resume(net, optimizer, "digest", print)
    assert not sprung.exists()


def test_a_flipped_bit_in_a_checkpoint_is_harmless_or_noticed(base, folder, keep):
    net, optimizer = load(base)
    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1))
    (newest,) = folder.iterdir()
    at, generator = StageFolder(str(newest)), random.Random(0)
    expected = checkpoint._read_state(at)
    for number in range(300):
        file = sorted(newest.iterdir())[number % 3]
        whole = file.read_bytes()
        flipped = bytearray(whole)
        bit = generator.randrange(8 * len(whole))
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert damage_of(at) or checkpoint._read_state(at) == expected, (file, bit)
        file.write_bytes(whole)
    assert damage_of(at) == ""


def test_damaged_checkpoints_are_skipped_but_never_all_of_them(make_job, local_session, tmp_path):
    job = make_job(epochs=1)
    first = worker.train(job, local_session()).figures
    folder = tmp_path / "run/train/checkpoints"
    _, newest = sorted(folder.iterdir())
    assert newest.name.startswith("step-00000004-")
    shard = next(newest.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1])
    session = local_session()
    figures = worker.train(job, session).figures
    assert f"checkpoint {newest.name} is broken ({shard.name} is missing or cut short)" in session.lines[1]
    assert figures.resumed == 1 and figures.last_loss == pytest.approx(first.last_loss, abs=1e-6)
    assert not newest.exists()  # an undamaged one of the last step has replaced it

    for state in folder.glob(f"*/{STATE}"):
        state.write_text("{}")
    error = worker.train(job, local_session()).error
    assert f"all checkpoints in {folder} are broken; delete" in error


def test_the_best_step_becomes_the_student(make_job, local_session, tmp_path, monkeypatch):
    """Of three epochs the second has the lowest loss, and its checkpoint is kept across an interruption."""
    job = make_job(epochs=3, export="best")
    measures, weights = iter([0.5, 0.25, 0.75, 0.75]), {}

    def measure(net, *_):
        loss = next(measures)
        gathered = export.gather_weights(net, torch.float32)
        weights[loss] = {name: weight.clone() for name, weight in gathered.items()}
        return loss

    monkeypatch.setattr(loop, "mean_loss", measure)
    for _ in range(2):  # the second time from the last checkpoint, which was written before it was measured
        figures = worker.train(job, local_session()).figures
        assert (figures.exported_step, figures.steps, figures.validation_loss) == (8, 12, 0.25)
        student = AutoModelForCausalLM.from_pretrained(tmp_path / "run/train/student").state_dict()
        assert all(torch.equal(student[name], weight) for name, weight in weights[0.25].items())
        assert not all(torch.equal(student[name], weight) for name, weight in weights[0.75].items())
    assert figures.resumed == 1 and next(measures, None) is None


def test_a_preempted_machine_writes_a_checkpoint_before_the_next_step(
    make_job, local_session, tmp_path, monkeypatch
):
    monkeypatch.setattr(steps, "_PREEMPTION_CHECK_SECONDS", 0.0)
    folder, finished = StageFolder(str(tmp_path / "run/train/checkpoints")), []

    class Preempted(local_session):
        def preempted(self):
            return len(finished) == 3  # reports so far: loading the model, the start, the first step

        def report(self, step, steps, note):
            super().report(step, steps, note)
            if steps:
                finished.append([name[:13] for name in folder.tree() if name.endswith(STATE)])

    worker.train(make_job(epochs=1, checkpoint_steps=100), Preempted())
    assert finished[2] == [] and finished[3] == ["step-00000001"]
