"""Progress of a stage: one live line in a terminal, one plain line every 10 s in a job's log.

Both show rows done, rate and time left.
"""

import sys
import threading
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LOG_SECONDS = 10.0


def say(line: str) -> None:
    """Print a line of the job's account of itself."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Counts rows; `total` may be None at first and be told by and by as a share of the work."""

    def __init__(self, stage: str, total: int | None, unit: str = "rows"):
        self._stage, self._unit = stage, unit
        self._rows, self._total, self._note = 0, total, ""
        self._start = time.monotonic()
        self._bar = tqdm(total=total, desc=stage, unit=f" {unit}", file=sys.stderr, leave=False, disable=None)
        self._ended = threading.Event()
        self._log = threading.Thread(target=self._log_lines, daemon=True) if self._bar.disable else None

    def __enter__(self) -> Self:
        if self._log:
            self._log.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._log:
            self._log.join()
        self._bar.close()

    def add(self, rows: int, share: float | None = None, note: str = "") -> None:
        """Count rows; share, where known, is how much of all the work is done, 0 to 1."""
        self._rows += rows
        self._note = note
        if share:
            self._total = max(self._rows, round(self._rows / share))
            self._bar.total = self._total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(rows)

    def line(self) -> str:
        """Return the plain line."""
        elapsed = time.monotonic() - self._start
        return tqdm.format_meter(
            self._rows,
            self._total,  # type: ignore[arg-type]  # tqdm takes None for an unknown total
            elapsed,
            prefix=self._stage,
            unit=f" {self._unit}",
            postfix=self._note,
            bar_format="{desc}: {n_fmt}/{total_fmt}" + f" {self._unit}"
            ", {rate_fmt}, {elapsed} gone, {remaining} left{postfix}",
        )

    def _log_lines(self) -> None:
        while not self._ended.wait(LOG_SECONDS):
            say(self.line())
