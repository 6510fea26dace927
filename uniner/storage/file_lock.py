"""A lock on a file, which the system frees when the process ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from uniner.storage.lease_holder import LeaseHolder

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_POLL_S = 0.05
_descriptors: set[int] = set()


class NoLocksError(Exception):
    """The file system has no locks."""


class FileLock:
    """The lock on a lease's file. The file says who holds it, and is deleted when it is released.

    The descriptor is closed in every child, also in one that only forks: the lock belongs to all processes
    that have it open, and would outlive its holder.
    """

    def __init__(self, path: str):
        self._path = Path(path)
        self._descriptor = -1

    def acquire(self, holder: LeaseHolder, patience_s: float) -> LeaseHolder | None:
        """Take the lock, trying for some seconds. Returns the other holder where there is one.

        Raises:
            NoLocksError: the file system has none.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + patience_s
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if _locked(descriptor, fcntl.LOCK_EX) and self._is_at_path(descriptor):
                    self._descriptor, descriptor = descriptor, -1
                    break
                if time.monotonic() > until:
                    return LeaseHolder.parse(os.read(descriptor, 1 << 16))
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            time.sleep(_POLL_S)
        _descriptors.add(self._descriptor)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, holder.content())
        return None

    def other_holder(self, patience_s: float) -> LeaseHolder | None:
        """Return who holds the lock; None if it is free. Writes nothing.

        Raises:
            NoLocksError: the file system has none.
        """
        until = time.monotonic() + patience_s
        while True:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                if _locked(descriptor, fcntl.LOCK_SH):  # shared: two that look do not hinder each other
                    return None
                if time.monotonic() > until:
                    return LeaseHolder.parse(os.read(descriptor, 1 << 16))
            finally:
                os.close(descriptor)
            time.sleep(_POLL_S)

    def release(self) -> None:
        """Delete the file and free the lock."""
        if self._is_at_path(self._descriptor):
            self._path.unlink()
        _descriptors.discard(self._descriptor)
        os.close(self._descriptor)

    def _is_at_path(self, descriptor: int) -> bool:
        """Tell whether the file still exists: the holder before may have deleted it before it was locked."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocksError from None
        raise
    return True


def _close_in_child() -> None:
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_in_child)
