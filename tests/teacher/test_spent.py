"""Stages that share a budget: one spends at a time, and knows what the other has spent."""

import pytest

from uniner.errors import UserError
from uniner.runtime.spending import SpendingFile
from uniner.storage.file_lock import FileLock
from uniner.storage.lease import hold_lease
from uniner.storage.lease_holder import LeaseHolder
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.spent import shared_budget


def test_two_stages_do_not_spend_the_same_budget_at_once(tmp_path):
    other = StageFolder(str(tmp_path / "generate"))
    SpendingFile(other).write(0.25, exact=True)
    # A lock of its own, as of another process.
    working = FileLock(str(tmp_path / "generate.lease.json"))
    assert working.acquire(LeaseHolder.this_process(), 0) is None
    with pytest.raises(UserError, match="works here; wait until it ends"), shared_budget(other, 1.0):
        pass
    with shared_budget(other, None) as spent:
        assert spent == 0.25
    working.release()
    with shared_budget(other, 1.0) as spent:
        assert spent == 0.25
        lock = FileLock(str(tmp_path / "generate.lease.json"))
        assert lock.other_holder(0), "the other stage cannot begin meanwhile"
    with hold_lease(other), shared_budget(other, 1.0):
        pass  # the pipeline's own process
