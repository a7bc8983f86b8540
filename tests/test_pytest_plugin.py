"""The fixture `bandwidth_benchmark` in pytest sessions of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest
from rows import case, ceiling, write

import membound
from membound.backends import registry
from membound.backends.api import Accelerator, Device
from membound.bench.claim.budget import Budget
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.planning.suites import PlanError
from membound.bench.pytest_plugin import ceilings as ceiling_run
from membound.bench.pytest_plugin import fixture as bandwidth
from membound.kernels.work import parse

pytest_plugins = ["pytester"]

DOC = Path(__file__).parent.parent / "docs/pytest.md"
CACHE = 1 << 16
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-Wdefault", "--benchmark-max-time=0.02")
"""Hypothesis would be imported and rewritten again in each session; pytest-benchmark warns of a test that failed
before it was timed."""
JSON = "--benchmark-json=bench.json"
SPEC = "linear:n=32,k=64,m=2,weight=f32,act=float"
PRODUCT = f"""
import numpy as np

def product(x, w):
    return x @ w.T

def of(bandwidth_benchmark, spec="{SPEC}"):
    inputs = bandwidth_benchmark.inputs(spec)
    return inputs, [(inputs.x, inputs.weight(slot).values) for slot in range(inputs.slots)]
"""


@pytest.fixture(autouse=True)
def small_cache(monkeypatch):
    """A last-level cache that a few input sets defeat, and a short warm-up."""
    monkeypatch.setattr(bandwidth, "last_level_cache_bytes", lambda: CACHE)
    monkeypatch.setattr(bandwidth, "Budget", lambda: Budget(warmup_s=0.0))


@pytest.fixture
def stored(tmp_path):
    """A run that measured this machine's ceilings on one thread: 1 GB/s, 1 GFLOP/s."""
    common = {"threads": 1, "machine": fingerprint(), "run_id": "before"}
    rows = [
        ceiling("read", 1e9, "bytes/s", "cpu", **common),
        ceiling("fma_f32", 1e9, "FLOP/s", "cpu", **common),
    ]
    return write(tmp_path / "before.jsonl", rows)


@pytest.fixture
def session(pytester, stored):
    """Run pytest on a source with the stored ceilings; returns its result."""

    def run(source, *options, ceilings=stored):
        pytester.makepyfile(test_it=source)
        given = [f"--membound-ceilings={ceilings}"] if ceilings else []
        return pytester.runpytest_inprocess(*QUICK, *given, *options)

    return run


def benchmarks(pytester):
    return json.loads((pytester.path / "bench.json").read_text())["benchmarks"]


def test_the_example_of_the_docs_is_timed_checked_and_loaded(pytester, session):
    (example,) = re.findall(r"^```python\n(.*?)^```", DOC.read_text(), re.M | re.S)
    session(example, JSON).assert_outcomes(passed=2)
    table = membound.load(pytester.path / "bench.json").set_index("backend")
    work = parse("linear:n=2048,k=2048,m=1,weight=f32")
    line = table.loc["test_my_product:cpu"]
    assert (line.work, line.status, line.threads) == (work.spec, "ok", 1)
    assert (line.bytes, line.flops) == (work.traffic.total_bytes, work.flops)
    assert 0 < line.error < line.tolerance
    found = {b["name"]: b for b in benchmarks(pytester)}
    median = np.median(found["test_my_product"]["stats"]["data"])
    assert line.time_s == pytest.approx(median)
    assert line.mbu == pytest.approx(work.traffic.total_bytes / median / 1e9)
    assert found["test_my_product"]["extra_info"]["mbu"] == pytest.approx(line.mbu)
    assert found["test_my_product"]["extra_info"]["verdict"] == line.verdict
    total = table.loc["test_my_sum:cpu"]
    assert total.work == "custom:name=test_my_sum,bytes=4194304,flops=1048576"
    assert (total.bytes, total.flops) == (4 << 20, 1 << 20)
    assert np.isnan(total.error)


def test_the_table_has_the_figures_as_columns(session):
    result = session(PRODUCT + "def test_a(bandwidth_benchmark):\n"
                     "    bandwidth_benchmark(product, of(bandwidth_benchmark)[1], bytes=10**6, flops=10, label='mine')")  # fmt: skip
    header = next(line for line in result.outlines if line.startswith("benchmark "))
    assert header.split() == ["benchmark", "time", "GB/s", "MBU", "MFU", "ceiling", "verdict", "notes"]
    assert any(re.match(r"mine:cpu .*1\.0 GB/s", line) for line in result.outlines)


def test_input_sets_rotate_through_all_calls(pytester, session):
    source = """
    used = []

    def test_it(bandwidth_benchmark):
        sets = [(i,) for i in range(bandwidth_benchmark.slots(30_000))]
        bandwidth_benchmark(lambda i: used.append(i), sets, bytes=30_000)
        assert len(sets) == 10       # 4 × the cache, rounded up, and one
        assert used == [i % 10 for i in range(len(used))]
        assert len(used) > 30
    """
    session(source, JSON).assert_outcomes(passed=1)
    (found,) = benchmarks(pytester)
    row = found["extra_info"]["membound"]
    assert (row["slots"], row["working_set_bytes"]) == (10, 300_000)
    assert len(row["warmup_s"]) == 10


def test_sync_follows_each_call_and_output_gives_the_result(session):
    source = """
    def test_it(bandwidth_benchmark):
        inputs, sets = of(bandwidth_benchmark)
        log, y = [], [None]

        def start(x, w):
            assert len(log) % 2 == 0
            log.append("call")
            y[0] = product(x, w)

        bandwidth_benchmark(start, sets, inputs=inputs, sync=lambda: log.append("sync"), output=lambda: y[0])
        assert log == ["call", "sync"] * (len(log) // 2)
        assert bandwidth_benchmark.threads == 1
    """
    session(PRODUCT + dedent(source)).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("lambda x, w: 1.1 * product(x, w)", r"error 0\.1 against the float64 reference"),
        ("lambda x, w: product(x, w).T", r"the result has shape \(32, 2\), not \(2, 32\)"),
        ("lambda x, w: product(x, w) * float('nan')", "error inf against the float64 reference"),
    ],
    ids=["scale", "shape", "nan"],
)
def test_a_wrong_result_fails_the_test_and_leaves_no_figure(session, wrong, message):
    source = f"def test_it(bandwidth_benchmark):\n    i, s = of(bandwidth_benchmark)\n    bandwidth_benchmark({wrong}, s, inputs=i)\n"
    result = session(PRODUCT + source)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([f".*{message}.*"])
    assert not any("verdict" in line for line in result.outlines)


def test_a_result_that_turns_wrong_while_it_is_timed_is_seen(session):
    source = """
    def test_it(bandwidth_benchmark):
        inputs, sets = of(bandwidth_benchmark)
        calls = []

        def later(x, w):
            calls.append(0)
            return product(x, w) * (1 if len(calls) < 50 else -1)

        bandwidth_benchmark(later, sets, inputs=inputs)
    """
    result = session(PRODUCT + dedent(source))
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([".*error 2 against the float64 reference.*"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("(product, s)", "declare either inputs"),
        ("(product, s, inputs=i, bytes=5)", "declare either inputs"),
        ("(product, s, bytes=5, flops=-1)", "must not be negative"),
        ("(product, s[:-1], inputs=i)", r"\d+ sets for inputs with \d+ input sets"),
        ("(product, [], bytes=5)", "a tuple of arguments for each input set"),
        ("(product, [1, 2], bytes=5)", "a tuple of arguments for each input set"),
    ],
)
def test_a_wrong_declaration_says_what_to_write(session, call, message):
    source = f"def test_it(bandwidth_benchmark):\n    i, s = of(bandwidth_benchmark)\n    bandwidth_benchmark{call}\n"
    result = session(PRODUCT + source)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([f".*DeclarationError: .*{message}.*"])


def test_a_work_that_does_not_fit_memory_is_refused_with_the_bytes_it_needs():
    fixture = bandwidth.BandwidthBenchmark(SimpleNamespace(enabled=True), None, "mine")
    with pytest.raises(
        PlanError, match=r"does not fit memory: it needs 16000\.0 GB \(160000\d+ bytes\), .* available"
    ):
        fixture.inputs("linear:n=2000000,k=1000000,m=1,weight=f32")
    with pytest.raises(PlanError, match="layers=N"):
        fixture.inputs("step:model=llama-3-70b,batch=4096,context=131072,weight=f32,kv=f32")


def test_two_benchmarks_of_one_name_on_one_work_are_refused(session):
    source = "".join(
        f"def test_{name}(bandwidth_benchmark):\n    i, s = of(bandwidth_benchmark)\n"
        f"    bandwidth_benchmark(product, s, inputs=i, label='mine')\n"
        for name in "ab"
    )
    result = session(PRODUCT + source)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines([".*two benchmarks are called mine:cpu on linear.*give one a label"])


def test_nothing_is_timed_but_all_is_checked_when_benchmarks_are_disabled(session):
    source = """
    def test_it(bandwidth_benchmark):
        inputs, sets = of(bandwidth_benchmark)
        assert len(sets) == bandwidth_benchmark.slots(100) == 2
        y = bandwidth_benchmark(product, sets, inputs=inputs)
        assert (y == product(*sets[1])).all()

    def test_wrong(bandwidth_benchmark):
        inputs, sets = of(bandwidth_benchmark)
        bandwidth_benchmark(lambda x, w: -product(x, w), sets, inputs=inputs)
    """
    result = session(PRODUCT + dedent(source), "--benchmark-disable")
    result.assert_outcomes(passed=1, failed=1)
    assert not any("verdict" in line for line in result.outlines)


# Devices


def test_a_device_of_its_own_memory_brings_its_cache_and_ceilings(monkeypatch, stored):
    asked = []

    def ceilings(backend):
        asked.append(backend)
        return [ceiling("read", 3e12, "bytes/s", backend or "cpu", run_id="r", threads=1)]

    table = bandwidth.Table("r", 1, "pytest", ceilings)
    device = Device(
        "some:cuda", "A GPU", 1, {"driver": "1"}, Accelerator(memory_bytes=10**9, cache_bytes=50_000)
    )
    timed = SimpleNamespace(
        enabled=True,
        extra_info={},
        stats=SimpleNamespace(iterations=1, stats=SimpleNamespace(data=[1e-6])),
    )

    class Benchmark(SimpleNamespace):
        def __call__(self, function):
            return function()

    fixture = bandwidth.BandwidthBenchmark(Benchmark(**vars(timed)), table, "test_it")
    assert fixture.slots(10_000, device) == 21
    assert fixture.inputs(SPEC, device).slots == -(-4 * 50_000 // parse(SPEC).footprint_bytes) + 1
    fixture(len, [("a",)], bytes=10**6, device=device, label="mine")
    fixture(len, [("a",)], bytes=10**6, label="mine")
    assert asked == ["some:cuda", ""]
    on_gpu, on_cpu = table.cases
    assert (on_gpu.backend, on_gpu.device, on_gpu.versions["driver"]) == ("mine:cuda", "A GPU", "1")
    assert on_gpu.accelerator["cache_bytes"] == 50_000
    assert (on_cpu.backend, on_cpu.accelerator) == ("mine:cpu", {})


# Ceilings


def count_measurements(monkeypatch):
    calls = []

    def measure(run_id, threads, backend):
        assert backend == ""
        calls.append(threads)
        return [ceiling("read", 2e9, "bytes/s", "cpu", run_id=run_id, threads=threads)]

    monkeypatch.setattr(ceiling_run, "measure_machine", measure)
    return calls


TWO = "".join(
    f"def test_{name}(bandwidth_benchmark):\n    bandwidth_benchmark(len, [('ab',)], bytes=4096)\n"
    for name in "ab"
)


def test_ceilings_are_measured_once_and_stored_with_the_benchmarks(pytester, session, monkeypatch):
    calls = count_measurements(monkeypatch)
    session(TWO, JSON, "--membound-threads=1", ceilings=None).assert_outcomes(passed=2)
    assert calls == [1]
    table = membound.load(pytester.path / "bench.json")
    assert list(table.read_ceiling_bytes_per_s) == [2e9, 2e9]


def test_nothing_is_measured_where_no_benchmark_runs(session, monkeypatch):
    calls = count_measurements(monkeypatch)
    session("def test_it(benchmark):\n    benchmark(len, 'ab')\n", ceilings=None).assert_outcomes(passed=1)
    session(TWO, "--benchmark-disable", ceilings=None).assert_outcomes(passed=2)
    session(TWO, "--benchmark-skip", ceilings=None).assert_outcomes(skipped=2)
    assert calls == []


def test_it_goes_without_ceilings_when_told(pytester, session, monkeypatch):
    calls = count_measurements(monkeypatch)
    session(TWO, JSON, ceilings="none").assert_outcomes(passed=2)
    assert calls == []
    table = membound.load(pytester.path / "bench.json")
    assert set(table.verdict) == {"inconclusive"}
    assert table.mbu.isna().all()


def test_ceilings_of_a_stored_run_say_where_they_are_from(pytester, session):
    session(TWO, JSON).assert_outcomes(passed=2)
    content = json.loads((pytester.path / "bench.json").read_text())
    assert {row["config"]["from"] for row in content["membound"]["ceilings"]} == {"before"}
    assert {b["extra_info"]["membound"]["config"]["ceilings"] for b in content["benchmarks"]} == {"before"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--membound-ceilings=nothing.jsonl"], "no run 'nothing.jsonl'"),
        (["--membound-ceilings=other.jsonl"], "measured on Test CPU, this is"),
        (["--membound-ceilings=empty.jsonl"], "measured no ceilings"),
        (["--membound-threads=100000"], "threads=100000 must be from 1 to"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_runs(pytester, options, message):
    write(pytester.path / "other.jsonl", [ceiling("read", 1e9, "bytes/s")])
    write(pytester.path / "empty.jsonl", [case()])
    pytester.makepyfile(TWO)
    result = pytester.runpytest_inprocess(*QUICK, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line.strip()] == [result.errlines[0]]
    assert message in result.errlines[0]


@pytest.mark.parametrize("backend", ["", f"{registry.names()[0]}:cpu"])
def test_only_the_limits_are_measured(monkeypatch, backend):
    plans = []

    def execute(plan, writer, progress):
        plans.append(plan)
        writer.finish()
        return [ceiling("read", 1e9, "bytes/s", run_id=writer.path.stem), case()]

    monkeypatch.setattr(ceiling_run, "execute", execute)
    (row,) = ceiling_run.measure_machine("a-run", 1, backend)
    assert (row.run_id, row.value) == ("a-run", 1e9)
    (plan,) = plans
    assert (plan.ceilings, plan.quick, plan.threads) == (True, True, 1)
    assert [(cell.backend, len(cell.works)) for cell in plan.cells] == ([(backend, 1)] if backend else [])


# Other people's pytest


def child(folder, code_or_options, **environment):
    return subprocess.run(
        [sys.executable, *code_or_options],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_pytest_starts_without_loading_anything_heavy(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n"
        "    heavy = {'numpy', 'numba', 'pandas', 'scipy', 'psutil', 'rich', 'torch', 'typer'}\n"
        "    assert 'membound.bench.pytest_plugin.hooks' in sys.modules\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "membound.bench.pytest_plugin.hooks")
    done = child(tmp_path, options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_pytest_benchmark_only_the_fixture_fails_and_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as finder\n\nfind = finder.find_spec\n"
        "finder.find_spec = lambda name, *a: None if name == 'pytest_benchmark' else find(name, *a)\n"
    )
    (tmp_path / "test_it.py").write_text("def test_other():\n    pass\n\n" + TWO)
    options = ("-m", "pytest", "-p", "no:cacheprovider", "-p", "membound.bench.pytest_plugin.hooks")
    done = child(tmp_path, options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONPATH=str(tmp_path))
    assert "1 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "bandwidth_benchmark needs pytest-benchmark: pip install pytest-benchmark" in done.stdout
