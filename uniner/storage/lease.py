"""The lease that lets one driver at a time work in a stage's folder.

It lies beside the folder, as `<stage>.lease.json`, so that the folder holds the stage's output alone.

On disk it is a lock on that file. On S3, and on file systems without locks, it is an object that its holder
rewrites every two seconds. A newcomer compares no time stamps: it watches by its own clock whether the object
changes. If it changes, another driver works there; if it stays the same for long enough, that driver is dead.
A driver whose process is known to have ended is replaced at once.

S3's conditional puts make creation, renewal and replacement one step each. A driver that finds that the
storage ignores the conditions (`rclone serve s3` does) waits after its first write and reads it back.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from uniner.errors import UserError
from uniner.storage.file_lock import FileLock, NoLocksError
from uniner.storage.filesystem import explained, filesystem, is_remote
from uniner.storage.folder import Folder
from uniner.storage.lease_holder import LeaseHolder
from uniner.storage.lease_stores import LeaseState, LeaseStore, PlainLeaseStore, S3LeaseStore

log = logging.getLogger(__name__)

_held: Counter[str] = Counter()
"""The folders that this process holds, and how often: what it holds it may enter again."""
_first_seen: dict[tuple[str, str], float] = {}
"""When this process first saw a lease with this tag, so that a check's watching counts for the stage's."""
_guard = threading.Lock()
_SURE_SHARE = 0.6
"""Share of the time to expiry after which a holder that cannot renew its lease gives it up: the rest is for
a request that hangs and for the driver's end."""


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """Seconds.

    renew: between renewals. watch: without a change until a newcomer says that it waits. expire: without a
    change until the holder counts as dead. settle: between writing and reading back where the storage ignores
    conditions. lock: of trying for a lock on disk. trouble: of asking a failing storage again. stop: from the
    loss of the lease to the end of the process, if it has not ended by itself.
    """

    renew: float = 2.0
    watch: float = 5.0
    expire: float = 120.0
    settle: float = 2.0
    lock: float = 1.0
    trouble: float = 10.0
    stop: float = 30.0


class _Held(Protocol):
    def release(self) -> None: ...


@contextlib.contextmanager
def hold_lease(folder: Folder, times: LeaseTimes | None = None) -> Iterator[None]:
    """Hold a folder for this process. A process may hold a folder that it holds already.

    Raises:
        UserError: another driver works in the folder, or took it over; the message names it.
    """
    with _guard:
        _held[folder.url] += 1
        first = _held[folder.url] == 1
    try:
        held = _take(folder, times or LeaseTimes()) if first else None
        try:
            yield
        finally:
            if held:
                held.release()
    finally:
        with _guard:
            _held[folder.url] -= 1


def require_free(folder: Folder, times: LeaseTimes | None = None) -> None:
    """Check that no living driver works in a folder. Writes nothing.

    Raises:
        UserError: one does; the message names it.
    """
    if _held[folder.url]:
        return
    times = times or LeaseTimes()
    with explained(folder.url):
        if not is_remote(folder.url):
            with contextlib.suppress(NoLocksError):
                holder = FileLock(_path(folder)).other_holder(times.lock)
                if holder:
                    raise _refusal(folder, holder)
                return
        store = _store(folder, times)
        if state := store.read():
            _watch(folder, store, state, times, until=times.watch)


def _take(folder: Folder, times: LeaseTimes) -> _Held:
    holder = LeaseHolder.this_process()
    with explained(folder.url):
        if not is_remote(folder.url):
            with contextlib.suppress(NoLocksError):
                lock = FileLock(_path(folder))
                other = lock.acquire(holder, times.lock)
                if other:
                    raise _refusal(folder, other)
                return lock
        return RenewedLease(folder, _store(folder, times), holder, times)


def _address(folder: Folder) -> str:
    return f"{folder.url}.lease.json"


def _path(folder: Folder) -> str:
    return filesystem(_address(folder))[1]


def _store(folder: Folder, times: LeaseTimes) -> LeaseStore:
    if folder.url.startswith("s3://"):
        return S3LeaseStore(_address(folder), times.trouble)
    place, _, name = _address(folder).rpartition("/")
    return PlainLeaseStore(Folder(place), name)


def _watch(folder: Folder, store: LeaseStore, state: LeaseState, times: LeaseTimes, until: float) -> None:
    """Return once a lease has not changed for `until` seconds, is deleted, or its holder is gone.

    Raises:
        UserError: it changed.
    """
    since, told = _first_seen.setdefault((folder.url, state.tag), time.monotonic()), False
    while not state.holder.is_gone and (watched := time.monotonic() - since) < until:
        if watched >= times.watch and not told:
            told = True
            log.warning(
                f"{folder.url}: {state.holder} has shown no sign of life for {watched:.0f} s; this driver "
                f"takes over in {until - watched:.0f} s if that stays so"
            )
        time.sleep(times.renew / 4)
        now = store.read()
        if now is None:
            return
        if now.tag != state.tag:
            raise _refusal(folder, now.holder)


def _refusal(folder: Folder, holder: LeaseHolder) -> UserError:
    return UserError(
        f"{folder.url}: {holder} works here; wait until it ends, or take another run.name, such as "
        "run.name=my-run-2"
    )


class RenewedLease:
    """A lease that a thread renews until it is released.

    If it is lost, the main thread is sent SIGTERM, on which a driver stops, and `release` raises the reason.

    Raises:
        UserError: another driver works in the folder.
    """

    def __init__(self, folder: Folder, store: LeaseStore, holder: LeaseHolder, times: LeaseTimes):
        self._folder, self._store, self._holder, self._times = folder, store, holder, times
        self._released, self._state_change = threading.Event(), threading.Lock()
        self._lost = ""
        self._renewed = time.monotonic()
        self._tag = self._acquire()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewer.start()

    def release(self) -> None:
        """Delete the lease.

        Raises:
            UserError: it was lost.
        """
        try:
            with self._state_change:
                self._released.set()
            self._renewer.join()
        finally:
            self._released.set()
            if self._lost:
                raise UserError(self._lost) from None
        try:
            self._store.patience_s = self._times.renew
            state = self._store.read()
            if state and state.holder.id == self._holder.id:
                self._store.delete()
        except Exception as error:  # the stage's own end matters more, and the lease expires by itself
            log.warning(f"{self._folder.url}: the lease could not be deleted ({_short(error)}); it expires")

    def _acquire(self) -> str:
        while True:
            state = self._store.read()
            if state:
                _watch(self._folder, self._store, state, self._times, until=self._times.expire)
            self._renewed = time.monotonic()
            tag = self._store.put(self._holder, state.tag if state else None)
            if tag and self._store.keeps_conditions(self._holder):
                return tag
            if tag and (tag := self._read_back()):
                return tag

    def _read_back(self) -> str | None:
        """Wait for what other drivers write at the same time. Returns the tag if the lease is ours."""
        log.warning(
            f"{self._folder.url}: this storage ignores conditional puts; two drivers that start within a "
            "second may not notice each other"
        )
        time.sleep(self._times.settle)
        now = self._store.read()
        return now.tag if now and now.holder.id == self._holder.id else None

    def _renew(self) -> None:
        """Rewrite the lease until it is released or lost."""
        holder = self._holder
        self._store.patience_s = 0  # what fails is tried again with the next renewal
        while True:
            holder, started = replace(holder, renewals=holder.renewals + 1), time.monotonic()
            try:
                tag = self._store.put(holder, self._tag)
            except Exception as error:
                # Only time tells whether the lease is lost: no newcomer takes it over before it expires.
                if started - self._renewed > _SURE_SHARE * self._times.expire:
                    self._lose(f"the lease could not be renewed for {started - self._renewed:.0f} s", error)
                    return
            else:
                if tag is None:
                    self._lose("another driver took the lease over, or it was deleted")
                    return
                self._tag, self._renewed = tag, started
            if self._released.wait(self._times.renew):
                return

    def _lose(self, reason: str, error: Exception | None = None) -> None:
        """Stop the driver: by SIGTERM's handler if it has one, and at last without asking."""
        cause = f" ({_short(error)})" if error else ""
        line = f"{self._folder.url}: {reason}{cause}; this driver stops, so that nothing is done twice"
        with self._state_change:
            if self._released.is_set():
                return
            self._lost = line
            if callable(signal.getsignal(signal.SIGTERM)):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if not self._released.wait(self._times.stop):
            log.error(line)
            os._exit(1)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
