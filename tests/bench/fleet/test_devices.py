"""Devices of a node by class, and the backends on one."""

from __future__ import annotations

from membound.bench.fleet.devices import classes, named_on

BACKENDS = ["mine:cpu", "mine:cpu+x", "other:cuda", "other:cuda+graph", "third:cuda:1"]


def test_accelerators_are_as_many_as_are_counted():
    assert classes(BACKENDS, gpus=0) == ("cpu", "cuda:0", "cuda:1")
    assert classes(BACKENDS[:4], gpus=0) == ("cpu", "cuda:0")
    assert classes(BACKENDS, gpus=3) == ("cpu", "cuda:0", "cuda:1", "cuda:2")
    assert classes(["mine:cpu"], gpus=8) == ("cpu",)


def test_a_backend_that_lists_one_takes_any():
    assert named_on("cpu", BACKENDS) == ["mine:cpu", "mine:cpu+x"]
    assert named_on("cuda:0", BACKENDS) == ["other:cuda", "other:cuda+graph"]
    assert named_on("cuda:1", BACKENDS) == ["other:cuda:1", "other:cuda:1+graph", "third:cuda:1"]
    assert named_on("npu:0", BACKENDS) == []
