"""Machines that differ: in versions, in code, by their clocks and disks."""

import stat
from dataclasses import replace

import pytest

from uniner.preflight import nodes
from uniner.preflight.nodes import Gpu, Machine, NodeFacts, parse_gpus, read_facts
from uniner.preflight.storage import BucketRights
from uniner.runtime.every_node import NodeAnswer

VERSIONS = {"Python": "3.11.4", "ray": "2.60.0", "torch": "2.13.0+cpu", "vllm": "0.32.0"}


def facts(free=100e9, code="c0de", **versions):
    merged = {name: version for name, version in {**VERSIONS, **versions}.items() if version}
    return NodeFacts(versions=merged, code=code, temporary="/tmp", free=free, gpus=())


def machine(name, **changes):
    off = changes.pop("seconds_off", 0.0)
    return Machine(name=name, facts=facts(**changes), seconds_off=off)


def test_equal_machines_are_one_line_with_the_versions():
    (result,) = nodes.check_versions([machine("a"), machine("b")], facts())
    assert result.level == "ok"
    assert result.found.startswith("alike on 2 of 2 machines: Python 3.11.4, ray 2.60.0")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ray": "2.59.0"}, "ray 2.59.0, here 2.60.0"),
        ({"Python": "3.12.1"}, "Python 3.12.1, here 3.11.4"),
        ({"vllm": None}, "vllm is missing, here 0.32.0"),
        ({"pyarrow": "26.0"}, "pyarrow 26.0, here missing"),
        ({"code": "beef"}, "another source of uniner (beef, here c0de)"),
    ],
)
def test_a_machine_that_differs_is_named_with_the_difference(change, text):
    wrong, alike = nodes.check_versions([machine("a"), machine("b", **change)], facts())
    assert wrong.level == "error" and wrong.subject == "versions on b" and text in wrong.found
    assert "alike on 1 of 2 machines" in alike.found


def test_another_build_of_the_same_version_is_alike():
    (result,) = nodes.check_versions([machine("gpu", torch="2.13.0+cu130")], facts())
    assert result.level == "ok"


def test_a_machine_that_cannot_run_the_package_is_an_error():
    (result,) = nodes.check_machines([machine("a"), Machine(name="b", error="cannot run this package")])
    assert (result.level, result.subject) == ("error", "b")


def test_the_clock_that_is_off_is_named():
    (agreeing,) = nodes.check_clocks([machine("a"), machine("b", seconds_off=3)])
    assert agreeing.level == "ok" and "2 machines are within 3 s" in agreeing.found
    (off,) = nodes.check_clocks([machine("a"), machine("b", seconds_off=-900)])
    assert (off.level, off.subject) == ("error", "clock of b") and "900 s behind" in off.found


def test_a_disk_that_is_too_small_is_named_with_what_it_must_hold():
    needed = {"s3://b/base": 14e9, "a checkpoint's shards": 80e9}
    (result,) = nodes.check_disks([machine("a"), machine("b", free=90e9)], needed, {})
    assert (result.level, result.subject) == ("error", "disk of b")
    assert "/tmp has 90.0 GB free, which is too little for 94.0 GB" in result.found
    assert "s3://b/base 14.0 GB, a checkpoint's shards 80.0 GB" in result.found
    (result,) = nodes.check_disks([machine("a"), machine("b", free=95e9)], needed, {})
    assert (result.level, result.subject) == ("ok", "disks of 2 machines")
    assert "95.0 GB free" in result.found


def test_a_machine_without_gpus_keeps_less():
    everywhere, on_gpus = {"s3://b/base": 14e9}, {"a checkpoint's shards": 80e9}
    gpu = (Gpu("NVIDIA H100", 80e9),)
    head, large, small = (machine(name, free=free) for name, free in (("h", 20e9), ("l", 99e9), ("s", 20e9)))
    large, small = (replace(each, facts=replace(each.facts, gpus=gpu)) for each in (large, small))
    results = {
        result.subject: result.level
        for result in nodes.check_disks([head, large, small], everywhere, on_gpus)
    }
    assert results == {"disk of h": "ok", "disk of s": "error"}
    _, told = nodes.check_disks([head], everywhere, on_gpus)
    assert (told.level, told.subject) == ("ok", "disks of GPU machines")
    assert "none is known; each needs a temporary folder for 94.0 GB" in told.found


def test_the_facts_of_this_machine(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\nprintf "NVIDIA H100 80GB HBM3, 81559\\nNVIDIA H100 80GB HBM3, 81559\\n"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = read_facts()
    assert found.gpus == (Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20),) * 2
    assert {"Python", "uniner", "ray", "torch", "transformers", "pyarrow"} <= found.versions.keys()
    assert found.free > 0 and len(found.code) == 12
    tool.write_text("#!/bin/sh\necho Failed to initialize NVML; exit 9\n")
    assert read_facts().gpus == ()


def test_lines_without_a_memory_are_no_gpu():
    assert parse_gpus("No devices were found\nNVIDIA X, [N/A]\n") == ()


def test_each_identity_is_a_line_and_what_it_may_not_do_is_named():
    role = "arn:aws:sts::1:assumed-role/uniner-node"
    answers = [
        NodeAnswer(machine="head", value=BucketRights("arn:aws:iam::1:user/ann")),
        *(
            NodeAnswer(machine=f"gpu{n}", value=BucketRights(f"{role}/i-0{n}", ("s3:PutObject",)))
            for n in range(5)
        ),
        NodeAnswer(machine="cpu", value=BucketRights(problem="s3://b: no credentials")),
        NodeAnswer(machine="new", error="does not answer"),
    ]
    head, denied, keyless, silent = nodes.check_rights("run.root", "s3://b/p", answers)
    assert head.level == "ok" and head.subject == "run.root on head"
    assert head.found == "s3://b/p: arn:aws:iam::1:user/ann may put, get, list and delete"
    assert denied.subject == "run.root on gpu0, gpu1, gpu2 and 2 more machines"
    assert denied.level == "error" and f"{role} lacks s3:PutObject; allow these" in denied.found
    assert (keyless.level, keyless.found) == ("error", "s3://b: no credentials")
    assert silent.level == "error" and "does not answer" in silent.found
