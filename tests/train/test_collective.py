"""Collective calls, on one process."""

import pytest

from uniner.errors import UserError
from uniner.train import collective, worker
from uniner.train.collective import run_on_first

pytestmark = pytest.mark.usefixtures("group")


def test_only_worker_0_runs_what_all_need(monkeypatch):
    calls = []
    assert run_on_first(lambda: calls.append("first") or 7) == 7 and calls == ["first"]
    monkeypatch.setattr(collective.dist, "get_rank", lambda *_: 1)
    run_on_first(lambda: calls.append("other"))
    assert calls == ["first"]


def test_its_error_is_raised_on_all():
    def fail():
        raise UserError("no such base")

    with pytest.raises(UserError, match="no such base"):
        run_on_first(fail)


def test_worker_0_alone_computes_the_estimate(make_job, local_session, monkeypatch):
    computed = []
    monkeypatch.setattr(worker, "estimate", lambda *data: pytest.fail("each worker computes it"))
    monkeypatch.setattr(worker, "run_on_first", lambda action: computed.append(action) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.train(make_job(), local_session())
    assert len(computed) == 1
