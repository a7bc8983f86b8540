"""Threads are counted while they work, and a variant that does not do what its name says is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from membound.backends import running_threads as module
from membound.backends.running_threads import check_threads, running_threads
from membound.errors import BackendUnavailable

SRC = Path(__file__).parents[2] / "src"
OPEN = """
import json, os, sys
from membound.backends import registry
from membound.errors import BackendUnavailable
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

def told(name, spec):
    backend = registry.create(name)
    try:
        device = backend.open(registry.device_of(name), 2)
        work = parse(spec)
        backend.prepare(work, make_inputs(work, 1, 1))
        return device.threads
    except BackendUnavailable as error:
        return [error.reason, error.remedy]

spec = "linear:n=64,k=64,m=1,weight=f32,act=float"
print(json.dumps({name: told(name, spec) for name in sys.argv[1:]}))
"""
needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU has no second thread")


def opened(variables: dict[str, str], *names: str) -> dict[str, object]:
    """What these backends say in a process with these variables."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *names],
        env=os.environ | {"PYTHONPATH": str(SRC)} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


def work(seconds: float = 0.02) -> None:
    end = module.time.thread_time() + seconds
    while module.time.thread_time() < end:
        pass


def test_threads_that_ran_are_counted_and_those_that_wait_are_not() -> None:
    end = threading.Event()

    def stay() -> None:
        work()
        end.wait()

    def run() -> None:
        for one in working:
            one.start()
        work(0.1)

    waiting = threading.Thread(target=end.wait)
    waiting.start()
    working = [threading.Thread(target=stay) for _ in range(2)]
    counted = [running_threads(run), running_threads(work), running_threads(work, caller_waits=True)]
    end.set()
    for one in [waiting, *working]:
        one.join()
    assert counted == [3, 1, 0]


def test_a_thread_that_ran_long_once_only_hands_requests_on() -> None:
    """Seen on a busy machine: one launch of 2 ms in which a server's queue took more than a tenth of what the model did."""
    slips = iter([0.0, 0.001])

    def run() -> None:
        computes.submit(work, 0.004).result()
        hands_on.submit(work, next(slips, 0.0)).result()

    with ThreadPoolExecutor(1) as computes, ThreadPoolExecutor(1) as hands_on:
        run()  # both threads are there
        assert running_threads(run, caller_waits=True) == 1


def test_fewer_than_asked_for_is_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable) as refused:
        check_threads("mine", 3, work)
    assert refused.value.reason == "mine works with 1 of 3 threads here"
    assert "unset OMP_THREAD_LIMIT" in refused.value.remedy
    check_threads("mine", 1, work)
    with pytest.raises(BackendUnavailable, match="mine works with 0 of 1 threads here"):
        check_threads("mine", 1, work, caller_waits=True)
    monkeypatch.setattr(module, "TASKS", tmp_path)  # a system without /proc
    assert running_threads(work) is None
    check_threads("mine", 3, work)


def test_a_thread_that_came_too_late_once_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([1, 2])
    monkeypatch.setattr(module, "running_threads", lambda *_: next(counts))
    check_threads("mine", 2, work)
    assert next(counts, None) is None


def test_a_session_of_onnx_runtime_with_fewer_threads_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from membound.backends.onnx_runtime import session
    from membound.backends.onnx_runtime.backend import OnnxRuntime

    options = session._options
    monkeypatch.setattr(session, "_options", lambda threads: options(1))
    with pytest.raises(BackendUnavailable, match="ONNX Runtime works with 1 of 2 threads here"):
        OnnxRuntime().open("cpu", 2)


def test_vllm_counts_the_threads_of_the_torch_that_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from membound.backends.vllm_engine import installed
    from membound.backends.vllm_engine.backend import VLLMEngine

    monkeypatch.setattr(installed, "device_kind", lambda: "cpu")
    monkeypatch.setattr(installed, "versions", dict)
    monkeypatch.setattr(module, "running_threads", lambda *_: 1)
    torch = pytest.importorskip("torch", reason="no torch: pip install torch")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(BackendUnavailable, match="vLLM's torch works with 1 of 2 threads here"):
        VLLMEngine().open("cpu", 2)


@pytest.mark.slow
@needs_two_cpus
def test_openmp_that_keeps_threads_back_is_found_out() -> None:
    names = ("numba:cpu", "torch:cpu", "numpy:cpu", "onnxruntime:cpu")
    assert opened({}, *names) == dict.fromkeys(names, 2)
    told = opened({"OMP_THREAD_LIMIT": "1"}, *names)
    remedy = "unset OMP_THREAD_LIMIT OMP_DYNAMIC   # and look at `ulimit -u`"
    assert told["numba:cpu"] == ["OpenMP gives Numba 1 of 2 threads here", remedy]
    assert told["torch:cpu"] == ["torch works with 1 of 2 threads here", remedy]
    assert told["onnxruntime:cpu"] == 2  # it has threads of its own
    assert told["numpy:cpu"] == 2  # OpenBLAS has threads of its own, whose number threadpoolctl reads there


def test_numba_that_was_started_for_fewer_threads_says_so() -> None:
    assert opened({"NUMBA_NUM_THREADS": "1"}, "numba:cpu")["numba:cpu"] == [
        "Numba was started for 1 threads, not 2",
        "unset NUMBA_NUM_THREADS",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"])
def test_compiling_that_is_switched_off_is_no_variant(variable: str) -> None:
    name = "torch:cpu+compile"
    assert opened({variable: "1"}, name)[name] == [
        "torch.compile compiles nothing here and leaves the work to eager code",
        "unset TORCH_COMPILE_DISABLE TORCHDYNAMO_DISABLE",
    ]
