"""On which CPUs works run, and in the memory of which NUMA node their arrays lie.

>>> [one.name for one in placements()]
['node0', 'node0:node1', 'node1', 'node1:node0']
>>> from membound.bench.machine.fingerprint import default_threads
>>> with placed("node0:node1"):
...     default_threads()                        # cores of node 0; whoever is started here allocates on node 1

A name is where the threads run: ``node0``, ``socket1``, ``cpus0-3``; and, after a colon, the node of the memory. Without one it
is the local memory: that of the nodes on which the threads run. Processes inherit both, so that a run and all that it starts
are placed by placing whoever starts them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from membound.errors import MemboundError

SYS = Path("/sys")
NAME = re.compile(r"(?:(node|socket)(\d{1,4})|cpus(\d[\d\-+]{0,200}))(?::node(\d{1,4}))?")
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237, "riscv64": 237, "ppc64le": 261, "s390x": 270}
"""Number of the system call. Source: Linux, arch/*/entry/syscalls/*.tbl and include/uapi/asm-generic/unistd.h."""
DEFAULT, BIND = 0, 2
"""MPOL_DEFAULT and MPOL_BIND of linux/mempolicy.h."""
WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)
MOST_NODES = 1024
"""Bits of the mask that is handed to the kernel, which has at most this many nodes (CONFIG_NODES_SHIFT = 10)."""


class PlacementError(MemboundError, ValueError):
    """A placement is none, or this machine cannot serve it; the message says which there are."""


@dataclass(frozen=True, slots=True)
class Placement:
    """CPUs, and the nodes whose memory alone is used (none: as the kernel chooses)."""

    name: str
    cpus: tuple[int, ...]
    memory_nodes: tuple[int, ...]


def placements(sys: Path = SYS, allowed: Iterable[int] | None = None) -> list[Placement]:
    """Every node with its own memory, and with that of each other node; of `allowed` CPUs, by default those of this process.

    Sockets are nodes of their own on most machines; where a socket has several nodes it can be named.
    """
    found = []
    for node, cpus in _nodes(sys, allowed).items():
        memory = nodes_with_memory(sys)
        others = [other for other in memory if other != node]
        found.append(Placement(f"node{node}", cpus, _bound((node,), memory)))
        found += [Placement(f"node{node}:node{other}", cpus, _bound((other,), memory)) for other in others]
    return found


def _bound(nodes: tuple[int, ...], memory: tuple[int, ...]) -> tuple[int, ...]:
    """The nodes to allocate on; none, which leaves it to the kernel, where there is one alone or they have no memory."""
    return tuple(node for node in nodes if node in memory) if len(memory) > 1 else ()


def placement_of(name: str, sys: Path = SYS, allowed: Iterable[int] | None = None) -> Placement:
    """The placement of that name. Raises PlacementError."""
    match = NAME.fullmatch(name)
    if match is None:
        raise PlacementError(
            f"placement {name[:60]!r} is none: write node0, socket0 or cpus0-3, and node0:node1 for the memory of node 1"
        )
    kind, number, listed, bound = match.groups()
    nodes = _nodes(sys, allowed)
    if kind:
        groups = nodes if kind == "node" else _sockets(sys, allowed)
        if int(number) not in groups:
            there = ", ".join(f"{kind}{one}" for one in groups)
            raise PlacementError(
                f"placement {name}: this process may use no CPU of {kind}{number}, only of {there}"
            )
        cpus = groups[int(number)]
    else:
        usable = {cpu for some in nodes.values() for cpu in some}
        cpus = _listed(listed.replace("+", ","))
        if not cpus or not usable.issuperset(cpus):
            raise PlacementError(
                f"placement {name}: this process may use the CPUs {_ranges(sorted(usable))} alone"
            )
    own = tuple(node for node, some in nodes.items() if set(some) & set(cpus))
    known = nodes_with_memory(sys)
    if bound is None:
        return Placement(name, cpus, _bound(own, known))
    if int(bound) not in known:
        there = ", ".join(f"node{one}" for one in known)
        raise PlacementError(f"placement {name}: node{bound} has no memory here; there is that of {there}")
    return Placement(name, cpus, _bound((int(bound),), known))


@contextmanager
def placed(name: str) -> Iterator[None]:
    """Run what this thread starts there; nothing is changed for ''. Raises PlacementError, also if the kernel refuses.

    Memory that this thread touches meanwhile comes from there as well; that of before stays where it is.
    """
    if not name:
        yield
        return
    placement = placement_of(name)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, placement.cpus)
    except OSError as error:
        raise PlacementError(f"placement {placement.name} cannot be had: {error.strerror}") from None
    try:
        with _bound_memory(placement):
            yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _bound_memory(placement: Placement) -> Iterator[None]:
    """The memory of its nodes alone, if it names any. Raises PlacementError."""
    if not placement.memory_nodes:
        yield
        return
    _bind(placement.memory_nodes, placement.name)
    try:
        yield
    finally:
        _bind((), placement.name)


def nodes_with_memory(sys: Path = SYS) -> tuple[int, ...]:
    """Numbers of the nodes that have any; node 0 where the system describes none."""
    text = _text(sys / "devices/system/node/has_memory") or _text(sys / "devices/system/node/online")
    return _listed(text) if text else (0,)


def _nodes(sys: Path, allowed: Iterable[int] | None) -> dict[int, tuple[int, ...]]:
    """The CPUs of each node that may be used; nodes of memory alone have none and are left out."""
    usable = set(os.sched_getaffinity(0) if allowed is None else allowed)
    found = {}
    for folder in (sys / "devices/system/node").glob("node[0-9]*"):
        cpus = [cpu for cpu in _listed(_text(folder / "cpulist") or "") if cpu in usable]
        if cpus:
            found[int(folder.name.removeprefix("node"))] = tuple(cpus)
    return dict(sorted(found.items())) or {0: tuple(sorted(usable))}


def _sockets(sys: Path, allowed: Iterable[int] | None) -> dict[int, tuple[int, ...]]:
    found: dict[int, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0) if allowed is None else allowed):
        text = _text(sys / f"devices/system/cpu/cpu{cpu}/topology/physical_package_id")
        found.setdefault(int(text) if text and text.isdigit() else 0, []).append(cpu)
    return {number: tuple(cpus) for number, cpus in sorted(found.items())}


def _listed(text: str) -> tuple[int, ...]:
    """The numbers of a list as the kernel writes it: ``0-3,8``. Raises PlacementError for one that is none."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) - int(first) > 1 << 16:
            raise PlacementError(f"{text[:60]!r} is no list of numbers such as 0-3+8")
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))


def _ranges(numbers: list[int]) -> str:
    """``0-3+8``, as `cpus…` takes them."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return "+".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in parts)


def _bind(nodes: tuple[int, ...], name: str) -> None:
    """Have this thread, and what it starts, allocate on these nodes alone; without any, as the kernel does by default."""
    call = SET_MEMPOLICY.get(platform.machine())
    if call is None:
        raise PlacementError(
            f"placement {name}: how memory is placed on {platform.machine()} is not known; use numactl"
        )
    mask = (ctypes.c_ulong * (MOST_NODES // WORD_BITS))()
    for node in nodes:
        mask[node // WORD_BITS] |= 1 << node % WORD_BITS
    libc = ctypes.CDLL(None, use_errno=True)
    # one more than the bits: the kernel counts them so (get_nodes in mm/mempolicy.c)
    if libc.syscall(
        call, BIND if nodes else DEFAULT, mask if nodes else None, MOST_NODES + 1 if nodes else 0
    ):
        error = ctypes.get_errno()
        raise PlacementError(f"placement {name}: its memory cannot be had: {os.strerror(error)}")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
