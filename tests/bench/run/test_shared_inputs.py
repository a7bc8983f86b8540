"""Backends that prepare the same work share its inputs, as far as memory goes; nothing is left of them, whoever dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import checkpoints
import fake_backends
import pytest
from fake_workers import Workers, prepared
from processes import comes_true, gone
from shared_arrays import open_files
from small_runs import executed, planned

from membound.bench.protocol import messages as m
from membound.bench.protocol.process import KILLED
from membound.bench.run import replicate
from membound.bench.run.room import FREE_SHARE, expected_bytes
from membound.bench.run.sharing import NO_ROOM, pays, shareable_bytes
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.array_file import FIRST
from membound.kernels.weights.formats import Layout, layout_bytes
from membound.kernels.weights.making import LEAST_BYTES
from membound.kernels.work import parse

LARGE = parse("linear:n=1024,k=512,m=1,weight=bf16").spec
"""A megabyte an input set, which is the least that is shared."""
BACKENDS = [f"numba:cpu+{letter}" for letter in "abc"]
GB = 10**9


# What is shared


@pytest.mark.parametrize(
    ("spec", "shared"),
    [
        ("linear:n=1024,k=1024,weight=bf16", True),
        ("linear:n=1024,k=1024,weight=f16", True),
        ("linear:n=2048,k=2048,weight=int4g32", True),
        ("linear:n=2048,k=2048,weight=int4g128", False),
        ("linear:n=1024,k=1024,weight=int8", False),
        ("linear:n=1024,k=1024,weight=f32", False),
        ("linear:n=512,k=512,weight=bf16", False),
        ("attention:context=1500,kv=fp8", True),
        ("attention:context=1500,kv=bf16,page=16", True),
        ("attention:context=1500,kv=int8", False),
        ("mla:context=1500,kv=bf16", True),
        ("experts:hidden=1024,width=1024,count=5,chosen=2,weight=bf16", True),
        ("experts:hidden=1024,width=1024,count=5,chosen=2,weight=f32", False),
        ("experts:hidden=512,width=512,count=5,chosen=2,weight=bf16", False),
        ("step:model=qwen2.5-0.5b,layers=1,context=9000,weight=bf16,kv=bf16", True),
        ("step:model=qwen2.5-0.5b,layers=1,context=9000,weight=int8,kv=f16", True),
        ("step:model=qwen2.5-0.5b,layers=1,context=9000,weight=int8,kv=int8", False),
        ("step:model=llama-3.2-1b,layers=1,context=8,weight=f16,cache=prompt", True),
        ("prefill:model=qwen2.5-0.5b,layers=1,tokens=8,weight=bf16", True),
    ],
)
def test_room_is_offered_for_what_is_shared(spec: str, shared: bool) -> None:
    """All that is shared, and 2 % more at most: norms, pages that are not full."""
    work, taken = parse(spec), dict[str, int]()

    def take(name: str, layout: Layout, make: Any, share: bool) -> Any:
        taken[name] = layout_bytes(layout) if share and layout_bytes(layout) >= LEAST_BYTES else 0
        return make()

    inputs: Any = make_inputs(work, 1, 2, take=take)
    if work.kind == "linear":
        [inputs.weight(slot) for slot in range(2)]
    elif work.kind in ("attention", "mla"):
        [inputs.cache(slot) for slot in range(2)]
    elif work.kind == "experts":
        [inputs.expert(s, e) for s in range(inputs.weight_sets) for e in range(work.count)]
    else:
        inputs.layer(0)
        inputs.lm_head()
        if getattr(work, "cache", "") == "random":
            inputs.cache(0)
    offered = shareable_bytes(work, 2)
    assert bool(offered) is shared
    size = sum(taken.values())
    assert size <= offered <= 1.02 * size + (1 << 20) * shared


def offers(workers: Workers) -> list[tuple[str, bool]]:
    """Who was asked to prepare, and whether with others."""
    return [(who, bool(c.shared)) for who, c in workers.log if isinstance(c, m.Prepare)]


@pytest.mark.parametrize(
    ("backends", "work", "shared"),
    [
        (3, LARGE, True),
        (2, LARGE, False),
        (1, LARGE, False),
        (3, parse("linear:n=1024,k=1024,m=1,weight=int8").spec, False),
        (3, parse("linear:n=64,k=64,m=1,weight=bf16").spec, False),
    ],
    ids=["three", "two", "alone", "cheap", "small"],
)
def test_three_backends_or_more_share_what_pays(
    tmp_path: Path, workers: Workers, backends: int, work: str, shared: bool
) -> None:
    before = open_files()
    rows, heard = executed(tmp_path, planned(BACKENDS[:backends], [work], replicates=2))
    assert [row.status for row in rows] == ["ok"] * 2 * backends
    assert [with_others for _, with_others in offers(workers)] == [shared] * 2 * backends
    assert open_files() == before
    assert heard.notes == []


def test_those_that_could_not_be_started_do_not_count(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        absent = isinstance(command, m.Open) and command.backend == BACKENDS[0]
        return m.Failed("unavailable", "no such device") if absent else None

    workers.acts = acts
    executed(tmp_path, planned(BACKENDS, [LARGE], replicates=1))
    assert sorted(offers(workers)) == [(BACKENDS[1], False), (BACKENDS[2], False)]


def test_two_backends_share_what_is_quantised(tmp_path: Path) -> None:
    """A model folder takes longer to read and round than its weights take to be read by another process."""
    folder = parse(f"step:model={checkpoints.folder_of(tmp_path)},context=4")
    assert [pays(folder, backends) for backends in (1, 2, 3)] == [False, True, True]
    assert [pays(parse(LARGE), backends) for backends in (1, 2, 3)] == [False, False, True]
    assert shareable_bytes(folder, 1) >= folder.traffic.weights_bytes


def test_why_a_backend_did_not_share_is_said_once(tmp_path: Path, workers: Workers) -> None:
    def acts(worker: Any, command: Any) -> Any:
        lonely = isinstance(command, m.Prepare) and worker.who == BACKENDS[2]
        return prepared(command.work, unshared="Permission denied") if lonely else None

    workers.acts = acts
    _, heard = executed(tmp_path, planned(BACKENDS, [LARGE], replicates=3))
    assert heard.notes == [f"{BACKENDS[2]} makes inputs itself that others have made: Permission denied"]


# What has no room


ONE = expected_bytes(parse(LARGE), GB) / FREE_SHARE
"""Free memory in which a backend fits. What is shared, all input sets, takes nearly as much."""


def memory_of(room: float, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with that many bytes; the first backend of a group writes all that is shared."""
    offered = [""]

    def written() -> int:
        return 512 * os.stat(offered[0]).st_blocks if os.path.exists(offered[0]) else 0

    def acts(worker: Any, command: Any) -> Any:
        if isinstance(command, m.Prepare) and command.shared:
            offered[0] = command.shared
            with open(command.shared, "r+b") as file:
                os.posix_fallocate(file.fileno(), FIRST, shareable_bytes(parse(LARGE), 33))

    def available() -> int:
        held = len(workers.said(m.Prepare)) - len(workers.said(m.Release))
        return int(room - held * ONE - written())

    workers.acts = acts
    monkeypatch.setattr(replicate, "available_memory_bytes", available)


def group_sizes(workers: Workers) -> list[int]:
    """How many were prepared at the same time."""
    sizes, fresh = list[int](), True
    for _, command in workers.log:
        if isinstance(command, m.Prepare):
            sizes += [0] if fresh else []
            sizes[-1] += 1
            fresh = False
        elif isinstance(command, m.Release):
            fresh = True
    return sizes


@pytest.mark.parametrize(
    ("room", "groups", "shared"),
    [
        (1.1, [1, 1, 1], [False, False, False]),
        (2.1, [2, 1], [True, False, False]),
        (3.1, [3], [True, True, False]),
        (4.1, [3], [True, True, True]),
    ],
)
def test_what_fits_without_sharing_fits_with_it(
    tmp_path: Path,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    room: float,
    groups: list[int],
    shared: list[bool],
) -> None:
    memory_of(room * ONE, workers, monkeypatch)
    rows, heard = executed(tmp_path, planned(BACKENDS, [LARGE], replicates=1))
    assert [row.status for row in rows] == ["ok"] * 3
    assert group_sizes(workers) == groups
    assert [with_others for _, with_others in offers(workers)] == shared
    assert heard.notes == ([] if all(shared) else [NO_ROOM])


@pytest.mark.parametrize("beside", [0.9, 1.1])
def test_those_that_prepare_at_once_share_where_there_is_room_beside_them_all(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, beside: float
) -> None:
    size = prepared(LARGE)
    need = 3 * size.slots * size.footprint_bytes + beside * shareable_bytes(parse(LARGE), 33)

    def available() -> int:
        return 1 << 40 if len(workers.said(m.Prepare)) < 3 else int((need + 2 * FIRST) / FREE_SHARE)

    monkeypatch.setattr(replicate, "available_memory_bytes", available)
    _, heard = executed(tmp_path, planned(BACKENDS, [LARGE], replicates=2))
    assert [with_others for _, with_others in offers(workers)] == [True] * 3 + [beside > 1] * 3
    assert group_sizes(workers) == [3, 3]
    assert heard.notes == ([] if beside > 1 else [NO_ROOM])


KILL = m.Failed("crashed", f"while preparing: SIGKILL ({KILLED})")
SEGV = m.Failed("crashed", "while preparing: SIGSEGV")


@pytest.mark.parametrize(
    ("failure", "again"), [(m.Failed("oom", "MemoryError"), True), (KILL, True), (SEGV, False)]
)
def test_who_runs_out_of_memory_is_tried_again_without_what_is_shared(
    tmp_path: Path, workers: Workers, failure: m.Failed, again: bool
) -> None:
    def acts(worker: Any, command: Any) -> Any:
        return failure if isinstance(command, m.Prepare) and command.shared else None

    workers.acts = acts
    rows, heard = executed(tmp_path, planned(BACKENDS, [LARGE], replicates=1))
    if again:
        first, second, third = (who for who, _ in offers(workers)[1:])
        assert offers(workers) == [(first, True), (first, False), (second, False), (third, False)]
        assert [row.status for row in rows] == ["ok"] * 3
        assert heard.notes == [NO_ROOM]
    else:
        assert [with_others for _, with_others in offers(workers)] == [True] * 3
        assert [(row.status, row.reason) for row in rows] == [(failure.status, failure.reason)] * 3
        assert heard.notes == []


# Real processes


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Backends that note what they draw; temporary files go to a folder of their own."""
    fake_backends.install(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("FAKE_DRAWS", str(tmp_path / "draws"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


@pytest.mark.parametrize("replicates", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_input_is_drawn_once_a_replicate(fakes: Path, replicates: int) -> None:
    backends = ["draws:cpu", "draws:cpu+twin", "draws:cpu+third"]
    plan = planned(backends, [LARGE], replicates=replicates, reference_dir=fakes / "reference")
    rows, heard = executed(fakes, plan)
    assert [row.status for row in rows] == ["ok"] * 3 * replicates
    drawn = Counter((fakes / "draws").read_text().split())
    assert len(drawn) == 33
    assert set(drawn.values()) == {replicates}
    assert heard.notes == []
    assert not [name for name in open_files() if "memfd" in name]
    assert list((fakes / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_writes_costs_nobody_a_row(fakes: Path) -> None:
    """It is killed at its first work; what it had begun is drawn by those that need it."""
    backends = ["diesonce:cpu", "draws:cpu", "draws:cpu+twin"]
    rows, heard = executed(fakes, planned(backends, [LARGE], replicates=1, reference_dir=fakes / "reference"))
    assert {(row.backend, row.status) for row in rows} == {(backend, "ok") for backend in backends}
    assert all(row.error < 1e-6 for row in rows)
    assert heard.notes == [NO_ROOM]
    assert list((fakes / "tmp").iterdir()) == []


HARNESS = """
import os, signal, sys
from pathlib import Path
import psutil
from small_runs import planned
from membound.bench.run.execute import execute
from membound.bench.run.progress import Silent
from membound.results.store import RunWriter

class Deadly(Silent):
    def phase(self, backend, phase):
        if phase == "checking":  # the first backend has written what it drew
            numbers = [n for n in range(3, 100) if os.path.lexists(f"/proc/self/fd/{n}")]
            (file,) = [n for n in numbers if "memfd:membound" in os.readlink(f"/proc/self/fd/{n}")]
            print(os.readlink(f"/proc/self/fd/{file}"))
            print(os.fstat(file).st_blocks * 512)
            print(*(child.pid for child in psutil.Process().children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
plan = planned(["draws:cpu", "draws:cpu+twin", "draws:cpu+third"], [sys.argv[2]], reference_dir=folder / "r")
with RunWriter(folder / "run.jsonl") as writer:
    execute(plan, writer, Deadly())
"""


def test_nothing_is_left_of_a_killed_harness(fakes: Path) -> None:
    """Memory without a name goes with the last process that has it, and the workers go with the harness."""
    code = ["-c", HARNESS, str(fakes), LARGE]
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    where, *told = done.stdout.splitlines()
    assert where == "/memfd:membound (deleted)"
    written, *pids = map(int, " ".join(told).split())
    assert written >= 33 << 20
    assert pids
    assert all(map(gone, pids))
    assert comes_true(lambda: not any((fakes / "tmp").iterdir())), [*(fakes / "tmp").rglob("*")]
