"""Progress of a stage: a live line in a terminal, a plain line every 10 s in a job's log.

Both show rows done, rate, time left and a note such as the cost.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tqdm import tqdm

from uniner.errors import printable

LOG_SECONDS = 10.0
_LOOK_SECONDS = 2.0
VERBOSE = "UNINER_VERBOSE"
"""Environment variable: with 1, Ray's and vLLM's own logs are shown."""
log = logging.getLogger(__name__)


class _LogHandler(logging.Handler):
    """Writes log lines, without credentials, to standard error, above a live progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(printable(self.format(record)), file=sys.stderr)
        sys.stderr.flush()


def set_up_logging() -> None:
    """Log lines of this package to standard error, with time and level; with `UNINER_VERBOSE` all of them."""
    logger = logging.getLogger("uniner")
    logger.setLevel(logging.DEBUG if is_verbose() else logging.INFO)
    if not any(isinstance(handler, _LogHandler) for handler in logger.handlers):
        handler = _LogHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)


def is_verbose() -> bool:
    """Tell whether the logs of Ray and vLLM are wanted too: `--verbose`, or `UNINER_VERBOSE=1`."""
    return os.environ.get(VERBOSE, "") not in ("", "0")


class Progress:
    """Counts a stage's rows. An unknown total is estimated from the share of the work done."""

    def __init__(
        self,
        stage: str,
        total: int | None,
        unit: str = "rows",
        more: Callable[[], str] | None = None,
        in_work: Callable[[], int] | None = None,
    ):
        """more: returns what the stage has to say at the moment, beside the note of `add`. in_work: returns
        the rows done that `add` does not know of yet; a thread calls it every few seconds."""
        self._stage, self._unit, self._more, self._in_work = stage, unit, more, in_work
        self._rows, self._skipped, self._total, self._note = 0, 0, total, ""
        self._rows_in_work = 0
        self._start = time.monotonic()
        self._bar = tqdm(total=total, desc=stage, unit=f" {unit}", file=sys.stderr, leave=False, disable=None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._bar.disable or self._in_work:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bar.close()

    def skip(self, rows: int) -> None:
        """Count rows of an earlier run, which do not count for the rate."""
        self._rows += rows
        self._skipped += rows
        if not self._bar.disable:
            self._bar.initial += rows
            self._bar.last_print_n += rows
            self._bar.n += rows
            self._bar.refresh()

    def add(self, rows: int, share: float | None = None, note: str = "") -> None:
        """Count rows of this run. share: how much of all the work is done, 0 to 1, if known."""
        self._rows += rows
        self._note = note
        if share:
            self._total = max(self._rows, round(self._rows / share))
            self._bar.total = self._total
        if self._notes():
            self._bar.set_postfix_str(self._notes(), refresh=False)
        # The rows of a finished chunk were in work before.
        self._rows_in_work = max(0, self._rows_in_work - rows)
        self._bar.update(self._rows_shown() - self._bar.n)

    def line(self) -> str:
        """Return the line for a job's log."""
        elapsed = time.monotonic() - self._start
        return tqdm.format_meter(
            self._rows_shown(),
            self._total,  # type: ignore[arg-type]  # tqdm takes None for an unknown total
            elapsed,
            initial=self._skipped,
            prefix=self._stage,
            unit=f" {self._unit}",
            postfix=self._notes(),
            bar_format="{desc}: {n_fmt}/{total_fmt}" + f" {self._unit}"
            ", {rate_fmt}, {elapsed} elapsed, {remaining} left{postfix}",
        )

    def _notes(self) -> str:
        return ", ".join(filter(None, (self._note, self._more() if self._more else "")))

    def _rows_shown(self) -> int:
        rows = self._rows + self._rows_in_work
        return rows if self._total is None else min(rows, max(self._rows, self._total))

    def _watch(self) -> None:
        """Look at the rows in work every few seconds. Log the line, or refresh the live one."""
        logged = time.monotonic()
        while not self._ended.wait(_LOOK_SECONDS if self._in_work else LOG_SECONDS):
            self._rows_in_work = self._in_work() if self._in_work else 0
            if not self._bar.disable:
                self._bar.n = self._rows_shown()
                self._bar.refresh()
            elif time.monotonic() - logged >= LOG_SECONDS - _LOOK_SECONDS / 2:
                logged = time.monotonic()
                log.info(self.line())


class StageCost:
    """Tokens, GPU-hours and dollars of a stage's chunks so far, extrapolated to all `total` rows.

    gpus: GPUs of an actor divided by the chunks that it works on at once, so GPU-seconds a chunk-second.
    """

    def __init__(self, total: int, gpus: float = 0):
        self._total, self._gpus = total, gpus
        self._rows, self._usd, self._gpu_hours, self._tokens = 0, 0.0, 0.0, 0.0
        self._start = time.monotonic()

    def add(self, rows: int, seconds: float, figures: Mapping[str, float], earlier: bool = False) -> None:
        """Add a chunk. A chunk of an earlier run does not count for the token rate."""
        self._rows += rows
        self._usd += figures.get("cost_usd", 0)
        self._gpu_hours += seconds * self._gpus / 3600
        if not earlier:
            self._tokens += figures.get("prompt_tokens", 0) + figures.get("answer_tokens", 0)

    def note(self) -> str:
        """Return the cost in words, such as "1,204 tokens/s, 1.0 of about 4.0 GPU-hours"."""
        share = self._total / self._rows if self._rows else 0
        parts = []
        if self._tokens:
            parts.append(f"{self._tokens / (time.monotonic() - self._start):,.0f} tokens/s")
        if self._gpu_hours:
            parts.append(f"{self._gpu_hours:.1f} of about {self._gpu_hours * share:.1f} GPU-hours")
        if self._usd:
            parts.append(f"{self._usd:.2f} USD of about {self._usd * share:.2f}")
        return ", ".join(parts)


def figures_in_words(figures: Mapping[str, float]) -> list[str]:
    """Say in words what a stage dropped and rejected, what came from the reply cache, and what it cost."""
    parts = []
    for verb in ("dropped", "rejected"):
        counts = {
            name.removeprefix(f"{verb}_").replace("_", " "): count
            for name, count in figures.items()
            if name.startswith(f"{verb}_") and count
        }
        if counts:
            reasons = ", ".join(f"{count:,.0f} {reason}" for reason, count in counts.items())
            parts.append(f"{verb} {sum(counts.values()):,.0f} ({reasons})")
    if "cache_hits" in figures:
        asked = figures["cache_hits"] + figures["cache_misses"]
        parts.append(f"{figures['cache_hits']:,.0f} of {asked:,.0f} replies from the cache")
        saved, unanswered = figures["saved_usd"], figures.get("unanswered_usd", 0.0)
        cost = f"cost {figures['cost_usd']:.4g} USD"
        cost += f", of which {unanswered:.2g} USD for requests without a reply" if unanswered else ""
        parts.append(cost + (f"; {saved:.4g} USD saved by the cache" if saved else ""))
    return parts
