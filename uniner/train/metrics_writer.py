"""The curves of a run: TensorBoard's event files and, by `train.tracker`, Weights & Biases or MLflow.

Worker 0 writes them. The service's own environment variables (`WANDB_*`, `MLFLOW_*`) on the nodes name its
server and the account.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from uniner.errors import UserError
from uniner.runtime.gpu_models import peak_flops
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.train.estimate import TrainingEstimate, flops
from uniner.train.loop import StepFigures, ValidationFigures, as_figures

TENSORBOARD = "tensorboard"
"""The event files' folder in the stage's folder."""
_DRAWN = {
    "train": ("loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu"),
    "validation": ("loss", "f1"),
}
_PROJECT = "uniner"


class Tracker:
    """Writes to a service. If the service fails, it says so once and training goes on without it."""

    def __init__(self, name: str, service: Any, say: Callable[[str], None]):
        self._name, self._service, self._say = name, service, say
        self._lost = False

    def log(self, kind: str, figures: Mapping[str, float]) -> None:
        """Write figures, which include their step. kind: train or validation."""
        named = {f"{kind}/{name}": value for name, value in figures.items() if name != "step"}
        self._try(lambda: self._service.log(named, int(figures["step"])))

    def close(self) -> None:
        """End the tracked run."""
        self._try(self._service.close)

    def _try(self, action: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            action()
        except Exception as error:  # each service raises kinds of its own
            self._lost = True
            reason = " ".join(str(error).split())[:200]
            self._say(
                f"train: {self._name} takes no more figures ({reason}); training goes on, "
                "train/tensorboard has them all"
            )


def start_tracker(
    name: str, run: str, folder_url: str, settings: Mapping[str, Any], say: Callable[[str], None]
) -> Tracker:
    """Start the tracked run of a folder, or continue it. settings: shown beside the curves.

    Raises:
        UserError: the library is missing or the service refuses.
    """
    key = hashlib.sha256(folder_url.encode()).hexdigest()[:16]
    services: dict[str, type[_Wandb] | type[_Mlflow]] = {"wandb": _Wandb, "mlflow": _Mlflow}
    try:
        return Tracker(name, services[name](run, key, settings), say)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"train.tracker = {name}: {reason}; check its environment variables") from error


class _Wandb:
    def __init__(self, run: str, key: str, settings: Mapping[str, Any]):
        import wandb

        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        self._run = wandb.init(project=project, name=run, id=key, resume="allow", config=dict(settings))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, run: str, key: str, settings: Mapping[str, Any]):
        from mlflow import MlflowClient

        self._client = MlflowClient()
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else self._client.create_experiment(project)
        earlier = self._client.search_runs([experiment], f"tags.`uniner.key` = '{key}'", max_results=1)
        if earlier:
            self._id = earlier[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        created = self._client.create_run(experiment, run_name=run, tags={"uniner.key": key})
        self._id = created.info.run_id
        for name, value in settings.items():
            self._client.log_param(self._id, name, value)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class MetricsWriter:
    """Writes the figures of a run that has done `steps_done` steps. Worker 0 writes; all compute the MFU.

    expected: None where the MFU is not known.

    TensorBoard's files are written locally beside those of the steps done, and uploaded by `store`. A step
    that runs again after a resume is drawn once.
    """

    def __init__(
        self,
        folder: Folder,
        expected: TrainingEstimate | None,
        steps_done: int,
        device: torch.device,
        tracker: Tracker | None = None,
    ):
        peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._peak = peak * dist.get_world_size() if peak and expected else None
        # By convention MFU leaves out the work that checkpointing repeats.
        self._flops_per_token = (
            flops(expected.shape, expected.load, False) / expected.load.tokens if expected else 0.0
        )
        self._folder, self._tracker = folder / TENSORBOARD, tracker
        self._local = tempfile.TemporaryDirectory(prefix="uniner-curves-")
        self._writer = None
        if dist.get_rank() == 0:
            self._writer = SummaryWriter(self._local.name, purge_step=steps_done + 1)

    def step(self, figures: StepFigures) -> StepFigures:
        """Write a step's figures. Returns them with the MFU on a GPU of a known kind."""
        if self._peak:
            mfu = self._flops_per_token * (figures.tokens / figures.seconds) / self._peak
            figures = replace(figures, mfu=round(mfu, 4))
        self._write("train", as_figures(figures))
        return figures

    def validation(self, figures: ValidationFigures) -> None:
        """Write a measurement."""
        self._write("validation", as_figures(figures))

    def _write(self, kind: str, figures: dict[str, float]) -> None:
        if self._writer:
            for name in _DRAWN[kind]:
                if name in figures:
                    self._writer.add_scalar(f"{kind}/{name}", figures[name], int(figures["step"]))
        if self._tracker:
            self._tracker.log(kind, figures)

    def store(self) -> None:
        """Upload TensorBoard's files."""
        if self._writer:
            self._writer.flush()
            with explained(self._folder.url):
                self._folder.upload(Path(self._local.name))

    def close(self) -> None:
        """Upload the files, and end the tracked run."""
        self.store()
        if self._writer:
            self._writer.close()
        self._local.cleanup()
        if self._tracker:
            self._tracker.close()
