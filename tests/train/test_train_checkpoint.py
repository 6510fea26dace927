"""Checkpoints of one process without Ray: no step waits, the manifest is last, nothing broken is taken."""

import dataclasses
import threading

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from uniner.errors import UserError
from uniner.storage.stage_folder import StageFolder
from uniner.train import checkpoint, export, loop, model, packing, worker
from uniner.train.checkpoint import STATE, Checkpoints, State

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("group")


def load(base):
    config = AutoConfig.from_pretrained(base)
    net = model.load(config, model.read(str(base)), torch.float32, CPU)
    return net, loop.make_optimizer(net, 0.0)


def steps_of(net, optimizer, samples, steps_done=0):
    lengths = [len(sample) for sample in samples]
    plan = packing.plan(lengths, [1] * len(samples), seed=0, epochs=2, batch=8, row_tokens=1024)
    settings = {"peak_rate": 1e-2, "warmup_share": 0.2, "clip_norm": 1.0}
    return loop.train(net, optimizer, samples, plan, steps_done=steps_done, device=CPU, **settings)


def state_of(steps, **more) -> State:
    return State("digest", [{"loss": 0.0}] * steps, **more)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def keep(folder):
    """Return a function that makes the checkpoints of a new attempt, of which the two newest are kept."""
    return lambda best=False: Checkpoints(StageFolder(str(folder)), 2, best, CPU)


@pytest.mark.parametrize("which", ["base", "tied_base"])
def test_resumed_from_a_checkpoint_the_curve_is_the_same(which, request, samples, keep):
    """The steps go on while it is written: it holds what was there when it was taken."""
    base = request.getfixturevalue(which)
    net, optimizer = load(base)
    steps = steps_of(net, optimizer, samples)
    state = State("digest", [dataclasses.asdict(next(steps)) for _ in range(3)])
    written = threading.Event()
    with keep() as checkpoints:
        # Holds the thread until the weights are others; the next checkpoint is written from there.
        checkpoints._thread.submit(written.wait)
        checkpoints.save(net, optimizer, state)
        taken = dataclasses.replace(state, history=list(state.history))
        rest = []
        for step in steps:
            assert not checkpoints.idle()
            rest.append(step.loss)
            state.history.append(dataclasses.asdict(step))
        written.set()
    again, fresh = load(base)
    resumed = keep().resume(again, fresh, "digest", print)
    assert resumed.history == taken.history and resumed.resumed == [3]
    found = [step.loss for step in steps_of(again, fresh, samples, steps_done=3)]
    assert len(found) == 3 and found == pytest.approx(rest, abs=1e-6)


def test_the_manifest_is_written_last_and_no_step_waits(base, folder, keep):
    net, optimizer = load(base)
    upload, files = threading.Event(), []

    def beside():
        upload.wait(60)
        files.extend(StageFolder(str(folder)).tree())

    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1), beside)
        assert not checkpoints.idle()
        upload.set()
        checkpoints.wait()
        assert checkpoints.idle()
        assert any(name.endswith(".distcp") for name in files) and not any(STATE in name for name in files)
        assert any(STATE in name for name in StageFolder(str(folder)).tree())


@pytest.mark.parametrize("error", [OSError("no space left"), UserError("s3://bucket: access refused")])
def test_what_goes_wrong_behind_the_steps_is_told(base, folder, keep, error):
    net, optimizer = load(base)

    def fail():
        raise error

    checkpoints = keep()
    checkpoints.save(net, optimizer, state_of(1), fail)
    with pytest.raises(type(error), match=str(error)):
        checkpoints.wait()
    assert not any(STATE in name for name in StageFolder(str(folder)).tree())
    said = []
    with keep() as again:
        assert again.resume(net, optimizer, "digest", said.append).steps == 0
        assert len(said) == 1 and "was never finished" in said[0]
        again.save(net, optimizer, state_of(1))
    assert [path.name.split("-")[1] for path in folder.iterdir()] == ["00000001"]  # what was left is gone


def test_the_newest_and_the_best_are_kept(base, folder, keep):
    net, optimizer = load(base)
    losses = {1: 0.5, 2: 0.25, 3: 0.75, 4: 0.25, 5: 0.3}
    validation = []
    with keep(best=True) as checkpoints:
        for step, loss in losses.items():
            with torch.no_grad():
                next(net.parameters()).fill_(step)
            validation.append({"step": step, "loss": loss})
            checkpoints.save(net, optimizer, state_of(step, validation=validation))
        checkpoints.wait()
        assert sorted(int(path.name.split("-")[1]) for path in folder.iterdir()) == [2, 4, 5]
        checkpoints.load_best(net, state_of(5, validation=validation))
    assert (next(net.parameters()).full_tensor() == 2).all()


def test_a_checkpoint_of_another_plan_is_refused(base, keep):
    net, optimizer = load(base)
    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1))
    with pytest.raises(UserError, match="of another plan"):
        keep().resume(net, optimizer, "other", print)


def test_every_way_a_checkpoint_breaks_is_noticed(base, folder, keep):
    net, optimizer = load(base)
    with keep() as checkpoints:
        checkpoints.save(net, optimizer, state_of(1))
        checkpoints.save(net, optimizer, state_of(2))
    _, newest = sorted(folder.iterdir())
    shard, state, at = next(newest.glob("*.distcp")), newest / STATE, StageFolder(str(newest))
    assert checkpoint.fault(at) == ""
    whole, told = shard.read_bytes(), state.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1

    def broken_says(said):
        lines = []
        assert keep().resume(net, optimizer, "digest", lines.append).steps == 1
        assert len(lines) == 1 and newest.name in lines[0] and said in lines[0]

    shard.write_bytes(flipped)
    broken_says(f"{shard.name} has other bytes than were written")
    shard.write_bytes(whole[:-1])
    broken_says(f"{shard.name} is missing or cut short")
    shard.unlink()
    broken_says(f"{shard.name} is missing or cut short")
    state.write_bytes(told[: len(told) // 2])
    broken_says(f"{STATE} cannot be read")
    state.unlink()
    broken_says("was never finished")


def test_broken_checkpoints_are_passed_over_but_never_all_of_them(make_order, alone, tmp_path):
    order = make_order(epochs=1)
    first = worker.work(order, alone())["figures"]
    folder = tmp_path / "run/train/checkpoints"
    _, newest = sorted(folder.iterdir())
    assert newest.name.startswith("step-00000004-")
    shard = next(newest.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1])
    session = alone()
    figures = worker.work(order, session)["figures"]
    assert f"checkpoint {newest.name} is broken ({shard.name} is missing or cut short)" in session.said[1]
    assert figures["resumed"] == 1 and figures["last_loss"] == pytest.approx(first["last_loss"], abs=1e-6)
    assert not newest.exists()  # a whole one of the last step has taken its place

    for state in folder.glob(f"*/{STATE}"):
        state.write_text("{}")
    assert "no checkpoint is whole; delete" in worker.work(order, alone())["error"]


def test_the_best_step_becomes_the_student(make_order, alone, tmp_path, monkeypatch):
    """Of three epochs the second is measured best; after an interruption it is still known and there."""
    order = make_order(epochs=3, export="best")
    measures, weights = iter([0.5, 0.25, 0.75]), {}

    def measure(net, *_):
        loss = next(measures)
        gathered = export.gather(net, torch.float32)
        weights[loss] = {name: weight.clone() for name, weight in gathered.items()}
        return loss

    monkeypatch.setattr(loop, "mean_loss", measure)
    for _ in range(2):  # again, from the last checkpoint: nothing is left to train or to measure
        figures = worker.work(order, alone())["figures"]
        assert (figures["exported_step"], figures["steps"], figures["validation_loss"]) == (8, 12, 0.25)
        student = AutoModelForCausalLM.from_pretrained(tmp_path / "run/train/student").state_dict()
        assert all(torch.equal(student[name], weight) for name, weight in weights[0.25].items())
        assert not all(torch.equal(student[name], weight) for name, weight in weights[0.75].items())
    assert figures["resumed"] == 1


def test_a_machine_that_is_about_to_go_has_its_checkpoint_before_the_next_step(
    make_order, alone, tmp_path, monkeypatch
):
    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.0)
    folder, stood = StageFolder(str(tmp_path / "run/train/checkpoints")), {}

    class Leaving(alone):
        def leaving(self):
            return len(stood) == 3  # told of the model, the start and a step

        def tell(self, step, steps, note):
            super().tell(step, steps, note)
            if steps:
                stood[len(stood)] = [name[:13] for name in folder.tree() if name.endswith(STATE)]

    worker.work(make_order(epochs=1, checkpoint_steps=100), Leaving())
    assert stood[2] == [] and stood[3] == ["step-00000001"]
