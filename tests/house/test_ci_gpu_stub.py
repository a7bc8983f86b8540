"""`.ci/gpu` from end to end on a stub of NVIDIA's driver, which takes launches and runs none: every stage works, every number is wrong.

All stages run to their ends, each with less to do: few tests, a small work, one arm of the claim. Deadlines are far off;
what they do is tested in test_ci_gpu.py. $STUB_PYTHON is the interpreter (default: this one), such as one with the NumPy
that numba-cuda's import warns of, the cuda-bindings of CUDA 13.0, no torch and no compiler.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import gpu_works
import pytest

from membound.bench.cli import main
from membound.kernels.cuda.device import cubins
from membound.results.claim.file import load_claim

ROOT = Path(__file__).parents[2]
FAR_OFF_S = 900
"""For everything: a stage that comes near its deadline here hangs."""
FIRST, FIRST_COUNT = "ceiling or (8448 and int8)", 2
REST, REST_COUNT = "graph_and or (extra and 333)", 1 + 3
ONE_ARM = "--only 8 --replicates 1"

pytestmark = [pytest.mark.slow, pytest.mark.cuda_compile]

Left = tuple[Path, subprocess.CompletedProcess[str]]


def stub_driver(folder: Path) -> None:
    """libcuda.so.1 in that folder."""
    folder.mkdir()
    source, target = ROOT / "tests/fakes/stub_libcuda.c", folder / "libcuda.so.1"
    command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(target), str(source)]
    subprocess.run(command, check=True, timeout=60)


def stub_cubins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `.ci/gpu-cubins` builds, of code that only looks like it."""
    printed = subprocess.run(
        [sys.executable, str(ROOT / "tests/fakes/gpu_works.py")], capture_output=True, text=True, check=True
    )
    monkeypatch.setattr(cubins, "compile_cubin", lambda kernel, target: b"\x7fELF" + kernel.name.encode())
    with pytest.raises(SystemExit) as ended:
        main(["cuda-build", *printed.stdout.split(), "--claim", "--out", str(folder)])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What one call left in $OUT, unpacked, and how it ended."""
    folder = tmp_path_factory.mktemp("gpu-stub")
    stub_driver(folder / "driver")
    with pytest.MonkeyPatch.context() as patch:
        stub_cubins(folder / "cubins", patch)
    smi = folder / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho a stub\n")
    smi.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{smi.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(folder / "driver"),
        "PYTHON": os.environ.get("STUB_PYTHON", sys.executable),
        "PYTHONPATH": "",
        "OUT": str(folder / "out"),
        "MEMBOUND_CUBINS": str(folder / "cubins"),
        "SECONDS_TOTAL": str(FAR_OFF_S),
        "TESTS": f"{FIRST} or {REST}",
        "WORKS": gpu_works.EVERY_BATCH[8],
        "MODELS": gpu_works.GRAPH,
        "CLAIM_OPTIONS": ONE_ARM,
    }
    command = ["bash", str(ROOT / ".ci/gpu")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * FAR_OFF_S, env=environment, check=False
    )
    for archive in (folder / "out").glob("*.tar.gz"):
        with tarfile.open(archive) as packed:
            packed.extractall(folder / "unpacked", filter="data")
    return folder, done


def test_every_stage_runs_to_its_end_and_few_small_files_are_left(left: Left) -> None:
    folder, done = left
    assert done.stderr == ""
    files = list((folder / "out").iterdir())
    assert len(files) <= 8
    assert sum(file.stat().st_size for file in files) < 16 << 20
    report = (folder / "out/report.txt").read_text()
    assert re.findall(r"^(\w+) +(\d-\w+)", report, re.M) == [
        ("ok", "1-machine"),
        ("FAIL", "2-numbers"),
        ("FAIL", "3-works"),
        ("FAIL", "4-rest"),
        ("FAIL", "5-models"),
    ]
    for log in (folder / "unpacked").glob("*/*.log"):
        assert "the deadline was reached" not in log.read_text(), log.name


def test_the_gpu_is_found_and_what_compiles_is_told(left: Left) -> None:
    folder, _ = left
    found = json.loads((folder / "unpacked/1-machine/devices.json").read_text())["backends"]
    here = {device["id"] for device in found if device["available"]}
    assert {"numba:cuda:0", "numba:cuda:0+graph"} <= here
    log = (folder / "unpacked/1-machine/1-machine.log").read_text()
    assert f"sources of the kernels: {cubins.source_hash()}" in log
    assert re.search(r"compiled: \d+ bytes|nothing can be compiled here: ", log)


@pytest.mark.parametrize(("stage", "count"), [("2-numbers", FIRST_COUNT), ("4-rest", REST_COUNT)])
def test_every_test_reaches_its_numbers_which_are_wrong(left: Left, stage: str, count: int) -> None:
    """Nothing fails while it is collected, imported or launched: NumPy's warnings, the driver's handles, carried code."""
    folder, _ = left
    suite = next(ElementTree.parse(folder / "unpacked" / stage / "tests.xml").iter("testsuite"))
    counts = {name: int(suite.get(name, -1)) for name in ("tests", "failures", "errors", "skipped")}
    assert (counts["failures"], counts["errors"]) == (count, 0)
    assert counts["tests"] == count + counts["skipped"]
    reasons = [one.text or "" for one in suite.iter("skipped")]
    assert all("torch is not installed" in text or "reaches no GPU" in text for text in reasons), reasons
    failures = [f.get("message", "") for f in suite.iter("failure")]
    strange = [text for text in failures if not text.startswith(("AssertionError: ", "assert "))]
    assert not strange, strange[:3]


@pytest.mark.parametrize("stage", ["3-works", "5-models"])
def test_wrong_rows_are_red(left: Left, stage: str) -> None:
    folder, done = left
    assert done.returncode == 1
    log = (folder / "unpacked" / stage / f"{stage}.log").read_text()
    assert "2 of 2 cases failed, the first numba:cuda:0" in log
    rows = json.loads((folder / "unpacked" / stage / "table.json").read_text())
    assert sorted((row["backend"], row["status"]) for row in rows) == [
        ("numba:cuda:0", "wrong"),
        ("numba:cuda:0+graph", "wrong"),
    ]
    assert "failed: 2-numbers 3-works 4-rest 5-models" in done.stdout


def test_the_claim_tries_its_arm_and_finds_it_wrong(left: Left) -> None:
    folder, _ = left
    (path,) = (folder / "unpacked/5-models/claim").glob("claim-*")
    claim = load_claim(path)
    assert {one.backend for one in claim.observations} == {"numba:cuda:0", "numba:cuda:0+graph"}
    assert {(one.experiment, one.status) for one in claim.observations} == {(8, "wrong")}
    assert all(one.reason.startswith("error 1 on input set 0") for one in claim.observations)
