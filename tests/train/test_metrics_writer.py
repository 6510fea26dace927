"""Tracking services: their figures, resuming in the same tracked run, and outages.

Their libraries are extras (`pip install uniner[mlflow]`, `[wandb]`): without one its test is skipped.
"""

import pytest

from uniner.config.schema import Config
from uniner.errors import UserError
from uniner.train import metrics_writer, stage

FIGURES = {"step": 3, "loss": 0.5, "grad_norm": 2.0}


def start(name, lines):
    return metrics_writer.start_tracker(name, "my-run", "/runs/my-run/train", {"epochs": 2}, lines.append)


def test_mlflow_has_one_run_however_often_training_resumes(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs pip install uniner[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    lines = []
    first = start("mlflow", lines)
    first.log("train", FIGURES)
    first.log("validation", {"step": 3, "loss": 0.25, "f1": 0.75})
    first.close()
    again = start("mlflow", lines)
    again.log("train", {**FIGURES, "step": 4, "loss": 0.125})
    again.close()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("uniner").experiment_id])
    assert run.info.run_name == "my-run" and run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "2"} and run.data.metrics["validation/f1"] == 0.75
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert {point.step: point.value for point in losses} == {3: 0.5, 4: 0.125}
    assert lines == []


def test_wandb_takes_the_figures_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs pip install uniner[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    lines = []
    run = start("wandb", lines)
    run.log("train", FIGURES)
    run.close()
    (written,) = tmp_path.rglob("run-*.wandb")
    assert b"train/grad_norm" in written.read_bytes() and lines == []


def test_an_outage_is_reported_once_and_training_goes_on():
    class Gone:
        def log(self, figures, step):
            raise ConnectionError("no route")

        def close(self):
            raise AssertionError("no call after an error")

    lines = []
    lost = metrics_writer.Tracker("mlflow", Gone(), lines.append)
    for _ in range(3):
        lost.log("train", FIGURES)
    lost.close()
    assert len(lines) == 1 and "mlflow takes no more figures (no route)" in lines[0]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_named_before_ray_starts(name, base, tmp_path, monkeypatch, stage_context):
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda library: None)
    config = Config.model_validate(
        {
            "run": {"root": str(tmp_path), "name": "r"},
            "student": {"base": str(base)},
            "train": {"tracker": name},
        }
    )
    with pytest.raises(UserError, match=rf"train.tracker = {name} needs the library {name}: pip install"):
        stage.check(stage_context(stage, config))
