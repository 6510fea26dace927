"""What is seen of each step: its figures for the history, and on worker 0 the curves for TensorBoard."""

from dataclasses import asdict

import torch
import torch.distributed as dist

from uniner.storage.folder import Folder
from uniner.train import estimate
from uniner.train.estimate import Estimate
from uniner.train.loop import Step
from uniner.train.metrics_writer import Curves
from uniner.train.tracker import Tracker

TENSORBOARD = "tensorboard"
"""The event files' folder in the stage's."""


class Watch:
    """Watches a run that has done so many steps; all workers keep the history, worker 0 alone draws."""

    def __init__(
        self,
        folder_url: str,
        expected: Estimate,
        steps_done: int,
        device: torch.device,
        tracker: Tracker | None = None,
    ):
        peak = estimate.peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._peak = peak and peak * dist.get_world_size()
        # By convention MFU leaves out what checkpointing repeats.
        once = estimate.flops(expected.shape, expected.work, checkpointing=False)
        self._flops_a_token = once / expected.work.tokens
        first = dist.get_rank() == 0
        self._curves = Curves(Folder(folder_url) / TENSORBOARD, steps_done) if first else None
        self._tracker = tracker

    def step(self, step: Step) -> dict[str, float]:
        """Return a step's figures: all of `Step`, tokens_per_s and, on a GPU that is known, mfu."""
        figures = {**asdict(step), "tokens_per_s": round(step.tokens_per_s, 1)}
        if self._peak:
            figures["mfu"] = round(self._flops_a_token * step.tokens_per_s / self._peak, 4)
        if self._curves:
            self._curves.step(figures)
        if self._tracker:
            self._tracker.log("train", figures)
        return figures

    def validation(self, figures: dict[str, float]) -> None:
        """Note a measurement: step, loss and, where questions were asked, f1."""
        if self._curves:
            self._curves.validation(figures)
        if self._tracker:
            self._tracker.log("validation", figures)

    def store(self) -> None:
        """Bring the stored curves up to date."""
        if self._curves:
            self._curves.store()

    def close(self) -> None:
        """Store the curves and clean up."""
        if self._curves:
            self._curves.close()
        if self._tracker:
            self._tracker.close()
