"""`membound run`: what it prints, stores and passes on, how it ends, and bad input."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from cli_calls import ELSEWHERE, FIGURES, HERE, SPEC

from membound.bench.planning import choice as setup

pytestmark = pytest.mark.usefixtures("folder")


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
    assert all(set(line) >= FIGURES for line in lines)
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


def test_nothing_here_at_all_is_refused(refused, devices):
    devices[:] = [replace(d, available=False, reason="gone") for d in devices]
    assert "no backend to measure" in refused("run", SPEC)
