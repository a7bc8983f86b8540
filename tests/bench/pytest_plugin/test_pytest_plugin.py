"""The fixture `bandwidth_benchmark` in pytest sessions of its own."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import fake_workers
import numpy as np
import pytest
from pytest_benchmark import plugin as benchmark_plugin
from rows import case, ceiling, write

import membound
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.measure import cold_memory
from membound.bench.planning.plan import DUEL_ROUNDS
from membound.bench.planning.suites import PlanError
from membound.bench.protocol import messages as m
from membound.bench.protocol.process import WorkerDiedError
from membound.bench.pytest_plugin import between
from membound.bench.pytest_plugin import fixture as bandwidth
from membound.kernels.work import parse
from membound.results.store import load_rows

pytest_plugins = ["pytester"]
CPU_INFO = cache(benchmark_plugin.get_cpu_info)
"""Of this machine: pytest-benchmark starts three processes for it in each session."""

DOC = Path(__file__).parents[3] / "docs/pytest.md"
CACHE = 1 << 16
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-Wdefault")
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
    """A last-level cache that a few input sets defeat; nobody sleeps, and warming up is one launch."""
    monkeypatch.setattr(benchmark_plugin, "get_cpu_info", CPU_INFO)
    monkeypatch.setattr(cold_memory, "last_level_cache_bytes", lambda: CACHE)
    monkeypatch.setattr(bandwidth, "last_level_cache_bytes", lambda: CACHE, raising=False)
    monkeypatch.setattr(between, "PAUSE_S", 0.0)
    monkeypatch.setattr(between, "WARM_S", 0.0)


@pytest.fixture
def playing(monkeypatch):
    """Workers that answer at once, where a session measures its ceilings."""
    return fake_workers.install(monkeypatch)


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
def session(pytester, stored, playing):
    """Run pytest on a source with the stored ceilings, or those that are named; returns its result."""

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
        assert len(used) > 10 + 15
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
        ("lambda x, w: 1.1 * product(x, w)", r"error 0\.1 on input set 0 exceeds"),
        ("lambda x, w: product(x, w).T", r"output has shape \(32, 2\), the reference \(2, 32\)"),
        (
            "lambda x, w: product(x, w) * float('nan')",
            "output on input set 0 holds values that are not finite",
        ),
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
    result.stdout.re_match_lines([r".*error 2 on input set \d+ exceeds.*"])


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
    fixture = bandwidth.BandwidthBenchmark(SimpleNamespace(enabled=True), None, "mine", None)
    with pytest.raises(
        PlanError, match=r"does not fit memory: it needs 16000\.0 GB \(160000\d+ bytes\), .* available"
    ):
        fixture.inputs("linear:n=2000000,k=1000000,m=1,weight=f32")
    with pytest.raises(PlanError, match="layers=N"):
        fixture.inputs("step:model=llama-3-70b,batch=4096,context=131072,weight=f32,kv=f32")


def test_tests_of_one_name_in_two_folders_are_two_benchmarks(session, pytester):
    body = "def test_it(bandwidth_benchmark):\n    i, s = of(bandwidth_benchmark)\n    bandwidth_benchmark(product, s, inputs=i)\n"
    pytester.makepyfile(**{f"{name}/test_{name}": PRODUCT + body for name in "ab"})
    result = session(PRODUCT + body.replace("test_it", "test_alone"), JSON)
    result.assert_outcomes(passed=3)
    names = {row.backend for row in load_rows(pytester.path / "bench.json") if row.kind == "case"}
    assert names == {"test_alone:cpu", "a/test_a.py--test_it:cpu", "b/test_b.py--test_it:cpu"}


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


# Ceilings


TWO = "".join(
    f"def test_{name}(bandwidth_benchmark):\n    bandwidth_benchmark(len, [('ab',)], bytes=4096)\n"
    for name in "ab"
)


def test_the_machines_ceilings_are_measured_once_and_play_between_all_rounds(pytester, session, playing):
    result = session(TWO, JSON, "--membound-threads=1", ceilings=None)
    result.assert_outcomes(passed=2)
    assert sum("membound: measuring the ceilings of this machine" in line for line in result.outlines) == 1
    assert len(playing.said(m.MeasureMachine)) == len(playing.said(m.OpenCeiling)) == 1
    turns = playing.said(m.TakeCeilingTurn)
    assert len(turns) == 2 * (1 + DUEL_ROUNDS), "after the warm-up and each round"
    assert not playing.alive
    content = json.loads((pytester.path / "bench.json").read_text())
    assert [b["stats"]["rounds"] for b in content["benchmarks"]] == [DUEL_ROUNDS] * 2
    rows = load_rows(pytester.path / "bench.json")
    for row in (r for r in rows if r.kind == "case"):
        assert len(row.turns) == DUEL_ROUNDS
        assert row.samples_s == []
        assert all(1e9 <= t.before["read"] <= 2e9 and t.after["read"] for t in row.turns)
    closing = {r.work: r for r in rows if "turns" in r.config}
    assert closing["read"].config["turns"] == len(turns)
    assert {r.work for r in rows if r.kind == "ceiling"} >= {"read", "fma_f32"}
    table = membound.load(pytester.path / "bench.json")
    assert list(table.turns) == [DUEL_ROUNDS] * 2
    info = [b["extra_info"]["mbu"] for b in content["benchmarks"]]
    assert info == pytest.approx(list(table.mbu))


def test_a_file_with_turns_loads_back_equal(pytester, session):
    kept = """
    import membound.bench.pytest_plugin.hooks as hooks
    import pathlib

    def pytest_unconfigure(config):
        rows = config.stash[hooks.TABLE].rows
        pathlib.Path("rows.jsonl").write_text("".join(row.to_json() + "\\n" for row in rows))
    """
    pytester.makeconftest(dedent(kept))
    session(TWO, JSON, "--membound-threads=1", ceilings=None).assert_outcomes(passed=2)
    stored = {(r.kind, r.backend, r.work, r.replicate): r for r in load_rows(pytester.path / "rows.jsonl")}
    loaded = {(r.kind, r.backend, r.work, r.replicate): r for r in load_rows(pytester.path / "bench.json")}
    assert loaded == stored
    assert sum(len(row.turns) for row in loaded.values()) == 2 * DUEL_ROUNDS


@pytest.mark.parametrize("what", [m.MeasureMachine, m.OpenCeiling])
def test_ceilings_that_die_fail_no_test(pytester, session, playing, what):
    def acts(worker, command):
        if isinstance(command, what):
            raise WorkerDiedError("SIGILL")

    playing.acts = acts
    session(TWO, JSON, "--membound-threads=1", ceilings=None).assert_outcomes(passed=2)
    rows = load_rows(pytester.path / "bench.json")
    cases = [r for r in rows if r.kind == "case"]
    assert [(r.status, len(r.turns)) for r in cases] == [("ok", DUEL_ROUNDS)] * 2
    failed = [(r.work, r.status, r.reason) for r in rows if r.status != "ok"]
    assert failed == [("ceilings", "crashed", "SIGILL")]
    assert all(bool(t.before) == (what is m.MeasureMachine) for r in cases for t in r.turns)


def test_more_rounds_are_taken_if_more_are_asked_for(pytester, session):
    session(TWO, JSON, "--benchmark-min-rounds=21").assert_outcomes(passed=2)
    assert [b["stats"]["rounds"] for b in benchmarks(pytester)] == [21, 21]
    session(TWO, JSON, "--benchmark-min-rounds=3").assert_outcomes(passed=2)
    assert [b["stats"]["rounds"] for b in benchmarks(pytester)] == [DUEL_ROUNDS] * 2


def test_nothing_is_measured_where_no_benchmark_runs(session, playing):
    session("def test_it(benchmark):\n    benchmark(len, 'ab')\n", ceilings=None).assert_outcomes(passed=1)
    session(TWO, "--benchmark-disable", ceilings=None).assert_outcomes(passed=2)
    session(TWO, "--benchmark-skip", ceilings=None).assert_outcomes(skipped=2)
    assert playing.log == []


def test_it_goes_without_ceilings_when_told(pytester, session, playing):
    session(TWO, JSON, ceilings="none").assert_outcomes(passed=2)
    assert playing.log == []
    rows = load_rows(pytester.path / "bench.json")
    assert [(r.kind, len(r.samples_s), r.turns) for r in rows] == [("case", DUEL_ROUNDS, [])] * 2
    table = membound.load(pytester.path / "bench.json")
    # that much is known without, unless others were at work all the time
    assert [*table.verdict] == ["inconclusive" if g == "invalid" else "cache" for g in table.validity]
    assert table.mbu.isna().all()


def test_ceilings_of_a_stored_run_say_where_they_are_from(pytester, session, playing):
    session(TWO, JSON).assert_outcomes(passed=2)
    assert playing.log == [], "a stored run is read, and nothing plays between the rounds"
    content = json.loads((pytester.path / "bench.json").read_text())
    assert {row["config"]["from"] for row in content["membound"]["ceilings"]} == {"before"}
    assert {b["extra_info"]["membound"]["config"]["ceilings"] for b in content["benchmarks"]} == {"before"}
    assert set(membound.load(pytester.path / "bench.json").read_ceiling_bytes_per_s) == {1e9}


def test_the_ceilings_of_an_earlier_session_can_be_taken_from_its_file(pytester, session, playing):
    session(TWO, JSON, "--membound-threads=1", ceilings=None).assert_outcomes(passed=2)
    rows = load_rows(pytester.path / "bench.json")
    assert all(r.machine == fingerprint() and r.command.startswith("pytest ") for r in rows)
    playing.log.clear()
    session(TWO, "--benchmark-json=again.json", ceilings="bench.json").assert_outcomes(passed=2)
    assert playing.log == []
    table = membound.load(pytester.path / "again.json")
    assert set(table.threads) == {1}
    best = max(r.value for r in rows if r.work == "read")
    assert set(table.read_ceiling_bytes_per_s) == {best}


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
