"""Kernels that are carried to a machine without a compiler: `.ci/gpu-cubins` builds what is needed, and `.ci/gpu` finds it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / ".ci"


def call(
    folder: Path, script: str, python: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A script of a checkout that holds nothing else, with a python that is the shell text `python`."""
    (folder / ".ci").mkdir(exist_ok=True)
    shutil.copy(CI / script, folder / ".ci")
    for name, text in {"python": python, "nvidia-smi": "exit 7"}.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    known = {name: value for name, value in os.environ.items() if name != "MEMBOUND_CUBINS"}
    environment = known | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHON": "python"}
    environment |= {"OUT": str(folder / "out"), "SEEN": str(folder / "seen")} | variables
    command = ["bash", str(folder / ".ci" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.mark.parametrize(
    ("carried", "named", "used"),
    [(False, None, "none"), (True, None, "{folder}/cubins"), (True, "elsewhere", "elsewhere")],
    ids=["none", "found", "named"],
)
def test_every_stage_uses_the_kernels_that_were_brought_along(
    tmp_path: Path, carried: bool, named: str | None, used: str
) -> None:
    if carried:
        (tmp_path / "cubins").mkdir()
        (tmp_path / "cubins/manifest.json").write_text("{}")
    variables = {} if named is None else {"MEMBOUND_CUBINS": named}
    done = call(tmp_path, "gpu", 'echo "${MEMBOUND_CUBINS:-none}" >>"$SEEN"; exit 7', **variables)
    assert done.returncode == 1, done.stderr
    assert set((tmp_path / "seen").read_text().splitlines()) == {used.format(folder=tmp_path)}


NAMING = """
if [ "$*" = tests/fakes/gpu_works.py ]; then seq -f 'linear:n=%g,k=128' "$COUNT"; exit 0; fi
echo "$*" >>"$SEEN"
"""


@pytest.mark.parametrize("folder", ["cubins", "brought"])
def test_what_tests_and_suite_need_is_built_and_what_the_claim_needs(tmp_path: Path, folder: str) -> None:
    arguments = () if folder == "cubins" else (folder,)
    done = call(tmp_path, "gpu-cubins", NAMING, *arguments, COUNT="101")
    assert (done.returncode, done.stderr) == (0, "")
    works = " ".join(f"linear:n={n},k=128" for n in range(1, 102))
    asked = f"-m membound cuda-build {works} --claim --out {folder}\n"
    assert (tmp_path / "seen").read_text() == asked


def test_without_works_nothing_is_built(tmp_path: Path) -> None:
    done = call(tmp_path, "gpu-cubins", NAMING, COUNT="100")
    assert (done.returncode, done.stderr) == (1, "tests/fakes/gpu_works.py named no works\n")
    assert not (tmp_path / "seen").exists()
