"""`.ci/gpu` from end to end on a stub of NVIDIA's driver, which takes launches and runs none: every stage works, every number is wrong.

$STUB_SECONDS is the time it is given, $STUB_PYTHON the interpreter (default: this one), such as one with the NumPy that numba-cuda's
import warns of, the cuda-bindings of CUDA 13.0 and no torch. It works against deadlines, so it wants a machine to itself: .ci/run leaves it out.
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

from membound.kernels.cuda import catalogue
from membound.kernels.cuda.device import cubins
from membound.kernels.work import parse

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("STUB_SECONDS", "420"))

pytestmark = [pytest.mark.slow, pytest.mark.cuda_compile]


def stub_driver(folder: Path) -> None:
    """libcuda.so.1 in that folder."""
    folder.mkdir()
    source, target = ROOT / "tests/fakes/stub_libcuda.c", folder / "libcuda.so.1"
    command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(target), str(source)]
    subprocess.run(command, check=True, timeout=60)


def stub_cubins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """What `.ci/gpu-cubins` would build, of code that only looks like it; how many kernels."""
    kernels = {kernel.name: kernel for kernel in catalogue.ceiling_kernels()}
    kernels |= {kernel.name: kernel for kernel in catalogue.co_runner_kernels()}
    for spec in gpu_works.SPECS:
        found = (*catalogue.kernels_of(parse(spec)), *catalogue.loaded_kernels(parse(spec)))
        kernels |= {kernel.name: kernel for kernel in found}
    monkeypatch.setattr(cubins, "compile_cubin", lambda kernel, target: b"\x7fELF" + kernel.name.encode())
    cubins.write(kernels.values(), "9.0a", folder)
    return len(kernels)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """What one call left in $OUT, unpacked, and how it ended."""
    folder = tmp_path_factory.mktemp("gpu-stub")
    stub_driver(folder / "driver")
    with pytest.MonkeyPatch.context() as patch:
        assert stub_cubins(folder / "cubins", patch) > 118
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
        "MEMBOUND_CACHE_DIR": str(folder / "cache"),
        "SECONDS_TOTAL": str(SECONDS),
        "WORKS": f"{gpu_works.EVERY_BATCH[8]} {gpu_works.EVERY_CACHE[0]}",
        "MODELS": gpu_works.GRAPH,
    }
    command = ["bash", str(ROOT / ".ci/gpu")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=4 * SECONDS, env=environment, check=False
    )
    for archive in (folder / "out").glob("*.tar.gz"):
        with tarfile.open(archive) as packed:
            packed.extractall(folder / "unpacked", filter="data")
    return folder, done


def test_it_ends_in_time_and_leaves_few_small_files(
    left: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = left
    assert done.stderr == ""
    files = list((folder / "out").iterdir())
    assert len(files) <= 8
    assert sum(file.stat().st_size for file in files) < 16 << 20
    report = (folder / "out/report.txt").read_text().splitlines()
    assert [line.split()[1] for line in report[:5]] == [
        "1-machine",
        "2-numbers",
        "3-works",
        "4-rest",
        "5-models",
    ]
    assert sum(int(line.partition("(")[2].split()[0]) for line in report[:5]) <= SECONDS + 15


def test_the_gpu_is_found_and_what_compiles_is_told(
    left: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = left
    assert "ok   1-machine" in done.stdout
    found = json.loads((folder / "unpacked/1-machine/devices.json").read_text())["backends"]
    here = {device["id"] for device in found if device["available"]}
    assert {"numba:cuda:0", "numba:cuda:0+graph"} <= here
    log = (folder / "unpacked/1-machine/1-machine.log").read_text()
    assert f"sources of the kernels: {cubins.source_hash()}" in log
    assert re.search(r"compiled: \d+ bytes|nothing can be compiled here: ", log)


def test_every_test_reaches_its_numbers_which_are_wrong(
    left: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """Nothing fails while it is collected, imported or launched: NumPy's warnings, the driver's handles, carried code."""
    folder, done = left
    assert "FAIL 2-numbers" in done.stdout
    report = ElementTree.parse(folder / "unpacked/2-numbers/tests.xml")
    suite = next(report.iter("testsuite"))
    rest = next(ElementTree.parse(folder / "unpacked/4-rest/tests.xml").iter("testsuite"))
    assert suite.get("errors") == rest.get("errors") == "0"
    failures = [f.get("message", "") for f in suite.iter("failure")]
    assert len(failures) > 3
    strange = [text for text in failures if not text.startswith(("AssertionError: ", "assert "))]
    assert not strange, strange[:3]


def test_wrong_rows_are_red_though_the_run_was_cut_short(
    left: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = left
    assert done.returncode == 1
    assert re.search(r"FAIL 3-works .*: wrong: ", done.stdout)
    rows = json.loads((folder / "unpacked/3-works/table.json").read_text())
    assert {row["status"] for row in rows if row["backend"].startswith("numba:")} == {"wrong"}
    assert "failed: 2-numbers 3-works" in done.stdout
