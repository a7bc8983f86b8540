import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_workers
import pytest
from rows import LINEAR, MACHINE, case, run_rows, write

import membound
from membound.backends import registry
from membound.bench import api, cli
from membound.bench.planning import choice as setup
from membound.bench.planning import inventory
from membound.bench.planning.probe import Found
from membound.bench.protocol import messages as m
from membound.bench.protocol.process import WorkerDiedError, WorkerTimeoutError
from membound.results.row import SCHEMA_VERSION
from membound.results.store import load_rows

HERE, ELSEWHERE = registry.names()[:2]
SPEC = "linear:n=64,k=64,m=1,weight=f32,act=float"
HEAVY = ("llvmlite", "numba", "onnx", "onnxruntime", "pandas", "scipy", "torch")
REQUIRED = {
    *("backend", "device", "work", "status", "validity", "time_s", "time_ci_s", "bytes", "flops"),
    *("read_ceiling_bytes_per_s", "achieved_bytes_per_s", "mbu", "mfu", "roofline", "verdict", "error"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def membound_(capsys):
    """Run the command; returns (status, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def refused(membound_):
    """Run the command, which must refuse in one line; returns that line."""

    def call(*arguments):
        status, out, err = membound_(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("membound: ")
        assert err.count("\n") == 1
        return err

    return call


def found(name, **values):
    entry = registry.entry_for(name)
    return Found(name, entry, **({"available": True, "name": "Test CPU"} | values))


@pytest.fixture
def devices(monkeypatch):
    """What probing finds; tests may change the list."""
    here = [found(f"{HERE}:cpu"), found(f"{HERE}:cpu+x")]
    here.append(found(ELSEWHERE, available=False, reason="not installed", remedy="pip install it"))

    def probe(entries, threads, pythons=None):
        return [device for device in here if device.entry in entries]

    def probe_devices(names, threads, pythons=None):
        return [found(name, available=False, reason="no such device", remedy="buy it") for name in names]

    monkeypatch.setattr(setup, "probe", probe)
    monkeypatch.setattr(setup, "probe_devices", probe_devices)
    monkeypatch.setattr(inventory, "probe", probe)
    return here


@pytest.fixture
def measuring(monkeypatch, workers):
    """Workers that answer at once: `statuses` has what becomes of a backend's works, `plans` what was executed."""
    statuses, plans, execute = {}, [], api.execute
    made = SimpleNamespace(statuses=statuses, plans=plans, workers=workers, number=signal.SIGINT)

    def acts(worker, command):
        status = statuses.get(worker.who, "ok")
        if isinstance(command, m.TakeTurn) and status in ("interrupt", "wrong"):
            if status == "interrupt":
                signal.raise_signal(made.number)  # SIGINT unless a test names another
            return m.Failed("wrong", "because", 0.5)
        if not isinstance(command, m.Prepare) or status in ("ok", "interrupt", "wrong"):
            return fake_workers.turned(0.01) if isinstance(command, m.TakeTurn) else None
        if status in ("crashed", "timeout"):
            raise (WorkerDiedError if status == "crashed" else WorkerTimeoutError)("because")
        return m.Failed(status, "because")

    def noted(plan, writer, progress):
        plans.append(plan)
        return execute(plan, writer, progress)

    workers.acts = acts
    monkeypatch.setattr(api, "execute", noted)
    return made


# --help, --version, imports


def test_version(membound_):
    assert membound_("--version") == (0, f"membound {membound.__version__}\n", "")


@pytest.mark.parametrize("command", ["", "list", "coverage", "run", "show", "compare", "duel"])
def test_help_names_every_option(membound_, command):
    status, out, _ = membound_(*filter(None, [command]), "--help")
    assert status == 0
    assert "Usage: membound" in out
    if command:
        assert "--json" in out
        assert "--debug" in out


def test_help_and_import_load_nothing_heavy():
    code = f"""
import sys, membound
dir(membound), membound.__version__
from membound.bench import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    for arguments in (["--help"], ["run", "--help"], ["--version"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=60)


def test_list_loads_no_runtime_and_no_pandas(tmp_path):
    code = f"""
import sys
from membound.bench import cli
from membound.bench.planning import inventory
inventory.probe = lambda *a: []
try:
    cli.main(["list"])
except SystemExit as end:
    assert end.code == 0, end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60, cwd=tmp_path)


@pytest.mark.parametrize("group", [[], ["env"]])
def test_no_arguments_show_the_help(membound_, group):
    status, out, err = membound_(*group)
    assert status in (0, 2)
    assert "Usage: membound" in out + err
    assert not [line for line in err.splitlines() if line.startswith("membound:")]


# show


def test_show_by_file_folder_prefix_and_latest(membound_, folder):
    path = write(folder / "results/runs/20260101T0000-cpu-aaaa.jsonl", run_rows("run-a"))
    newer = write(folder / "results/runs/20260102T0000-cpu-bbbb.jsonl", run_rows("run-b"))
    os.utime(path, (1, 1))
    for name, run in ((path, "run-a"), ("20260101", "run-a"), ("latest", "run-b"), (newer, "run-b")):
        status, out, err = membound_("show", name)
        assert (status, err) == (0, "")
        assert f"run {run}, Test CPU, 2 threads" in out
        assert "10.15 ms" in out
    both = membound_("show", "results/runs")[1]
    assert "run run-a" in both
    assert "run run-b" in both
    assert membound_("show")[1] == membound_("show", "latest")[1]


def test_show_json_is_a_list_of_objects_with_null_for_what_is_missing(membound_, folder):
    write(folder / "results/runs/a.jsonl", run_rows())
    status, out, err = membound_("show", "latest", "--json")
    assert (status, err) == (0, "")
    lines = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert len(lines) == 3
    assert all(set(line) >= REQUIRED for line in lines)
    first, last = lines[0], lines[-1]
    assert (first["backend"], first["work"], first["verdict"]) == ("alpha:cpu", LINEAR, "memory")
    assert first["mbu"] == pytest.approx(100e6 / 0.01015 / 11e9, rel=0.01)
    assert len(first["time_ci_s"]) == 2
    assert (last["status"], last["time_s"], last["mbu"], last["verdict"]) == ("unsupported", None, None, None)


def test_a_torn_last_line_is_left_out(membound_, folder):
    path = write(folder / "a.jsonl", run_rows())
    path.write_text(path.read_text()[:-30])
    assert membound_("show", path)[0] == 0


def test_show_refuses_what_cannot_be_read(refused, folder):
    good = case().to_json()
    corrupt = folder / "corrupt.jsonl"
    corrupt.write_text(f"{good}\nnot json\n{good}\n")
    assert "corrupt.jsonl, line 2: not JSON" in refused("show", corrupt)
    newer = folder / "newer.jsonl"
    newer.write_text(good.replace(f'"schema_version":{SCHEMA_VERSION}', '"schema_version":999') + "\n")
    assert "written by a newer membound (schema 999" in refused("show", newer)
    empty = folder / "empty.jsonl"
    empty.write_text("")
    assert "holds no rows" in refused("show", empty)
    assert corrupt.read_text() == f"{good}\nnot json\n{good}\n"


def test_an_unknown_or_ambiguous_run_is_refused_with_what_is_there(refused, folder):
    assert "no run 'latest': there are no runs in results/runs yet" in refused("show")
    write(folder / "results/runs/2026a.jsonl", run_rows())
    write(folder / "results/runs/2026b.jsonl", run_rows())
    assert "no run 'nope' in results/runs; the latest there: 2026a, 2026b" in refused("show", "nope")
    assert "'2026' is the start of 2 runs" in refused("show", "2026")


# compare


def test_compare_two_runs(membound_, folder):
    write(folder / "results/runs/a.jsonl", run_rows("run-a"))
    write(folder / "results/runs/b.jsonl", run_rows("run-b", scale=2.0))
    status, out, _ = membound_("compare", "a", "b")
    assert status == 0
    assert "A: run run-a" in out
    assert "slower by at least 95 %" in out
    told = json.loads(membound_("compare", "a", "b", "--json")[1])
    lines = told["pairs"]
    assert [x["pairs"] for x in told["groups"]] == [1, 1]
    assert (told["without_partner"], told["doubt"]) == ([], "")
    assert lines[0]["time_ratio"] == pytest.approx(2.0)
    assert lines[0]["differs"] is True
    assert lines[-1]["time_ratio"] is None


def test_compare_two_backends_of_a_run(membound_, folder):
    path = write(folder / "a.jsonl", run_rows())
    status, out, _ = membound_("compare", path, "--backends", "alpha:cpu", "beta:cpu+x", "--json")
    assert status == 0
    (line,) = json.loads(out)["pairs"]
    assert line["time_ratio"] == pytest.approx(2.04, rel=0.01)


def test_compare_refuses(refused, membound_, folder):
    a = write(folder / "a.jsonl", run_rows("run-a"))
    other = [replace(r, machine=MACHINE | {"cpu": "Other"}) for r in run_rows("run-b")]
    b = write(folder / "b.jsonl", other)
    assert "different machines (cpu: 'Test CPU' against 'Other')" in refused("compare", a, b)
    assert membound_("compare", a, b, "--force")[0] == 0
    assert "name two runs, or one run and two backends" in refused("compare", a)
    assert "name two runs, or one run and two backends" in refused("compare", a, b, "--backends", "x", "y")
    assert "has no backend 'x'" in refused("compare", a, "--backends", "x", "alpha:cpu")
    assert "no run 'c'" in refused("compare", a, "c")
    write(folder / "both.jsonl", run_rows("run-a") + run_rows("run-b"))
    assert "holds 2 runs" in refused("compare", "both.jsonl", a)


# list


def test_list_shows_backends_models_and_ceilings(membound_, devices, folder):
    status, out, _ = membound_("list")
    assert status == 0
    assert f"{HERE}:cpu+x" in out
    assert "not installed; pip install it" in out
    assert "llama-3.2-1b" in out
    assert "none known yet" in out
    write(folder / "results/runs/a.jsonl", run_rows())
    write(folder / "results/runs/b.jsonl", [case()])
    assert "11.0 GB/s" in membound_("list")[1]


def test_list_json(membound_, devices, folder):
    write(folder / "results/runs/a.jsonl", run_rows())
    listed = json.loads(membound_("list", "--json")[1])
    assert [b["available"] for b in listed["backends"]] == [True, True, False]
    assert listed["backends"][2]["remedy"] == "pip install it"
    assert {"tiny", "llama-3-8b"} <= {m["name"] for m in listed["models"]}
    assert {"name": "read", "backend": "alpha:cpu", "value": 11e9, "unit": "bytes/s"}.items() <= listed[
        "ceilings"
    ][0].items()


# run


def test_run_tells_what_it_picked_then_the_table_then_the_file(membound_, devices, measuring, folder):
    status, out, err = membound_("run", SPEC, "--threads", 1)
    assert status == 0
    (path,) = (folder / "results/runs").glob("*.jsonl")
    order = [
        f"backends: {HERE}:cpu, {HERE}:cpu+x",
        f"not here: {ELSEWHERE} (not installed; pip install it)",
        SPEC,
        "1 thread, 3 processes a case",
        "10 ms",
        f"rows: results/runs/{path.name}",
    ]
    assert [out.index(text) for text in order] == sorted(out.index(text) for text in order)
    assert "6 cases to measure" in err
    assert len(measuring.plans[0].cells) == 6


def test_run_json_prints_nothing_else_on_stdout(membound_, devices, measuring):
    status, out, err = membound_("run", SPEC, "--quick", "--json")
    assert status == 0
    lines = json.loads(out)
    assert [line["work"] for line in lines] == [SPEC, SPEC]
    assert all(set(line) >= REQUIRED for line in lines)
    assert "rows: " in err
    assert f"backends: {HERE}:cpu" in err


def test_run_passes_its_options_on(membound_, devices, measuring, folder):
    more = ["--replicates", 2, "--seed", 7, "--out", "elsewhere", "--no-ceilings", "--rigor", "normal"]
    status, *_ = membound_("run", f"{SPEC},attention:context=64", "-b", f"{HERE}:cpu", *more)
    assert status == 0
    (plan,) = measuring.plans
    assert (plan.replicates, plan.seed, plan.ceilings, plan.out) == (2, 7, False, Path("elsewhere"))
    assert {cell.backend for cell in plan.cells} == {f"{HERE}:cpu"}
    assert {w.partition(":")[0] for w in plan.cells[0].works} == {"linear", "attention"}
    assert len(list((folder / "elsewhere").glob("*.jsonl"))) == 1


def test_a_bare_backend_means_all_its_devices(membound_, devices, measuring):
    membound_("run", SPEC, "--backends", HERE, "--quick")
    assert {cell.backend for cell in measuring.plans[0].cells} == {f"{HERE}:cpu", f"{HERE}:cpu+x"}


@pytest.mark.parametrize("bad", ["wrong", "crashed", "timeout", "oom", "error"])
def test_a_failed_case_is_exit_status_one(membound_, devices, measuring, bad):
    measuring.statuses[f"{HERE}:cpu+x"] = bad
    status, out, err = membound_("run", SPEC, "--quick")
    assert status == 1
    assert f"{HERE}:cpu+x {bad}" in out
    assert f"{HERE}:cpu+x linear" in err
    assert "rows: " in out


@pytest.mark.parametrize("other", ["ok", "unsupported", "unavailable"])
def test_unsupported_is_an_answer_and_no_failure(membound_, devices, measuring, other):
    measuring.statuses |= {f"{HERE}:cpu+x": "unsupported", f"{HERE}:cpu": other}
    assert membound_("run", SPEC, "--quick")[0] == 0


def test_a_run_that_no_device_was_there_for_fails(membound_, devices, measuring):
    measuring.statuses |= {f"{HERE}:cpu+x": "unavailable", f"{HERE}:cpu": "unavailable"}
    assert membound_("run", SPEC, "--quick")[0] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_its_like_keep_what_is_done(membound_, devices, measuring, folder, number):
    before = signal.getsignal(number)
    measuring.statuses[f"{HERE}:cpu+x"], measuring.number = "interrupt", number
    status, out, _ = membound_("run", SPEC, "--replicates", 3)
    assert status == 130
    (path,) = (folder / "results/runs").glob("*.jsonl")
    assert f"rows: results/runs/{path.name}" in out
    assert membound_("show", "latest")[0] in (0, 2)
    assert signal.getsignal(number) is before


def test_ctrl_c_before_the_first_row(membound_, devices, monkeypatch):
    def probe(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "probe", probe)
    assert membound_("run", SPEC)[:2] == (130, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown work 'nonsense'; allowed: linear"),
        (["linear:n=8,k=32,wieght=f32"], "unknown key 'wieght' (did you mean weight?)"),
        (["linear:n=8,k=32,weight=f8"], "weight='f8' is unknown; allowed: f32"),
        (["linear:n=-8,k=32"], "n=-8 must be a whole number from 1"),
        (["linear:n=8,k=99999999999999"], "k=99999999999999 must be a whole number"),
        (["linear:n=8GB,k=32"], "n='8GB' is not a whole number (no units"),
        (["linear:n=8"], "k missing"),
        (["linear:n=2000000000,k=2000000000"], "does not fit memory: it needs"),
        (["step:model=llama-9"], "unknown model 'llama-9'; known: tiny"),
        (["step:model=tiny,layers=99"], "layers=99 must be from 1 to 2"),
        ([SPEC, "--backends", "nothere"], "unknown backend 'nothere'"),
        ([SPEC, "--backends", f"{HERE}:cpu,nothere:cpu"], "unknown backend 'nothere'"),
        ([SPEC, "--backends", ELSEWHERE], f"{ELSEWHERE} is not available: not installed; pip install it"),
        (
            [SPEC, "--backends", f"{ELSEWHERE}:cpu"],
            f"{ELSEWHERE}:cpu is not available: not installed; pip install it",
        ),
        (
            [SPEC, "--backends", f"{HERE}:cpu+foo"],
            f"{HERE}:cpu+foo is not available: no such device; buy it",
        ),
        (["--out", ""], "Invalid value for '--out': it is empty; name a folder"),
        (["--seed", str(2**63)], "Invalid value for '--seed'"),
        (["--threads", "0"], "threads=0 must be from 1 to"),
        (["--threads", "100000"], "threads=100000 must be from 1 to"),
        (["--threads", "two"], "Invalid value for '--threads'"),
        (["--replicates", "0"], "Invalid value for '--replicates'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--rigor", "higher"], "rigor='higher' is unknown; allowed: normal, high"),
        (["--python", "nothing"], "--python 'nothing' is not BACKEND=PATH"),
        (["--python", f"{HERE}=/nowhere/python"], "/nowhere/python is not an interpreter that can be run"),
        (["--python", "nothere=/bin/sh"], "unknown backend 'nothere'"),
        (["--out", "file/below"], "results folder file/below cannot be made"),
        (["--out", "file"], "results folder file cannot be made"),
        (["--frobnicate"], "No such option: --frobnicate"),
    ],
)
def test_bad_input_is_one_line(refused, devices, measuring, folder, arguments, message):
    (folder / "file").write_text("in the way")
    assert message in refused("run", *arguments)
    assert not measuring.plans
    assert (folder / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(refused, devices, measuring, folder):
    (folder / "locked").mkdir(mode=0o500)
    assert "is not writable" in refused("run", SPEC, "--out", "locked")


def test_a_folder_that_refuses_writing_is_told_before_anything_starts(
    refused, devices, measuring, folder, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "is not writable; name another with --out" in refused("run", SPEC, "--out", "locked")


# duel

PAIR = f"{HERE}:cpu,{HERE}:cpu+x"


def test_a_duel_is_a_stored_run_of_one_work_with_its_ratios(membound_, devices, measuring, folder):
    options = ("--rounds", 6, "--replicates", 4, "--seed", 3, "--threads", 1, "--out", "duels")
    status, out, _ = membound_("duel", SPEC, "-b", PAIR, *options)
    assert status == 0
    (plan,) = measuring.plans
    assert (plan.seed, plan.threads, plan.replicates, plan.time_limit_s) == (3, 1, 4, None)
    (path,) = (folder / "duels").iterdir()
    assert f"rows: duels/{path.name}" in out
    rows = [row for row in load_rows(path) if row.kind == "case"]
    assert sorted((r.backend, r.replicate, len(r.turns)) for r in rows) == [
        (name, number, 6) for name in PAIR.split(",") for number in range(4)
    ]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    header = next(line for line in lines if line.startswith("backend time"))
    assert header.startswith("backend time ×fastest interval of bound")
    for name in PAIR.split(","):
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert "10 ms 1.000" in line
        assert line.endswith("24/24")
    assert "1.000–1.000" in out
    assert membound_("show", path)[0] == 0
    assert membound_("compare", path, "--backends", *PAIR.split(","))[0] == 0


def test_a_duel_of_a_backend_with_itself(membound_, devices, measuring):
    twice = f"{HERE}:cpu,{HERE}:cpu#2"
    status, out, err = membound_("duel", SPEC, "-b", twice, "--json")
    assert status == 0
    assert f"backends: {HERE}:cpu, {HERE}:cpu#2" in err
    lines = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert [line["backend"] for line in lines] == twice.split(",")
    assert [(line["ratio_to_fastest"], line["replicates"]) for line in lines] == [(1.0, 3)] * 2
    assert {str(line["ratio_to_fastest_ci"]) for line in lines} == {"None", "[1.0, 1.0]"}, "None: the fastest"
    assert all(line["of_bound_ci"][0] <= line["of_bound"] <= line["of_bound_ci"][1] for line in lines)


@pytest.mark.parametrize("status", ["wrong", "crashed", "timeout", "oom", "error", "unavailable"])
def test_a_contestant_that_fails_or_is_absent_fails_a_duel(membound_, devices, measuring, status):
    measuring.statuses[f"{HERE}:cpu+x"] = status
    code, out, _ = membound_("duel", SPEC, "-b", PAIR)
    assert code == 1
    assert f"{HERE}:cpu+x {status}" in out
    assert f"{HERE}:cpu 10 ms" in " ".join(out.split())


@pytest.mark.parametrize(("other", "expected"), [("ok", 0), ("unsupported", 1)])
def test_who_cannot_do_the_work_fails_no_duel_unless_nobody_can(
    membound_, devices, measuring, other, expected
):
    measuring.statuses |= {f"{HERE}:cpu+x": "unsupported", f"{HERE}:cpu": other}
    status, out, _ = membound_("duel", SPEC, "-b", PAIR)
    assert status == expected
    assert f"{HERE}:cpu+x unsupported: because" in out


def test_a_duel_that_is_interrupted_keeps_its_turns(membound_, devices, measuring, folder):
    measuring.statuses[f"{HERE}:cpu+x"] = "interrupt"
    status, out, _ = membound_("duel", SPEC, "-b", PAIR)
    assert status == 130
    (path,) = (folder / "results/runs").iterdir()
    assert f"rows: results/runs/{path.name}" in out


def test_devices_with_memory_of_their_own_meet_in_a_duel(membound_, devices, measuring):
    names = [f"{HERE}:cuda:0", f"{HERE}:cuda:0+graph", f"{HERE}:cpu"]
    devices += [found(name, accelerator={"memory_bytes": 10**10, "cache_bytes": 10**6}) for name in names[:2]]
    status, out, _ = membound_("duel", SPEC, "-b", ",".join(names), "--json")
    assert status == 0
    assert {line["backend"]: line["turns"] for line in json.loads(out)} == dict.fromkeys(names, 45)


def test_duel_refuses(refused, devices, measuring):
    assert "Missing option '--backends'" in refused("duel", SPEC)
    assert "unknown backend 'nothere'" in refused("duel", SPEC, "-b", "nothere")
    assert "unknown work 'x'" in refused("duel", "x", "-b", HERE)
    assert "no such device; buy it" in refused("duel", SPEC, "-b", f"{HERE}:cpu+foo")
    assert "Invalid value for '--rounds'" in refused("duel", SPEC, "-b", HERE, "--rounds", 0)
    assert "threads=0" in refused("duel", SPEC, "-b", HERE, "--threads", 0)
    assert "is not backend:device#LABEL" in refused("duel", SPEC, "-b", f"{HERE}:cpu,{HERE}:cpu#")
    assert "is not backend:device#LABEL" in refused("duel", SPEC, "-b", f"{HERE}:cpu,{HERE}#2")
    twice = f"name it twice: {HERE}:cpu,{HERE}:cpu#2"
    for alone in (f"{HERE}:cpu", f"{HERE}:cpu,{HERE}:cpu", f"{HERE}:cpu#2"):
        assert twice in refused("duel", SPEC, "-b", alone)
    del devices[1:]
    assert f"this one has {HERE}:cpu alone" in refused("duel", SPEC, "-b", HERE)
    assert not measuring.plans


def test_an_unknown_command_is_refused(refused):
    assert "No such command 'frob'" in refused("frob")


def test_debug_shows_the_traceback_before_the_line(membound_):
    for arguments in (["show", "nope", "--debug"], ["--debug", "show", "nope"]):
        status, out, err = membound_(*arguments)
        assert (status, out) == (2, "")
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("membound: no run 'nope'")


def test_nothing_here_at_all_is_refused(refused, devices):
    devices[:] = [replace(d, available=False, reason="gone") for d in devices]
    assert "no backend to measure" in refused("run", SPEC)


@pytest.mark.parametrize("command", [("show", "latest"), ("run", SPEC), ("compare", "a", "b")], ids=" ".join)
def test_a_deleted_current_folder_is_named(tmp_path, command):
    """The folder must go after Python has started: an interpreter itself may need it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from membound.bench.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=gone,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("; the current folder was deleted: change to one that is there\n")


def test_a_command_that_runs_out_of_memory_says_so(tmp_path):
    """A traceback and status 1 before. The file has holes: it takes no room on the disk."""
    path, huge = write(tmp_path / "a.jsonl", [case()]), tmp_path / "b.jsonl"
    with huge.open("wb") as file:
        file.truncate(1 << 30)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom membound.bench import cli\n"
        f"cli._status(['show', {str(path)!r}], False)\n"  # which imports all that it takes
        "taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20),) * 2)\n"
        f"cli.main(['show', {str(huge)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "membound: there is not enough memory for this; what was measured before is kept\n",
    )


def test_a_command_that_gets_no_more_threads_says_so(tmp_path):
    """A traceback and status 1 under `ulimit -u 5`, which root is free of: here no thread has room for its stack."""
    code = (
        "import threading\nfrom membound.bench import cli\nthreading.stack_size(1 << 46)\n"
        f"cli.main(['list', '--out', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("membound: no more threads can be started: raise `ulimit -u`")
    assert done.stderr.count("\n") == 1
