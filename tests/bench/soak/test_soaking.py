"""A soak with workers that answer at once: what leaks and what is lost for real is found."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from small_runs import WORKS

from membound.bench import cli
from membound.bench.planning import choice
from membound.bench.planning.probe import Found
from membound.bench.protocol import guardian
from membound.bench.soak import soaking
from membound.bench.soak.held import held
from membound.results import store
from membound.results.store import load_rows

PASSES = 8


@pytest.fixture
def soak(tmp_path, monkeypatch, capsys, workers):
    """The command, in a folder of its own; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "probe", lambda *_: [Found("numba:cpu", "a processor", True)])

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            cli.main(["soak", *WORKS, "--backends", "numba:cpu", "--threads", "1", *more])
        return (ended.value.code, *capsys.readouterr())

    return call


def after_each(monkeypatch, act):
    """Do something behind every pass, in the harness itself."""
    measure = soaking.measure

    def leaking(*arguments):
        done = measure(*arguments)
        act(done[0])
        return done

    monkeypatch.setattr(soaking, "measure", leaking)


def test_a_soak_in_order_finds_nothing_and_stores_every_pass(soak, tmp_path):
    status, out, _ = soak("--passes", str(PASSES))
    assert status == 0
    assert f"nothing found in {PASSES} passes" in out
    (folder,) = (tmp_path / "results/soaks").iterdir()
    assert len(load_rows(folder)) >= PASSES * len(WORKS)
    with (folder / "passes.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["stored"]) for line in lines] == [len(WORKS)] * PASSES
    assert all(int(line["resident_bytes"]) > 1 << 20 and int(line["descriptors"]) > 2 for line in lines)
    assert max(len(line) for line in out.splitlines() if "pass" in line) <= 80


def test_two_soaks_of_one_second_have_folders_of_their_own(soak, monkeypatch, tmp_path):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 11, 29, 12, 15, tzinfo=tz)

    monkeypatch.setattr(store, "datetime", Stopped)
    assert [soak("--passes", "1")[0] for _ in range(2)] == [0, 0]
    folders = list((tmp_path / "results/soaks").iterdir())
    assert len(folders) == 2
    assert {folder.name[:20] for folder in folders} == {"20261129T121500-soak"}


def test_a_descriptor_a_pass_is_a_leak(soak, monkeypatch):
    kept = []
    after_each(monkeypatch, lambda path: kept.append(path.open("rb")))
    try:
        status, out, _ = soak("--passes", str(PASSES))
    finally:
        for file in kept:
            file.close()
    assert status == 1
    assert "open descriptors grew from" in out


def test_a_temporary_file_a_pass_is_a_leak(soak, monkeypatch):
    after_each(monkeypatch, lambda path: (guardian.scratch_folder() / path.name).touch())
    status, out, _ = soak("--passes", str(PASSES), "--json")
    assert status == 1
    assert [one["what"] for one in json.loads(out)["findings"]] == ["temporary_files"]
    for path in guardian.scratch_folder().iterdir():
        path.unlink()


def test_a_process_that_is_left_is_found_at_once(soak, monkeypatch):
    left = []

    def start(path: Path) -> None:
        environment = os.environ | {guardian.HARNESS: guardian.harness_mark()}
        left.append(
            subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment)
        )

    after_each(monkeypatch, start)
    try:
        status, out, _ = soak("--passes", "2")
    finally:
        for process in left:
            process.communicate()
    assert status == 1
    assert "up to 2 processes were left after 2 of 2 passes" in out


def test_a_row_that_is_lost_is_found(soak, monkeypatch):
    def cut(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(
            b"".join(line for line in lines if WORKS[1].split(",weight")[0].encode() not in line)
        )

    after_each(monkeypatch, cut)
    status, out, _ = soak("--passes", "2")
    assert status == 1
    assert f"2 of {2 * len(WORKS)} rows are missing" in out


def test_ctrl_c_keeps_the_passes_that_are_whole(soak, monkeypatch, tmp_path):
    seen = []

    def interrupt(path: Path) -> None:
        seen.append(path)
        if len(seen) == 3:
            os.kill(os.getpid(), 2)

    after_each(monkeypatch, interrupt)
    status, *_ = soak("--passes", str(PASSES))
    assert status == 130
    (log,) = (tmp_path / "results/soaks").glob("*/passes.csv")
    assert len(log.read_text().splitlines()) == 1 + 2
    assert len(load_rows(log.parent)) >= 3 * len(WORKS)


@pytest.mark.parametrize(
    "wrong", [["--minutes", "0"], ["--minutes", "an hour"], ["--minutes", "nan"], ["--passes", "-1"]]
)
def test_bad_options_are_one_line(soak, wrong):
    status, _, err = soak(*wrong)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert wrong[0] in err


def test_what_is_held_is_read_from_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path))
    held()  # the first reading of a process opens the guardian's pipes
    before = held()
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        during = held()
    assert during.descriptors - before.descriptors == 2
    assert during.cache_files - before.cache_files == 2


def test_references_of_checks_are_no_leak_and_what_is_left_of_writing_one_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path))
    before = held()
    for name in ("1f.reference", "2e.reference", "2e.reference.77.tmp"):
        (tmp_path / name).touch()
    assert held().cache_files - before.cache_files == 1
