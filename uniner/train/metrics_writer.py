"""A run's curves for TensorBoard: event files in the stage's folder, stored anew at each checkpoint."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder

_DRAWN = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu")
_MEASURED = ("loss", "f1")


class Curves:
    """Writes beside the steps that a run did before it was interrupted; what comes again is drawn once."""

    def __init__(self, folder: Folder, steps_done: int):
        self._folder = folder
        self._local = tempfile.TemporaryDirectory(prefix="uniner-curves-")
        self._writer = SummaryWriter(self._local.name, purge_step=steps_done + 1)

    def step(self, figures: dict[str, float]) -> None:
        """Draw a step's figures."""
        self._draw("train", _DRAWN, figures)

    def validation(self, figures: dict[str, float]) -> None:
        """Draw a measurement."""
        self._draw("validation", _MEASURED, figures)

    def _draw(self, kind: str, names: Sequence[str], figures: dict[str, float]) -> None:
        for name in names:
            if name in figures:
                self._writer.add_scalar(f"{kind}/{name}", figures[name], int(figures["step"]))

    def store(self) -> None:
        """Bring the stored files up to date."""
        self._writer.flush()
        with explained(self._folder.url):
            self._folder.upload(Path(self._local.name))

    def close(self) -> None:
        """Store all and clean up."""
        self.store()
        self._writer.close()
        self._local.cleanup()
