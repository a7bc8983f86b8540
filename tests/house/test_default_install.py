"""What `pip install .` alone gives: with all other packages out of reach, three backends that meet in the suite."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from membound.bench.planning.suites import DEFAULT_WORKS, QUICK_WORKS
from membound.kernels.work import parse

ROOT = Path(__file__).parents[2]
BACKENDS = ("numba:cpu", "numpy:cpu", "onnxruntime:cpu")
MEASURED = (
    "linear:n=37,k=129,m=3,weight=f32",
    "attention:batch=2,q_heads=6,kv_heads=2,head_dim=40,context=33,kv=f32",
    "attention:batch=2,q_heads=6,kv_heads=2,head_dim=40,context=33,kv=f16",
    "step:model=tiny,batch=3,context=21,weight=f32,kv=f32",
    "step:model=tiny,batch=3,context=21,weight=int8,act=int8,kv=f32",
    "step:model=tiny,batch=3,context=21,weight=int4g32,act=int8,kv=f16",
    "step:model=tiny,batch=2,context=7,weight=f32,kv=f32,cache=prompt",
    "prefill:model=tiny,batch=2,tokens=11,weight=int4g32,kv=f32",
)

CHILD = """
import json, sys
asked = json.load(sys.stdin)
sys.modules |= dict.fromkeys(asked["hidden"])  # None: to import and to find_spec they are not installed
from membound.errors import BackendUnavailable
from membound.backends.registry import create, device_of, load
from membound.kernels.seeded import make_inputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.work import parse

def opened(name):
    backend = create(name)
    backend.open(device_of(name), 1)
    return backend

def share_of_the_tolerance(backend, work):
    inputs = make_inputs(work, asked["seed"])
    backend.prepare(work, inputs)
    backend.launch(0)
    backend.sync()
    error = relative_error(backend.output(), compute(inputs, 0))
    backend.close()
    return error / tolerance(work)

def refusal(name):
    try:
        opened(name)
    except BackendUnavailable as error:
        return error.reason, error.remedy

backends = {name: opened(name) for name in asked["backends"]}
onnx = backends["onnxruntime:cpu"]
print(json.dumps({
    "reasons": {w: {n: b.supports(parse(w)) for n, b in backends.items()} for w in asked["suite"]},
    "shares": {w: share_of_the_tolerance(onnx, parse(w)) for w in asked["measured"]},
    "devices": load("onnxruntime").devices(),
    "export": refusal("onnxruntime:cpu+export"),
    "torch": refusal("torch:cpu"),
    "loaded": [name for name, module in sys.modules.items() if name.startswith("torch") and module],
}))
"""


@cache
def others() -> list[str]:
    """Top-level modules of installed packages that the project's dependencies do not bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought, new = {"membound"}, list(map(Requirement, project["dependencies"]))
    while new:
        requirement = new.pop()
        name = canonicalize_name(requirement.name)
        if name not in brought and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            brought.add(name)
            new += map(Requirement, distribution(name).requires or ())
    owners = {
        module: set(map(canonicalize_name, names)) for module, names in packages_distributions().items()
    }
    return sorted(module for module, names in owners.items() if not names & brought)


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a process says that has the project's own dependencies and nothing else."""
    suite = (*DEFAULT_WORKS, *QUICK_WORKS)
    asked = {"backends": BACKENDS, "suite": suite, "measured": MEASURED, "seed": 17, "hidden": others()}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(asked), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_torch_was_out_of_reach(told: dict[str, Any]) -> None:
    assert {"torch", "onnxscript"} <= set(others())
    assert not {"numba", "numpy", "onnx", "onnxruntime", "google"} & set(others())
    assert told["loaded"] == []
    assert "torch" in told["torch"][0]


@pytest.mark.parametrize("spec", MEASURED)
def test_onnx_runtime_is_right_without_torch(told: dict[str, Any], spec: str) -> None:
    assert told["shares"][spec] < 1


@pytest.mark.parametrize("suite", [DEFAULT_WORKS, QUICK_WORKS], ids=["default", "quick"])
def test_backends_meet_on_a_product_and_on_a_step(told: dict[str, Any], suite: tuple[str, ...]) -> None:
    able = {w: {name for name, reason in told["reasons"][w].items() if reason is None} for w in suite}
    for kind in ("linear", "step"):
        together = [able[w] for w in suite if parse(w).kind == kind]
        assert any({"numba:cpu", "onnxruntime:cpu"} <= names for names in together)


def test_all_three_meet_in_the_default_suite(told: dict[str, Any]) -> None:
    reasons = [told["reasons"][w] for w in DEFAULT_WORKS]
    assert any(all(reason is None for reason in one.values()) for one in reasons)


def test_exporting_is_not_offered_and_says_what_it_needs(told: dict[str, Any]) -> None:
    assert told["devices"][0] == "cpu"
    assert not [name for name in told["devices"] if "+" in name]
    assert told["export"] == [
        "exporting a model needs torch, onnxscript",
        'pip install "membound[onnx-export]"',
    ]
