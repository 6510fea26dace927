"""How checks are run and said: in order, all of them, each error once in full."""

import pytest

from uniner.errors import Stopped, UserError
from uniner.preflight.results import Check, error, ok, run_checks, size, warning


def raises(failure):
    def run():
        yield ok("first", "found")
        raise failure

    return run


def said(*checks):
    lines = []
    return run_checks(checks, lines.append), lines


def test_each_result_is_a_line_and_errors_are_counted():
    checks = [Check("a", lambda: [ok("a", "x"), warning("b", "y")]), Check("c", lambda: [error("c", "z")])]
    assert said(*checks) == (1, ["ok       a: x", "warning  b: y", "error    c: z"])


def test_what_a_check_raises_is_an_error_and_the_others_go_on():
    errors, lines = said(
        Check("a", raises(UserError("a: no such bucket"))),
        Check("b", raises(ZeroDivisionError("by\nzero"))),
        Check("c", lambda: [ok("c", "x")]),
    )
    assert errors == 2
    assert lines == [
        "ok       first: found",
        "error    a: no such bucket",
        "ok       first: found",
        "error    b: the check broke off (ZeroDivisionError: by zero)",
        "ok       c: x",
    ]


def test_an_error_that_was_told_is_told_in_short():
    failure = UserError("teacher: no key")
    errors, lines = said(Check("annotate", raises(failure)), Check("teacher", raises(failure)))
    assert errors == 2
    assert [line for line in lines if line.startswith("error")] == [
        "error    annotate: teacher: no key",
        "error    teacher: the same as annotate",
    ]


def test_a_stop_ends_the_checks():
    with pytest.raises(Stopped):
        said(Check("a", raises(Stopped("stopped by SIGINT"))))


def test_the_running_check_is_named(monkeypatch):
    named = []

    class Progress:
        def __init__(self, stage, total, unit, more):
            assert (stage, total) == ("preflight", 2)
            self.more = more

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add(self, rows):
            named.append((rows, self.more()))

    monkeypatch.setattr("uniner.preflight.results.Progress", Progress)
    said(Check("a", list), Check("b", list))
    assert named == [(0, "a"), (1, "b")]


def test_sizes_in_words():
    assert [size(count) for count in (20, 2.5e6, 3e9, 1.5e12)] == ["20 bytes", "2.5 MB", "3.0 GB", "1.5 TB"]
