"""What CI and `env create` install has the versions of constraints.txt, and no file without a hash."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from membound.bench.environments import build

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
ENTRY = re.compile(r"^(?P<pin>[a-z0-9].*?)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def entries(path: Path) -> dict[str, list[str]]:
    """From pin to hashes, of a lock alone."""
    found = ENTRY.finditer(path.read_text(encoding="utf-8"))
    return {one["pin"]: re.findall(r"sha256:(\S+)", one["hashes"]) for one in found}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in pins}


@pytest.mark.parametrize("path", [*LOCKS, build.UV], ids=lambda path: path.stem)
def test_nothing_stands_in_a_lock_without_a_hash(path):
    others = ENTRY.sub("", path.read_text()).split("\n")
    assert entries(path)
    assert not [line for line in others if line and not line.startswith("#") and line != "-r default.txt"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_versions_are_those_of_the_constraints(path):
    known = constraints()
    pins = [Requirement(pin) for pin in entries(path)]
    told = {r.name: str(r.specifier).removeprefix("==") for r in pins}
    assert {name: version for name, version in told.items() if known.get(name, version) != version} == {}
    # what people get by `pip install -c constraints.txt` is pinned there too; torch's own CUDA is torch's to pin
    unknown = {r.name for r in pins if r.name not in known and (r.marker is None or r.marker.evaluate())}
    assert unknown == set() or path.stem == "torch-cuda"


def test_ray_takes_no_lock_but_its_own_and_those_of_the_tests():
    """What ray[client] 2.60 requires, and requests in turn."""
    needed = {
        "click",
        "filelock",
        "grpcio",
        "jsonschema",
        "msgpack",
        "packaging",
        "protobuf",
        "pyyaml",
        "requests",
    }
    needed |= {"certifi", "charset-normalizer", "idna", "urllib3"}
    locks = [entries(ROOT / f"locks/{name}.txt") for name in ("default", "test", "ray")]
    assert needed <= {canonicalize_name(Requirement(pin).name) for lock in locks for pin in lock}


def test_torch_may_come_from_an_index_with_cuda_or_without():
    pinned = next(
        hashes for pin, hashes in entries(ROOT / "locks/test.txt").items() if pin.startswith("torch==")
    )
    lines = (ROOT / ".ci/torch-cpu.txt").read_text().splitlines()
    ours = {line.split()[0]: line.split()[1] for line in lines if not line.startswith("#")}
    version = constraints()["torch"]
    assert set(ours) < set(pinned)
    assert all(name.startswith(f"torch-{version}+cpu-cp3") for name in ours.values())
    tags = {tuple(name.removesuffix(".whl").split("-")[2:]) for name in ours.values()}
    assert {(python, machine.rpartition("_2_28_")[2]) for python, _, machine in tags} == {
        (f"cp3{minor}", machine) for minor in range(11, 15) for machine in ("x86_64", "aarch64")
    }


def test_a_file_of_another_hash_is_refused(tmp_path):
    """pip, asked as CI asks it, for a package whose lock names another file."""
    wheel = tmp_path / "idna-3.20-py3-none-any.whl"
    wheel.write_bytes(b"planted")
    lock = tmp_path / "lock.txt"
    lock.write_text("idna==3.20 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path)]
    asked = [*pip, *build.HASHED, "--target", str(tmp_path / "there"), "-r", str(lock)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "there").exists()


def test_ci_and_env_create_ask_for_hashes():
    assert 'pip install --require-hashes --no-deps -r "$locks/$1.txt"' in (ROOT / ".ci/locked").read_text()
    script = (ROOT / ".ci/run").read_text()
    assert re.findall(r"^ *bash \.ci/locked (\S+)$", script, re.M) == [
        "test",
        "cuda-compile",
        "browser",
        "llamacpp",
        "ray",
        "default",
    ]
    installs = [line for line in script.splitlines() if "pip install" in line]
    assert all("--no-index" in line for line in installs)
    assert build.HASHED == ("--require-hashes", "--no-deps")
