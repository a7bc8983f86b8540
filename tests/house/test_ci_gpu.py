"""The script for machines with a GPU and the workflow that calls it, as far as they can be shown without one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci/gpu"
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/gpu.yml").read_text())
STAGES = ["machine", "install", "devices", "tests", "suite", "table"]


def call(folder: Path, answers: str, **variables: str) -> tuple[int, str]:
    """Run the script with a python and an nvidia-smi of our own: what they do is the shell text `answers`."""
    for name in ("python", "nvidia-smi"):
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\nname={name}\n{answers}\n")
        path.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "OUT": str(folder / "out")}
    environment |= {"PYTHON": "python"} | variables
    done = subprocess.run(
        ["bash", str(SCRIPT)], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_script_is_sound_and_can_be_run() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True, timeout=10)
    assert SCRIPT.stat().st_mode & 0o111
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True, timeout=60)
    text = SCRIPT.read_text()
    assert not re.search(r"nvidia-smi\s+(-pm|-lgc|-lmc|-pl|-ac|-mig|-r|--gpu-reset|--lock)", text)
    assert "--no-deps --no-build-isolation --no-index" in text


def test_every_stage_that_fails_is_told_in_a_line_and_the_others_go_on(tmp_path: Path) -> None:
    status, text = call(tmp_path, 'echo "$name: first"; echo "$name: no such thing here"; exit 7')
    assert status == 1
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["FAIL", stage] for stage in STAGES]
    assert "nvidia-smi: no such thing here" in lines[0]
    assert "python: no such thing here" in lines[1]
    assert lines[-1] == f"failed: {' '.join(STAGES)}; logs in {tmp_path / 'out'}"
    assert {p.name for p in (tmp_path / "out").glob("*.log")} == {f"{stage}.log" for stage in STAGES}
    assert "first" in (tmp_path / "out/install.log").read_text()


GOOD = """
[ "$1" = - ] && { shift; cat >/dev/null; [[ $1 == *devices.json ]] && echo -n npu:0,npu:0+graph >"$2"; exit 0; }
case "$*" in
    *"membound run"*) mkdir -p "$OUT/rows"; echo "$@" >"$OUT/asked"; [ -n "$SLOW" ] && exit 124; exit 0 ;;
    *"membound claim"*) echo "$@" >"$OUT/tried"; [ -n "$SLOW" ] && exit 124; exit 0 ;;
    *"membound show"*"--json"*) echo "[]" ;;
    *"membound show"*"benchmarks.json --markdown"*) echo "| the kernels |" ;;
    *"membound show"*"--markdown"*) echo "| the table |" ;;
    *"--benchmark-json"*) echo "{}" >"$OUT/benchmarks.json" ;;
    *"membound show"*) echo "the table" ;;
    *"pip install"*) echo "$@" >>"$OUT/installed" ;;
esac
exit 0
"""


@pytest.mark.parametrize("slow", ["", "1"])
def test_a_run_leaves_rows_a_table_and_a_summary(tmp_path: Path, slow: str) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "a-1-py3-none-any.whl").touch()
    status, text = call(tmp_path, GOOD, WHEELS=str(wheels), SLOW=slow)
    assert (status, text.count("FAIL")) == (0, 0)
    assert "the table" in text
    out = tmp_path / "out"
    assert "--backends npu:0,npu:0+graph" in (out / "asked").read_text()
    assert (out / "summary.md").read_text() == "| the table |\n"
    assert (out / "summary.json").read_text() == "[]\n"
    first, second = (out / "installed").read_text().splitlines()
    assert first.endswith(f"{wheels}/a-1-py3-none-any.whl")
    assert second.endswith(" .")
    assert ("the deadline of 480 s was reached" in (out / "suite.log").read_text()) is bool(slow)


def test_the_table_of_the_benchmarks_stands_below_that_of_the_suite(tmp_path: Path) -> None:
    status, text = call(tmp_path, GOOD, BENCHMARKS="1")
    assert (status, text.count("FAIL")) == (0, 0)
    assert (tmp_path / "out/summary.md").read_text() == "| the table |\n| the kernels |\n"


@pytest.mark.parametrize("slow", ["", "1"])
def test_the_claim_is_tried_on_demand(tmp_path: Path, slow: str) -> None:
    status, text = call(tmp_path, GOOD, CLAIM="1", CLAIM_SECONDS="7", SLOW=slow)
    assert (status, text.count("FAIL")) == (0, 0)
    out = tmp_path / "out"
    asked = (out / "tried").read_text()
    assert "--backends npu:0,npu:0+graph" in asked
    assert f"--markdown {out / 'claim.md'}" in asked
    assert ("the deadline of 7 s was reached" in (out / "claim.log").read_text()) is bool(slow)


def test_benchmarks_that_wrote_nothing_are_told(tmp_path: Path) -> None:
    status, text = call(tmp_path, GOOD.replace('echo "{}"', "true"), BENCHMARKS="1")
    assert status == 1
    assert "FAIL benchmark_table (status 1): no benchmarks were written: see benchmarks.log" in text
    assert (tmp_path / "out/summary.md").read_text() == "| the table |\n"


def test_the_workflow_runs_the_script_and_keeps_what_it_leaves() -> None:
    assert set(WORKFLOW) == {"name", True, "permissions", "concurrency", "jobs"}, "YAML reads `on` as true"
    assert WORKFLOW["permissions"] == {"contents": "read"}
    (job,) = WORKFLOW["jobs"].values()
    assert job["runs-on"] == ["self-hosted", "linux", "gpu"]
    checkout, measure, table, upload = job["steps"]
    assert checkout["uses"].startswith("actions/checkout@")
    assert measure["run"] == "bash .ci/gpu"
    assert "summary.md" in table["run"]
    assert "GITHUB_STEP_SUMMARY" in table["run"]
    assert table["if"] == upload["if"] == "always()"
    assert upload["uses"].startswith("actions/upload-artifact@")
    assert job["env"]["OUT"].endswith("/" + upload["with"]["path"])
    named = re.findall(r"^# (?:\$)?(\w+)", SCRIPT.read_text(), re.M)
    assert {"OUT", "PYTHON", "RUN_SECONDS", "BENCHMARKS"} <= set(job["env"]) & set(named)


@pytest.mark.parametrize("name", ["ci", "gpu"])
def test_a_workflow_is_yaml_with_jobs_and_pinned_actions(name: str) -> None:
    workflow = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "@" in step.get("uses", "@")
