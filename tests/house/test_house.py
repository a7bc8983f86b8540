"""Rules of the house that no linter knows: who may know a backend's name, sizes of files, pins, layout."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sources import parsed

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "backends", "bench", "results")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

MOST_LINES = 400
LONG = {
    "tests/kernels/onnx_file/test_operators.py": "every operator of an ONNX file against a runtime's",
    "tests/kernels/test_reference.py": "every operation of the reference against a second way to compute it",
}
MACHINE_LEVEL = {
    "kernels/cpu/simd/": "vectors, and Intel's matrix tiles",
    "kernels/cuda/ptx.py": "PTX",
    "kernels/cuda/compile.py": "hands numba.cuda's on: it must be imported before anything of numba.cuda",
}
"""The only files and folders that import llvmlite.ir or Numba's `intrinsic`, and for what."""
BOUNDARIES = {
    "backends/serving.py": "an engine of others may fail in any way while it is imported; one line says how",
    "backends/pytorch/rank.py": "a rank may fail in any way; its failure is its answer to the worker",
    "bench/ceilings/backend.py": "a product may fail in any way; the others are measured",
    "bench/ceilings/device.py": "a limit may fail in any way; the others are measured",
    "bench/fleet/node_run.py": "a node may fail in any way; the others are measured",
    "bench/measure/devices.py": "a runtime may fail in any way while it starts; the device is listed as absent",
    "bench/measure/failures.py": "an exception that cannot even be printed is one all the same",
    "bench/measure/station.py": "a runtime's ceilings, and its end, may fail; what was measured before is kept",
    "bench/planning/coverage.py": "a device may fail in any way; the others are asked",
    "bench/worker.py": "a runtime raises classes of its own; the case becomes a row",
    "results/exchange/remote_file.py": "file systems of others raise classes of their own; one line says what they said",
}
"""The only files with `except Exception`, and why."""


def text_files() -> list[Path]:
    """What people and programs read, generated files and rows left out."""
    folders = (*FOLDERS, "docs", "examples", "tests", ".ci", ".github")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [path for path in ROOT.glob("*") if path.suffix in (".toml", ".md", ".txt")]
    found += (ROOT / "src/membound").glob("*.py")
    skipped = {"__pycache__", "published", "runs", "build"}
    return sorted(
        p for p in found if not skipped & {*p.parts} and not re.search(r"\.egg-info|\.pyc$|\.onnx$", str(p))
    )


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_nothing_is_asserted_in_the_package() -> None:
    """`python -O` leaves asserts out: what guards a result raises by itself."""
    files = [*python_files(*FOLDERS), *(ROOT / "src/membound").glob("*.py")]
    asserted = [f"{name_of(path)}:{line}" for path in files for line in parsed(path).asserted]
    assert len(files) > 200
    assert asserted == []


# Backends' names


def backend_names() -> set[str]:
    groups = PROJECT["project"]["entry-points"]
    return {
        entry.partition(".")[0]
        for group in ("membound.backends", "membound.servers")
        for entry in groups[group]
    }


CORE = [*python_files("kernels", "bench", "results"), *sorted((ROOT / "src/membound").glob("*.py"))]


TOOLS = "results/exchange/"
"""Reads what other tools wrote. Some of them are called as a backend is, and their formats are named after them."""


def test_only_backends_know_a_backends_name() -> None:
    """The kernels are Numba's and arrays NumPy's, so these two count only with a device."""
    own = {"numba", "numpy"}
    forbidden = [rf"\b{name}\b" for name in sorted(backend_names() - own)]
    forbidden += [rf"\b{name}:(cpu|cuda)" for name in sorted(backend_names() & own)]
    pattern = re.compile("|".join(forbidden))
    paths = [path for path in CORE if not name_of(path).startswith(TOOLS)]
    words = ((path, line, text) for path in paths for line, text in parsed(path).words)
    assert len(paths) > 400
    assert [f"{name_of(p)}:{line}: {text!r}" for p, line, text in words if pattern.search(text)] == []


def test_the_rule_on_names_sees_what_it_forbids(tmp_path):
    path = tmp_path / "core.py"
    path.write_text('"""torch:cpu in a docstring."""\nif device == "torch:cpu":\n    import torch\n')
    assert {text for _, text in parsed(path).words} == {"device", "torch:cpu", "torch"}


# Sources


def test_no_path_of_a_machine_is_written_down():
    homes = "|".join(("/ho" + "me/", "/ro" + "ot/", "/Us" + "ers/", "/wo" + "rk/", r"[A-Z]:\\\\"))
    for path in text_files():
        found = re.search(rf"(?<![\w.])({homes})", path.read_text())
        assert not found, f"{name_of(path)}: {found and found[0]}"


def test_long_files_are_listed_with_a_reason():
    lines = {name_of(p): len(p.read_text().splitlines()) for p in python_files(*FOLDERS, "tests", "src")}
    long = {name for name, count in lines.items() if count > MOST_LINES}
    assert long - set(LONG) == set(), "split them, or give a reason that a reader would accept"
    assert set(LONG) - long == set(), "no longer long: take them off the list"


def test_tests_stand_in_the_folders_of_what_they_test():
    own = {
        "benchmarks",
        "compare_bars",
        "fakes",
        "fleet_bars",
        "fuzz",
        "gate_bars",
        "house",
        "kill_bars",
        "ptx",
        "ptx/executor",
    }
    rooms = {name_of(path.parent).removeprefix("tests/") for path in python_files("tests")} - own - {"tests"}
    assert {room for room in rooms if not (ROOT / room).is_dir()} == set()
    assert [path.name for path in (ROOT / "tests").glob("*.py")] == ["conftest.py"]
    assert not [name_of(path) for path in python_files("tests/fakes") if path.name.startswith("test_")]


def names_caught(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {"BaseException"}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


def reraises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_every_exception_is_named_but_at_the_boundary_around_runtimes():
    broad = set()
    for path in python_files(*FOLDERS, "src", "examples"):
        for handler in parsed(path).handlers:
            if names_caught(handler) & {"Exception", "BaseException"} and not reraises(handler):
                broad.add(name_of(path))
                assert "boundary" in path.read_text().splitlines()[handler.lineno - 1], path
    assert broad == set(BOUNDARIES)


def imported(path: Path) -> set[str]:
    """Every module and name that a file imports, dotted: ``llvmlite.ir``, ``numba.extending.intrinsic``."""
    found: set[str] = set()
    for node in parsed(path).imports:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_llvm_ir_and_intrinsics_stay_where_they_are_listed():
    low = re.compile(r"llvmlite\.ir\b|numba\..*\bintrinsic$")
    found = {
        name_of(p) for p in python_files(*FOLDERS, "src", "examples") if any(map(low.match, imported(p)))
    }
    listed = {place: {name for name in found if name.startswith(place)} for place in MACHINE_LEVEL}
    assert found == set().union(*listed.values())
    assert all(listed.values()), "no longer there: take them off the list"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("from llvmlite import ir", {"llvmlite.ir"}),
        ("import llvmlite.ir as x", {"llvmlite.ir"}),
        (
            "from numba.extending import intrinsic, models",
            {"numba.extending.intrinsic", "numba.extending.models"},
        ),
        ("from numba import extending", {"numba.extending"}),
    ],
)
def test_imports_are_seen_in_every_form(tmp_path, line, names):
    path = tmp_path / "file.py"
    path.write_text(line)
    assert imported(path) == names


# Layout


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_part_of_the_package_through_a_link(folder):
    link = ROOT / "src/membound" / folder
    assert link.is_symlink()
    assert link.resolve() == (ROOT / folder).resolve()
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_the_suite_says_what_was_skipped():
    options = PROJECT["tool"]["pytest"]["ini_options"]
    assert "-ra" in options["addopts"].split()
    assert options["filterwarnings"] == ["error"]


# Pins and scripts


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    texts = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(len(r.specifier) == 1 and str(r.specifier).startswith("==") for r in texts)
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in texts}


def requirements_of_the_tests() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    for extra in ("torch", "onnx-export", "parquet", "report", "test"):
        texts += extras[extra]
    return [r for r in map(Requirement, texts) if r.name != "membound"]


def test_every_requirement_of_the_tests_is_pinned_to_a_version_that_it_admits():
    pinned = pins()
    for requirement in requirements_of_the_tests():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"


def test_an_extra_that_became_part_of_every_installation_is_still_known():
    core = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    assert {"onnx", "onnxruntime"} <= core
    assert PROJECT["project"]["optional-dependencies"]["onnx"] == []


def test_pins_name_no_host_and_no_build():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|\+| @ ", text)


def test_the_ci_script_is_sound_bash():
    script = ROOT / ".ci/run"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
    assert "set -euo pipefail" in script.read_text()
    assert script.stat().st_mode & 0o111


def test_no_test_has_an_address_in_its_name(request):
    """Processes that share out the tests must find the same names."""
    assert not [
        item.nodeid for item in request.session.items if re.search(r"\bat 0x[0-9a-f]{6}", item.nodeid)
    ]


def test_helpers_of_tests_have_names_of_their_own() -> None:
    """They are imported by name from several folders, so that one would hide the other."""
    folders = PROJECT["tool"]["pytest"]["ini_options"]["pythonpath"]
    names = Counter(path.name for folder in folders for path in (ROOT / folder).glob("*.py"))
    assert not [name for name, count in names.items() if count > 1 and name != "conftest.py"]
