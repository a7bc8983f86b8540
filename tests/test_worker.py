import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_backends
import numpy as np
import pytest
from membound.bench.measure.case import Case, run_case

from membound.bench.claim.budget import Budget
from membound.bench.measure.check import cached_reference
from membound.bench.protocol.process import POLICY_VARIABLES, SPIN_COUNT, worker_environment
from membound.kernels import reference
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse
from membound.results.row import Row

ODD = "linear:n=37,k=53,m=3,weight=int8"
BUDGET = Budget(warmup_s=0.002, timing_s=0.004, overtime=1e6)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_backends.install(tmp_path / "site", monkeypatch)
    return tmp_path


def case(folder: Path, backend: str, work: str = ODD, seed: int = 7) -> Case:
    return Case(backend, work, seed, 1, 2, BUDGET, 20_000, folder / "reference")


def run(folder: Path, backend: str, work: str = ODD, seed: int = 7) -> tuple[Row, list[str]]:
    phases: list[str] = []
    return run_case(case(folder, backend, work, seed), phases.append), phases


def test_a_right_backend_gives_a_complete_row(fakes: Path) -> None:
    seed = int(np.random.default_rng().integers(1 << 31))
    row, phases = run(fakes, "ok:cpu", seed=seed)
    work = parse(ODD)
    assert (row.status, row.reason, row.backend, row.work) == ("ok", "", "ok:cpu", work.spec)
    assert (row.replicate, row.seed, row.threads) == (2, seed, 1)
    assert (row.bytes, row.flops) == (work.traffic.total_bytes, work.flops)
    assert row.traffic["weights_bytes"] == 37 * 53
    assert row.slots == 20_000 // work.footprint_bytes
    assert row.working_set_bytes == row.slots * work.footprint_bytes
    assert (row.device, row.versions["fake"], row.versions["numpy"]) == (
        "a fake processor",
        "1.2",
        np.__version__,
    )
    assert row.error is not None
    assert row.tolerance == reference.tolerance(work)
    assert 0 <= row.error < row.tolerance
    assert len(row.samples_s) >= 15
    assert len(row.warmup_s) >= 3
    assert len(row.hot_samples_s) == 5
    assert min(row.first_s, *row.samples_s) > 0
    assert row.telemetry["wall_s"] > 0
    assert row.grade in ("clean", "contended", "invalid", "unknown")
    assert phases == ["preparing", "checking", "timing", "checking"]
    assert Row.from_json(row.to_json()) == row


@pytest.mark.parametrize(
    ("backend", "work", "status", "reason"),
    [
        ("wrong:cpu", ODD, "wrong", "error 0.1 on input set 0 exceeds"),
        ("laterwrong:cpu", ODD, "wrong", "error 2 on input set"),
        ("notfinite:cpu", ODD, "wrong", "not finite"),
        ("oom:cpu", "linear:n=8,k=8,m=13", "oom", "MemoryError: Unable to allocate"),
        ("raises:cpu", ODD, "error", "RuntimeTroubleError: kernel not registered"),
        (
            "ok:cpu",
            "attention:context=3,q_heads=2,kv_heads=1,head_dim=8",
            "unsupported",
            "attention is not faked",
        ),
        ("ok:npu", ODD, "unavailable", "no device 'npu'; pip install another-machine"),
        ("missing:cpu", ODD, "unavailable", "cannot be imported: No module named 'no_such_module'"),
    ],
)
def test_every_failure_is_a_row(fakes: Path, backend: str, work: str, status: str, reason: str) -> None:
    row, _ = run(fakes, backend, work)
    assert row.status == status
    assert reason in row.reason
    assert "\n" not in row.reason
    assert Row.from_json(row.to_json()) == row


def test_a_wrong_answer_is_never_timed_at_first_and_keeps_its_error(fakes: Path) -> None:
    row, _ = run(fakes, "wrong:cpu")
    assert row.samples_s == []
    assert row.error == pytest.approx(0.1, rel=1e-3)
    late, _ = run(fakes, "laterwrong:cpu")
    assert len(late.samples_s) >= 15
    assert late.error == pytest.approx(2, rel=1e-3)


def test_references_are_computed_once_for_all_workers(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(parse(ODD), seed=3, slots=2)
    expected = reference.compute(inputs, 1)
    folder = fakes / "shared"
    assert np.array_equal(cached_reference(inputs, 1, folder), expected)
    monkeypatch.setattr(reference, "compute", lambda *_: pytest.fail("computed again"))
    assert np.array_equal(cached_reference(inputs, 1, folder), expected)
    assert [p.suffix for p in folder.iterdir()] == [".npy"]
    monkeypatch.undo()
    for other, slot in ((make_inputs(parse(ODD), seed=4, slots=2), 1), (inputs, 0)):
        assert not np.array_equal(cached_reference(other, slot, folder), expected)
    assert len(list(folder.iterdir())) == 3


def test_a_torn_reference_is_computed_again(fakes: Path) -> None:
    inputs = make_inputs(parse(ODD), seed=3, slots=1)
    folder = fakes / "shared"
    expected = cached_reference(inputs, 0, folder)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    assert np.array_equal(cached_reference(inputs, 0, folder), expected)


def worker(job: dict[str, Any]) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "membound.bench.worker"],
        input=json.dumps(job) + "\n",
        capture_output=True,
        text=True,
        env=worker_environment(job["threads"], os.environ),
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done


def test_prints_of_a_runtime_cannot_break_the_protocol(fakes: Path) -> None:
    job = {
        "job": "measure",
        "backend": "ok:cpu",
        "works": [ODD, "prefill:model=tiny,tokens=3"],
        "seed": 1,
        "threads": 1,
        "replicate": 0,
        "budget": {"warmup_s": 0.001, "timing_s": 0.002},
        "memory_bytes": 20_000,
        "reference_dir": str(fakes / "reference"),
    }
    events, done = worker(job)
    assert done.returncode == 0
    assert events[0]["event"] == "hello"
    assert events[-1] == {"event": "end"}
    phases = [e["phase"] for e in events if e["event"] == "phase" and not e["phase"].startswith("compiling")]
    assert phases == ["opening", "preparing", "checking", "timing", "checking", "opening"]
    results = [e["row"] for e in events if e["event"] == "result"]
    assert [r["status"] for r in results] == ["ok", "unsupported"]
    assert "a C library's noise" in done.stderr


def test_probe_tells_every_device(fakes: Path) -> None:
    events, _ = worker({"job": "probe", "entry": "ok", "threads": 1})
    devices = {e["id"]: e for e in events if e["event"] == "device"}
    assert list(devices) == ["ok:cpu", "ok:cpu+twin", "ok:npu"]
    assert [d["available"] for d in devices.values()] == [True, True, False]
    assert devices["ok:cpu"]["name"] == "a fake processor"
    assert (devices["ok:npu"]["reason"], devices["ok:npu"]["remedy"]) == (
        "no device 'npu'",
        "pip install another-machine",
    )


def test_a_backends_ceilings_come_before_its_works_and_may_fail(fakes: Path) -> None:
    job = {"job": "measure", "backend": "raises:cpu", "works": [ODD], "seed": 1, "threads": 1, "replicate": 0}
    job |= {
        "budget": {},
        "memory_bytes": 20_000,
        "reference_dir": str(fakes),
        "ceilings": True,
        "quick": True,
    }
    events, _ = worker(job)
    told = [e for e in events if e["event"] in ("ceilings", "result")]
    assert [e["event"] for e in told] == ["ceilings", "result"]
    (ceiling,) = told[0]["ceilings"]
    assert ceiling["status"] == "error"
    assert ceiling["reason"] == "RuntimeTroubleError: kernel not registered"
    assert told[1]["row"]["status"] == "error"


def test_an_impossible_job_is_refused(fakes: Path) -> None:
    events, done = worker({"job": "dance", "threads": 1})
    assert done.returncode == 1
    assert [e["event"] for e in events] == ["hello"]
    assert done.stderr.strip().splitlines()[-1] == "KeyError: 'dance'"


def test_thread_counts_are_set_and_spinning_policies_are_not() -> None:
    base = {"PATH": "/bin", "OMP_NUM_THREADS": "64"} | dict.fromkeys(POLICY_VARIABLES, "active")
    got = worker_environment(3, base)
    assert got["PATH"] == "/bin"
    assert (got["OMP_NUM_THREADS"], got["NUMBA_NUM_THREADS"], got["MKL_NUM_THREADS"]) == ("3", "3", "3")
    assert not set(POLICY_VARIABLES) & set(got)
    assert got["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


# Engines

BEHIND_A_PROMPT = "step:model=tiny,batch=2,context=4,weight=f32,kv=f32,layers=1,cache=prompt"


def test_an_engines_tokens_are_checked_from_the_first_to_the_last(fakes: Path) -> None:
    row, phases = run(fakes, "engine:cpu", BEHIND_A_PROMPT)
    assert (row.status, row.reason) == ("ok", "")
    assert row.error is not None
    assert row.error < 1e-6
    assert phases.count("checking") == 2
    expected = reference.compute(make_inputs(parse(BEHIND_A_PROMPT), 7), 0)
    assert row.config["greedy_tokens"] == expected.argmax(-1).tolist()
    assert row.config["steps"] == 1 + len(row.warmup_s) + row.launches * len(row.samples_s)


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("lateengine", "on input set 0 exceeds"),
        ("muteengine", "output has shape (1, 1), the reference (2, 1)"),
    ],
)
def test_an_engine_that_goes_wrong_gets_no_time(fakes: Path, backend: str, reason: str) -> None:
    row, _ = run(fakes, f"{backend}:cpu", BEHIND_A_PROMPT)
    assert row.status == "wrong"
    assert reason in row.reason


def test_only_rows_of_models_name_tokens(fakes: Path) -> None:
    engine, _ = run(fakes, "engine:cpu", BEHIND_A_PROMPT)
    logits, _ = run(fakes, "ok:cpu", "linear:n=37,k=53,m=3,weight=int8")
    assert "greedy_tokens" in engine.config
    assert "greedy_tokens" not in logits.config  # of models only
