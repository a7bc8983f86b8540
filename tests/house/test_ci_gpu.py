"""The script for machines with a GPU and the workflow that calls it, as far as they can be shown without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import gpu_works
import pytest
import yaml

from membound.bench.planning.suites import DEVICE_WORKS
from membound.kernels.cuda.catalogue import H100_MULTIPROCESSORS, kernels_of
from membound.kernels.cuda.matmul.linear import plan_linear
from membound.kernels.cuda.matmul.tensor import Tensor
from membound.kernels.cuda.ptx import MOST_STAGES
from membound.kernels.work import Linear, parse

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci/gpu"
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/gpu.yml").read_text())
STAGES = ["1-machine", "2-numbers", "3-works", "4-rest", "5-models"]


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


def packed(folder: Path, stage: str) -> dict[str, str]:
    """The files of a stage's archive by their paths below its folder, as text."""
    with tarfile.open(folder / "out" / f"{stage}.tar.gz") as archive:
        held = {one.name.partition("/")[2]: archive.extractfile(one) for one in archive if one.isfile()}
        return {name: file.read().decode() for name, file in held.items() if file is not None}


def test_the_scripts_are_sound_and_can_be_run() -> None:
    for script in (SCRIPT, SCRIPT.with_name("gpu-cubins")):
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
        assert script.stat().st_mode & 0o111
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", str(script)], check=True, timeout=60)
    text = SCRIPT.read_text()
    assert not re.search(r"nvidia-smi\s+(-pm|-lgc|-lmc|-pl|-ac|-mig|-r|--gpu-reset|--lock)", text)
    assert "--no-deps --no-build-isolation --no-index" in text
    assert text.count("-m pytest ") == text.count(" -W default ") == 2


def test_every_stage_that_fails_is_told_in_a_line_and_the_others_go_on(tmp_path: Path) -> None:
    status, text = call(tmp_path, 'echo "$name: first"; echo "$name: no such thing here"; exit 7')
    assert status == 1
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["FAIL", stage] for stage in STAGES]
    assert "python: no such thing here" in lines[0]
    assert all("no accelerator: see the log of 1-machine" in line for line in lines[1:5])
    assert lines[-1] == f"failed: {' '.join(STAGES)}; logs in the archives of {tmp_path / 'out'}"
    assert (tmp_path / "out/report.txt").read_text().splitlines() == lines
    assert "nvidia-smi: first" in packed(tmp_path, "1-machine")["1-machine.log"]
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert files == {f"{stage}.tar.gz" for stage in STAGES} | {"report.txt", "summary.md"}


def test_of_a_long_log_the_end_is_kept(tmp_path: Path) -> None:
    status, text = call(tmp_path, 'head -c 3000000 /dev/zero | tr "\\0" x; echo; echo "$name: gone"; exit 7')
    assert (status, text.count("FAIL")) == (1, 5)
    log = packed(tmp_path, "1-machine")["1-machine.log"]
    assert len(log) == 400_000
    assert log.endswith("\npython: gone\n")


def test_versions_are_kept(tmp_path: Path) -> None:
    """Of Python, driver, packages and NVIDIA's compiler: what failed there is looked for at home."""
    told = GOOD.replace(
        'case "$*" in\n',
        """case "$*" in
    "-VV") echo "Python 3.12.9 of theirs" ;;
    *"pip list"*) echo "numba-cuda 0.30.4" ;;
    *"nvvm.version"*) echo "nvvm (2, 0)" ;;
    "-q") echo "the whole state of $name" ;;
""",
    )
    assert call(tmp_path, told, **REAL)[0] == 0
    kept = packed(tmp_path, "1-machine")
    for line in ("Python 3.12.9 of theirs", "numba-cuda 0.30.4", "nvvm (2, 0)"):
        assert f"{line}\n" in kept["1-machine.log"]
    assert kept["nvidia-smi.log"] == "the whole state of nvidia-smi\n"


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    for wrong in ("soon", "0", "-5", "1e3"):
        done = subprocess.run(
            ["bash", str(SCRIPT)],
            capture_output=True,
            text=True,
            timeout=10,
            env=os.environ | {"SECONDS_TOTAL": wrong, "OUT": str(tmp_path / "out")},
            check=False,
        )
        assert (done.returncode, done.stderr) == (2, f"SECONDS_TOTAL={wrong} is no number of seconds\n")


GOOD = """
SPENT=${SPENT:-$OUT/..}
report() { # the argument behind --junitxml gets a report of one test
    while [ "$1" != --junitxml ]; do shift; done
    echo "<testsuites><testsuite tests='2' skipped='0'><testcase name='a'/><testcase name='b'>$BAD</testcase></testsuite></testsuites>" >"$2"
}
out() { while [ "$1" != --out ]; do shift; done; mkdir -p "$2"; }
if [ "$name" = python ] && [ "$1" = - ]; then
    if [[ ${2:-} == *devices.json ]]; then cat >/dev/null; echo -n npu:0,npu:0+graph >"$3"; exit 0; fi
    if [[ ${2:-} == *.xml || ${2:-} == *table.json ]]; then exec "$REAL" "$@"; fi
    cat >/dev/null; exit 0
fi
case "$*" in
    *"import os, xdist"*) [ -n "$WORKERS" ] && echo "$WORKERS" && exit 0; exit 1 ;;
    *"membound run"*) echo "$@" >>"$SPENT/asked"; out "$@"; [ -n "$SLOW" ] && exec sleep 60; exit "${RUN_STATUS:-0}" ;;
    *"membound claim"*) echo "$@" >>"$SPENT/tried"; [ -n "$SLOW" ] && exec sleep 60; exit 0 ;;
    *"membound show"*"--json"*) echo "[{\\"backend\\": \\"npu:0\\", \\"work\\": \\"w\\", \\"status\\": \\"${ROW:-ok}\\", \\"reason\\": \\"off\\"}]" ;;
    *"membound show"*"benchmarks.json --markdown"*) echo "| the kernels |" ;;
    *"membound show"*"--markdown"*) echo "| the table |" ;;
    *"--benchmark-json"*) while [ "$1" != --benchmark-json ]; do shift; done; [ -n "$NONE" ] || echo "{}" >"$2" ;;
    *"membound show"*) echo "the table" ;;
    *"-m pytest"*) echo "$@" >>"$SPENT/tested"; report "$@"; [ -z "$BAD" ] || exit 1 ;;
    *"pip install"*) echo "$@" >>"$SPENT/installed" ;;
esac
exit 0
"""
REAL = {"REAL": sys.executable}


def test_a_run_leaves_archives_a_report_and_a_summary(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "a-1-py3-none-any.whl").touch()
    status, text = call(tmp_path, GOOD, WHEELS=str(wheels), **REAL)
    assert (status, text.count("FAIL")) == (0, 0), text
    out = tmp_path / "out"
    files = list(out.iterdir())
    assert len(files) <= 8
    assert sum(file.stat().st_size for file in files) < 16 << 20
    assert "all stages passed" in (out / "report.txt").read_text()
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first.count("--backends npu:0,npu:0+graph") == second.count("--backends npu:0,npu:0+graph") == 1
    assert len(re.findall(r"(?:linear|attention|mla):", first)) == 5
    assert re.findall(r"(\w+):model", second) == ["step", "prefill"]
    assert "--backends npu:0,npu:0+graph" in (tmp_path / "tried").read_text()
    assert (out / "summary.md").read_text() == "| the table |\n" * 2
    assert packed(tmp_path, "3-works")["table.md"] == "| the table |\n"
    assert "the table" in packed(tmp_path, "3-works")["3-works.log"]
    before, after = (tmp_path / "installed").read_text().splitlines()
    assert before.endswith(f"{wheels}/a-1-py3-none-any.whl")
    assert after.endswith(" .")
    numbers, rest = (tmp_path / "tested").read_text().splitlines()
    assert all(" -W default " in asked for asked in (numbers, rest)), (
        "warnings of other packages are none of ours"
    )
    assert "-k (not (" not in numbers
    assert "-k (not (" in rest
    assert "test_torch_gpu.py" in rest


def test_a_list_of_devices_that_takes_too_long_does_not_end_everything(tmp_path: Path) -> None:
    slow = GOOD.replace('case "$*" in\n', 'case "$*" in\n    *"membound list"*) exec sleep 60 ;;\n')
    status, text = call(tmp_path, slow, SECONDS_TOTAL="10", **REAL)
    assert (status, text.count("FAIL")) == (0, 0), text
    assert "those of the first GPU are tried" in packed(tmp_path, "1-machine")["1-machine.log"]
    assert "numba:cuda:0+graph,torch:cuda:0" in (tmp_path / "asked").read_text()


def test_what_is_missing_is_told_at_once(tmp_path: Path) -> None:
    """All of it, not a package a rental; extras and what only some Pythons need are left out."""
    needs = [
        "pytest>=8",
        "nosuchone>=1",
        "no.such-two[fast]<3",
        "torch; extra == 'torch'",
        "no-third; python_version < '3'",
    ]
    (tmp_path / "site/membound-1.dist-info").mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        "Name: membound",
        "Version: 1",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    (tmp_path / "site/membound-1.dist-info/METADATA").write_text("\n".join(lines) + "\n")
    asking = GOOD.replace("if [[ ${2:-} == *.xml ||", "if [[ ${2:-} == requirements || ${2:-} == *.xml ||")
    assert asking != GOOD
    status, text = call(tmp_path, asking, PYTHONPATH=str(tmp_path / "site"), **REAL)
    assert status == 1
    (failed,) = re.findall(r"FAIL 1-machine \([^)]*\): (.*)", text)
    assert failed == "not installed, and no wheels of them were brought: nosuchone no.such-two"


def test_of_several_gpus_the_first_is_measured(tmp_path: Path) -> None:
    names = [
        f"{backend}:{i}{variant}"
        for backend in ("numba:cuda", "torch:cuda")
        for i in (0, 1)
        for variant in ("", "+graph")
    ]
    devices = [{"id": name, "available": True} for name in ("numba:cpu", *names, "torch:cuda:0+compile")]
    devices += [{"id": "torch:xpu", "available": False, "reason": "none"}]
    (tmp_path / "devices.json").write_text(json.dumps({"backends": devices}))
    listing = GOOD.replace('cat >/dev/null; echo -n npu:0,npu:0+graph >"$3"; exit 0', 'exec "$REAL" "$@"')
    listing = listing.replace(
        'case "$*" in\n', 'case "$*" in\n    *"membound list"*) cat "$OUT/../devices.json" ;;\n'
    )
    assert call(tmp_path, listing, **REAL)[0] == 0
    asked = (tmp_path / "asked").read_text().splitlines()[0]
    assert asked.endswith(" --backends numba:cuda:0,numba:cuda:0+graph,torch:cuda:0,torch:cuda:0+graph")


@pytest.mark.parametrize(("workers", "option"), [("", ""), ("1", ""), ("8", " -n 8")])
def test_numbers_without_clocks_are_shared_out_where_that_can_be(
    tmp_path: Path, workers: str, option: str
) -> None:
    """Their references take minutes on one core; what is timed has the machine to itself."""
    assert call(tmp_path, GOOD, WORKERS=workers, **REAL)[0] == 0
    numbers, rest = (tmp_path / "tested").read_text().splitlines()
    assert numbers.endswith(f"tests/backends/numba/test_numba_gpu.py{option}")
    assert " -n " not in rest


def test_with_time_the_whole_suite_is_measured(tmp_path: Path) -> None:
    assert call(tmp_path, GOOD, SECONDS_TOTAL="900", **REAL)[0] == 0
    assert "linear:" not in (tmp_path / "asked").read_text().splitlines()[0]


def test_other_works_tests_and_experiments_are_those_that_are_named(tmp_path: Path) -> None:
    named = {"WORKS": "linear:n=8,k=8 mla:context=9", "MODELS": "step:model=tiny"}
    named |= {"TESTS": "8448 or graph", "CLAIM_OPTIONS": "--only 4 --replicates 1"}
    assert call(tmp_path, GOOD, SECONDS_TOTAL="900", **named, **REAL)[0] == 0
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert " linear:n=8,k=8 mla:context=9 --backends" in first
    assert " step:model=tiny --backends" in second
    assert (tmp_path / "tried").read_text().endswith(" --only 4 --replicates 1\n")
    numbers, rest = (tmp_path / "tested").read_text().splitlines()
    assert re.search(r" -k \(ceiling or .*\) and \(8448 or graph\) ", numbers)
    assert re.search(r" -k \(not \(ceiling or .*\)\) and \(8448 or graph\) ", rest)


def test_stages_end_at_their_deadlines_which_are_no_failures(tmp_path: Path) -> None:
    """Of six seconds every stage has a share; what sleeps for a minute is interrupted."""
    began = time.monotonic()
    status, text = call(tmp_path, GOOD, SECONDS_TOTAL="6", SLOW="1", **REAL)
    assert time.monotonic() - began < 30
    assert (status, text.count("FAIL")) == (0, 0), text
    assert "the deadline was reached" in packed(tmp_path, "3-works")["3-works.log"]
    shares = [int(line.rpartition(" of ")[2].split()[0]) for line in text.splitlines() if line[:2] == "ok"]
    # the last one has all that the others left
    most = [6 * 20 // 100, 6 * 22 // 80, 6 * 34 // 58, 6 * 10 // 24, 6]
    assert len(shares) == 5
    assert all(1 <= share <= limit for share, limit in zip(shares, most, strict=True))


@pytest.mark.parametrize("row", ["wrong", "error", "crashed", "timeout", "oom"])
def test_a_wrong_row_is_red_whatever_the_run_says(tmp_path: Path, row: str) -> None:
    status, text = call(tmp_path, GOOD, ROW=row, RUN_STATUS="0", **REAL)
    assert status == 1
    assert f"1 of 1 cases failed, the first npu:0 on w: {row}: off" in text
    assert [line.split()[1] for line in text.splitlines() if line[:4] == "FAIL"] == ["3-works", "5-models"]


def test_rows_that_are_not_there_are_red(tmp_path: Path) -> None:
    status, text = call(tmp_path, GOOD, ROW="unsupported", **REAL)
    assert status == 1
    assert "no case was measured" in text


@pytest.mark.parametrize("bad", ["<failure/>", "<error/>"])
def test_a_failed_test_is_red_and_named(tmp_path: Path, bad: str) -> None:
    status, text = call(tmp_path, GOOD, BAD=bad, **REAL)
    assert status == 1
    assert text.count("1 of 2 GPU tests failed: b") == 2


def test_the_table_of_the_benchmarks_stands_below_the_others(tmp_path: Path) -> None:
    status, text = call(tmp_path, GOOD, BENCHMARKS="1", **REAL)
    assert (status, text.count("FAIL")) == (0, 0), text
    assert (tmp_path / "out/summary.md").read_text() == "| the table |\n" * 2 + "| the kernels |\n"
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_benchmarks_that_wrote_nothing_are_told(tmp_path: Path) -> None:
    status, text = call(tmp_path, GOOD, BENCHMARKS="1", NONE="1", **REAL)
    assert status == 1
    assert "6-benchmarks" in text
    assert "no benchmarks were written" in text


def test_the_works_of_the_tests_are_those_that_kernels_are_built_for() -> None:
    """What `gpu-cubins` names: parsed, on CUDA, and every spec that the tests on a GPU run."""
    printed = subprocess.run(
        [sys.executable, str(ROOT / "tests/fakes/gpu_works.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    assert set(gpu_works.SPECS) | {w for w in DEVICE_WORKS if not w.startswith("prefill")} <= set(printed)
    assert all(kernels_of(parse(spec)) for spec in printed)
    source = (ROOT / "tests/backends/numba/test_numba_gpu.py").read_text()
    assert not re.findall(r"\"(?:linear|attention|mla|step):", source), "specs stand in gpu_works.py"
    script = (ROOT / ".ci/gpu").read_text()
    (words,) = re.findall(r'^FIRST_TESTS="(.*)"$', script, re.M)
    first = {
        name
        for name in re.findall(r"^def test_(\w+)", source, re.M)
        if any(w in name for w in words.split(" or "))
    }
    assert first == {
        *(
            "linear_at_every_batch",
            "linear_at_every_size",
            "linear_with_the_longest_rings",
            "latent_attention",
        ),
        *("attention_over_every_cache", "attention_at_every_residue_of_a_page"),
        "every_ceiling_is_right_and_has_a_value",
    }
    named = re.findall(r'^    "((?:linear|attention|mla|step|prefill):[^"]+)"$', script, re.M)
    assert len(named) == 7
    assert set(named) <= set(DEVICE_WORKS)


def test_the_longest_rings_that_can_be_waited_for_are_among_them() -> None:
    """Plans change, and a work that had such a ring need not have it afterwards."""
    tried = []
    for spec in gpu_works.LONGEST_RINGS:
        work = parse(spec)
        assert isinstance(work, Linear)
        variant = plan_linear(work.weight, work.n, work.k, work.m, H100_MULTIPROCESSORS).variant
        assert isinstance(variant, Tensor)
        tried.append((work.m, work.weight, variant.stages == MOST_STAGES, variant.row_tiles))
    assert tried == [
        *((33, weight, False, 2) for weight in ("int8", "int4g32", "int4g128")),
        *((64, weight, True, 1) for weight in ("int4g32", "int4g128")),
    ]


def test_ci_runs_it_with_the_packages_of_a_gpu_machine() -> None:
    """The NumPy whose warnings once ended every GPU test, CUDA 13's bindings, no torch: kernels must import without a warning."""
    text = (ROOT / ".ci/run").read_text()
    (packages,) = re.findall(r"gpu/bin/pip\" install (.*?)\n +\"", text, re.S)
    assert {"numpy==2.5.2", "'cuda-bindings==13.0.*'", "numba-cuda", "pytest-xdist"} < set(packages.split())
    assert "torch" not in packages
    assert "\"$STUB_PYTHON\" -W error -c 'import membound.kernels.cuda.catalogue'" in text
    assert "export STUB_PYTHON" in text


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
    assert {"OUT", "PYTHON", "SECONDS_TOTAL", "BENCHMARKS"} <= set(job["env"]) & set(named)


@pytest.mark.parametrize("name", ["ci", "gpu"])
def test_a_workflow_is_yaml_with_jobs_and_pinned_actions(name: str) -> None:
    workflow = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "@" in step.get("uses", "@")
