"""`membound claim` as a user meets it: rules first, verdicts last, bad input one line, Ctrl-C with what is done."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from membound.bench.claim import execute as claim
from membound.bench.claim import session as claim_session
from membound.bench.cli import main
from membound.bench.planning.choice import Choice
from membound.bench.planning.probe import Found
from membound.results.claim.experiments import load_experiments
from membound.results.claim.file import load_claim
from membound.results.row import STATUSES

READ, PEAK = 2e10, 2e11


class World:
    """Workers of a machine on which memory alone takes time; `happens` may raise before an outcome."""

    job: dict[str, Any]

    def __init__(self, job: dict[str, Any], python: str = "") -> None:
        self.job = job

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None: ...

    @staticmethod
    def happens(job: dict[str, Any], index: int) -> None:
        """Nothing."""

    def events(self, limit_s: Any) -> Iterator[dict[str, Any]]:
        if self.job["job"] != "trial":
            found = {"read": (READ, "bytes/s"), "fma_f32": (PEAK, "FLOP/s")}
            yield {
                "event": "ceilings",
                "telemetry": {},
                "ceilings": [
                    {
                        "name": n,
                        "value": v,
                        "unit": u,
                        "config": {},
                        "samples": [1.0],
                        "status": "ok",
                        "reason": "",
                    }
                    for n, (v, u) in found.items()
                ],
            }
            return
        for index, arm in enumerate(self.job["arms"]):
            self.happens(self.job, index)
            made = claim.Arm(**arm)
            time_s = max(made.parsed.traffic.total_bytes / READ, made.flops / PEAK)
            time_s *= 1 + 1e-3 * self.job["replicate"]
            yield {"event": "outcome", "index": index, "status": "ok", "reason": "", "samples_s": [time_s] * 5} | {
                "factors": {}, "grade": "clean", "grade_reasons": [], "telemetry": {}
            }  # fmt: skip


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> type[World]:
    class Here(World):
        pass

    def choose(asked: Any, threads: int, pythons: Any) -> Choice:
        absent = (Found("other:cpu", "other", False, "it is not installed", "pip install other"),)
        return Choice(tuple(asked) or ("numba:cpu", "numba:cpu+x"), () if asked else absent)

    monkeypatch.setattr(claim, "Worker", Here)
    monkeypatch.setattr(claim_session, "choose_backends", choose)
    return Here


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
        (["--only", "12"], "experiment 12 is unknown; there are 1 to 10"),
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
    capsys: pytest.CaptureFixture[str], tmp_path: Path, world: type[World]
) -> None:
    def happens(job: dict[str, Any], index: int) -> None:
        if job["replicate"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    world.happens = staticmethod(happens)  # type: ignore[method-assign]
    status, out, err = run(capsys, "--only", "3", "--out", str(tmp_path))
    assert status == 130
    assert "interrupted; 20 observations are kept" in err
    assert "inconclusive" in out
    kept = load_claim(next(tmp_path.glob("claim-*.jsonl")))
    assert {one.replicate for one in kept.observations} == {0}


def test_a_failure_is_status_1_and_a_verdict_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, world: type[World]
) -> None:
    def happens(job: dict[str, Any], index: int) -> None:
        raise claim.WorkerDiedError("SIGILL: bye")

    world.happens = staticmethod(happens)  # type: ignore[method-assign]
    status, out, _ = run(capsys, "--only", "6", "--out", str(tmp_path))
    assert status == 1
    assert "not run" in out
    kept = load_claim(next(tmp_path.glob("claim-*.jsonl")))
    assert {one.status for one in kept.observations} == {"crashed"} <= set(STATUSES)
