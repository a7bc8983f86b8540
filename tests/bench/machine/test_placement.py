"""Placements of machines of several nodes, which are made up, and of this one, which is real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from membound.bench.machine import placement
from membound.bench.machine.fingerprint import default_threads, pick_cpus
from membound.bench.machine.placement import Placement, PlacementError, placed, placement_of, placements

EIGHT = range(8)


def machine(folder: Path, nodes: dict[int, str], memory: str, packages: dict[int, int] | None = None) -> Path:
    """A tree as the kernel shows it: CPUs of each node, nodes with memory, the socket of each CPU."""
    base = folder / "devices/system/node"
    for number, cpus in nodes.items():
        (base / f"node{number}").mkdir(parents=True)
        (base / f"node{number}/cpulist").write_text(cpus + "\n")
    (base / "has_memory").write_text(memory + "\n")
    for cpu, package in (packages or {}).items():
        topology = folder / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two sockets of a node each, siblings in the upper half, and memory without CPUs on a third node."""
    packages = {cpu: cpu // 2 % 2 for cpu in EIGHT}
    return machine(tmp_path, {0: "0-1,4-5", 1: "2-3,6-7", 2: ""}, "0-2", packages)


def test_every_node_has_its_own_memory_and_that_of_each_other(two):
    found = {one.name: (one.cpus, one.memory_nodes) for one in placements(two, EIGHT)}
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    assert found == {
        "node0": (low, (0,)),
        "node0:node1": (low, (1,)),
        "node0:node2": (low, (2,)),
        "node1": (high, (1,)),
        "node1:node0": (high, (0,)),
        "node1:node2": (high, (2,)),
    }


@pytest.mark.parametrize(
    ("name", "cpus", "memory"),
    [
        ("node1", (2, 3, 6, 7), (1,)),
        ("socket0", (0, 1, 4, 5), (0,)),
        ("socket1:node0", (2, 3, 6, 7), (0,)),
        ("cpus0-1", (0, 1), (0,)),
        ("cpus0+2", (0, 2), (0, 1)),
        ("cpus2:node2", (2,), (2,)),
    ],
)
def test_a_placement_has_cpus_and_memory(two, name, cpus, memory):
    assert placement_of(name, two, EIGHT) == Placement(name, cpus, memory)


def test_only_cpus_that_may_be_used_count(two):
    assert placement_of("node0", two, [1, 2]).cpus == (1,)
    assert [one.name for one in placements(two, [2])] == ["node1", "node1:node0", "node1:node2"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("here", "placement 'here' is none: write node0, socket0 or cpus0-3"),
        ("node7", "this process may use no CPU of node7, only of node0, node1"),
        ("node2", "this process may use no CPU of node2, only of node0, node1"),
        ("socket2", "only of socket0, socket1"),
        ("cpus0-9", "placement cpus0-9: this process may use the CPUs 0-7 alone"),
        ("node0:node3", "node3 has no memory here; there is that of node0, node1, node2"),
        ("cpus0-", "is no list of numbers such as 0-3"),
        ("node0:1", "is none: write"),
    ],
)
def test_what_is_not_there_is_refused_in_words(two, name, words):
    with pytest.raises(PlacementError, match=words.replace("+", r"\+")):
        placement_of(name, two, EIGHT)


def test_a_machine_of_one_node_leaves_memory_to_the_kernel(tmp_path):
    one = machine(tmp_path, {0: "0-3"}, "0")
    assert placements(one, range(4)) == [Placement("node0", (0, 1, 2, 3), ())]
    assert placements(tmp_path / "nothing", range(2)) == [Placement("node0", (0, 1), ())]


def test_what_is_started_meanwhile_runs_there_and_afterwards_everything_is_as_before():
    before = os.sched_getaffinity(0)
    first = min(before)
    asked = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with placed(f"cpus{first}"):
        assert pick_cpus(4) == [first]
        assert default_threads() == 1
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == f"[{first}]\n"
    assert os.sched_getaffinity(0) == before
    with placed(""):
        assert os.sched_getaffinity(0) == before


def test_memory_is_bound_for_what_is_started_and_freed_afterwards(monkeypatch):
    """To node 0, which every machine has; /proc/self/numa_maps names the policy of a mapping."""
    cpus = tuple(os.sched_getaffinity(0))
    monkeypatch.setattr(placement, "placement_of", lambda name: Placement(name, cpus, (0,)))
    asked = [sys.executable, "-c", "print(open('/proc/self/numa_maps').read())"]
    refused = ""
    try:
        with placed("bound"):
            inside = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except PlacementError as error:
        refused = str(error)
    if refused:  # a container may forbid it, and says so
        pytest.skip(refused)
    outside = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "bind:0" in inside
    assert "bind:0" not in outside


class Kernel:
    """Notes what a thread asks for instead of doing it: CPUs, and calls with the nodes whose bits are set in their mask."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sys: Path, refuses: bool = False) -> None:
        self.cpus: list[tuple[int, ...]] = []
        self.calls: list[tuple[int, int, list[int], int]] = []
        self._refuses = refuses
        real = placement.placement_of
        monkeypatch.setattr(placement, "placement_of", lambda name: real(name, sys, EIGHT))
        monkeypatch.setattr(placement.os, "sched_setaffinity", lambda _, cpus: self.cpus.append(tuple(cpus)))
        monkeypatch.setattr(placement.os, "sched_getaffinity", lambda _: EIGHT)
        monkeypatch.setattr(placement.ctypes, "CDLL", lambda *_, **__: self)
        monkeypatch.setattr(placement.ctypes, "get_errno", lambda: 1)

    def syscall(self, number, mode, mask, bits):
        """As that of libc: 0, or -1 where it is refused."""
        size = placement.WORD_BITS
        set_ = [node for node in range(bits - 1) if mask[node // size] >> node % size & 1] if mask else []
        self.calls.append((number, mode, set_, bits))
        return -1 if self._refuses and set_ else 0


@pytest.mark.parametrize(
    ("name", "cpus", "nodes"),
    [
        ("node0", (0, 1, 4, 5), [0]),
        ("node0:node1", (0, 1, 4, 5), [1]),
        ("node1:node0", (2, 3, 6, 7), [0]),
        ("socket1:node2", (2, 3, 6, 7), [2]),
        ("cpus0+2", (0, 2), [0, 1]),
    ],
)
def test_the_kernel_is_asked_for_the_nodes_of_the_name_and_then_for_its_own_choice(
    two, monkeypatch, name, cpus, nodes
):
    """On a machine of one node a wrong one could not be seen."""
    monkeypatch.setattr(placement.platform, "machine", lambda: "x86_64")
    kernel = Kernel(monkeypatch, two)
    with placed(name):
        assert kernel.calls == [(238, placement.BIND, nodes, placement.MOST_NODES + 1)]
        assert kernel.cpus == [cpus]
    assert kernel.calls[1:] == [(238, placement.DEFAULT, [], 0)]
    assert kernel.cpus[1:] == [tuple(EIGHT)]


def test_nodes_beyond_the_first_word_of_the_mask_are_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(placement.platform, "machine", lambda: "aarch64")
    kernel = Kernel(monkeypatch, machine(tmp_path, {0: "0-1", 65: "2-3", 127: "4-7"}, "0,65,127"))
    with placed("node65"), placed("node0:node127"):
        pass
    assert [(number, nodes) for number, _, nodes, _ in kernel.calls[:2]] == [(237, [65]), (237, [127])]


def test_memory_that_the_kernel_refuses_is_told_and_cpus_are_given_back(two, monkeypatch):
    monkeypatch.setattr(placement.platform, "machine", lambda: "x86_64")
    kernel = Kernel(monkeypatch, two, refuses=True)
    refused = pytest.raises(
        PlacementError, match="node0:node1: its memory cannot be had: Operation not permitted"
    )
    with refused, placed("node0:node1"):
        raise AssertionError("nothing is measured with memory elsewhere")
    assert kernel.cpus == [(0, 1, 4, 5), tuple(EIGHT)]


def test_a_machine_whose_call_is_not_known_is_refused_before_anything_is_measured(two, monkeypatch):
    monkeypatch.setattr(placement.platform, "machine", lambda: "sparc64")
    kernel = Kernel(monkeypatch, two)
    refused = pytest.raises(PlacementError, match="how memory is placed on sparc64 is not known; use numactl")
    with refused, placed("node0:node1"):
        raise AssertionError("nothing is measured with memory elsewhere")
    assert kernel.cpus[-1] == tuple(EIGHT)
