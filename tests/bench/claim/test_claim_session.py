"""`membound claim` as a user meets it: rules first, verdicts last, bad input one line, Ctrl-C with what is done."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import claim_workers
import pytest
from claim_workers import PEAK, READ, Faked, FakeWorker, dying, turned

from membound.bench.claim import session as claim_session
from membound.bench.cli import main
from membound.bench.planning.choice import Choice
from membound.bench.planning.probe import Found
from membound.bench.protocol.messages import Answer, Check, Command, MeasureBackend, Prepare, TakeTurn
from membound.results.claim.experiments import load_experiments
from membound.results.claim.file import load_claim
from membound.results.row import STATUSES


@pytest.fixture(autouse=True)
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    """Workers of a machine on which bytes or FLOPs take time and nothing else does."""

    def choose(asked: Any, threads: int, pythons: Any) -> Choice:
        absent = (Found("other:cpu", "other", False, "it is not installed", "pip install other"),)
        return Choice(tuple(asked) or ("numba:cpu", "numba:cpu+x"), () if asked else absent)

    monkeypatch.setattr(claim_session, "choose_backends", choose)
    shared = claim_workers.install(monkeypatch)
    shared.happens = in_time
    return shared


def in_time(worker: FakeWorker, command: Command) -> Answer | None:
    """A turn that takes as long as its bytes or its FLOPs, a little longer in every further process."""
    if not isinstance(command, TakeTurn):
        return None
    arm = worker.arm_of(command)
    time_s = max(arm.parsed.traffic.total_bytes / READ, arm.flops / PEAK) / worker.threads
    return turned(time_s * (1 + 1e-4 * worker.pid))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["claim", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_rules_stand_before_what_was_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, "--only", "1,3", "--out", str(tmp_path))
    assert status == 0
    register = load_experiments()
    for number in (1, 3):
        assert f"{number} {register[number].name}: {register[number].hypothesis}" in out
        assert f"refuted if: {register[number].falsified_if}" in out
    assert f"sha256 {register.sha256[:16]}" in out
    assert "batch knee" not in out
    assert out.index("refuted if") < out.index("supported") < out.index("observations: ")
    assert "not here: other:cpu (it is not installed; pip install other)" in out
    assert "left out unless named: numba:cpu+x" in out
    kept = load_claim(next(tmp_path.glob("claim-*.jsonl")))
    assert {one.backend for one in kept.observations} == {"numba:cpu"}


def test_json_is_all_that_programs_see(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = run(capsys, "--only", "1", "-b", "numba:cpu+x", "--json", "--out", str(tmp_path))
    found = json.loads(out)
    assert status == 0
    assert found["file"] == str(next(tmp_path.glob("claim-*.jsonl")))
    verdicts = {(f["experiment"], f["backend"], f["arm"]): f["verdict"] for f in found["findings"]}
    assert set(verdicts.values()) == {"supported"}
    assert (1, "numba:cpu+x", "linear_f32") in verdicts
    assert "refuted if" in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--only", "14"], "experiment 14 is unknown; there are 1 to 13"),
        (["--only", "one"], "'one' is not the number of an experiment"),
        (["--rigor", "low"], "rigor='low' is unknown"),
        (["--threads", "4096"], "threads=4096 must be from 1 to"),
        (["--python", "numba=/no/such/python"], "not an interpreter that can be run"),
        (["--pair", "latest", "latest"], "no run"),
        (["--replicates", "0"], "'--replicates'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], part: str
) -> None:
    status, out, err = run(capsys, *arguments, "--out", str(tmp_path))
    assert status == 2
    assert part in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    status, out, err = run(capsys, "--out", str(tmp_path / "file" / "runs"))
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_ctrl_c_judges_what_is_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, faked: Faked
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, TakeTurn) and len(faked.workers(Prepare)) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return in_time(worker, command)

    faked.happens = happens
    status, out, err = run(capsys, "--only", "3", "--out", str(tmp_path))
    assert status == 130
    assert "interrupted; 20 observations are kept" in err
    assert "inconclusive" in out
    kept = load_claim(next(tmp_path.glob("claim-*.jsonl")))
    assert {one.replicate for one in kept.observations} == {0}
    assert not list(tmp_path.glob("*.partial"))


def test_a_failure_is_status_1_and_a_verdict_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, faked: Faked
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if isinstance(command, Prepare):
            raise dying("SIGILL: bye")
        return None

    faked.happens = happens
    status, out, _ = run(capsys, "--only", "6", "--out", str(tmp_path))
    assert status == 1
    assert "not run" in out
    kept = load_claim(next(tmp_path.glob("claim-*.jsonl")))
    assert {one.status for one in kept.observations} == {"crashed"} <= set(STATUSES)


@pytest.mark.parametrize(("at", "status"), [(MeasureBackend, 1), (Check, 1), (None, 0)])
def test_a_ceiling_or_a_single_arm_that_fails_is_status_1_beside_verdicts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, faked: Faked, at: type[Command] | None, status: int
) -> None:
    def happens(worker: FakeWorker, command: Command) -> Answer | None:
        if at is not None and type(command) is at and len(faked.of(at)) == 1:
            raise dying()
        return in_time(worker, command)

    faked.happens = happens
    ended, out, err = run(capsys, "--only", "3", "--out", str(tmp_path))
    assert ended == status
    assert "supported" in out
    assert ("SIGSEGV: bye" in err) == bool(status)
