"""The plugin of examples/llamacpp: the real engine, installed as a user would, against the float64 reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CONFIG, tensors_of
from plugins import installed, membound
from safetensors.numpy import save_file

from membound.kernels.models import get_model
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import dequantize
from membound.kernels.work import parse

PLUGIN = Path(__file__).parents[2] / "examples/llamacpp"
MISSING = [name for name in ("xllamacpp", "gguf") if find_spec(name) is None]
STEP = "step:model=tiny,context={context},weight={weight},kv={kv},cache=prompt"

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' and '.join(MISSING)}: pip install -c constraints.txt ./examples/llamacpp"
)


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    """A model folder whose RoPE is scaled so much that a wrong one shows at once."""
    folder = tmp_path_factory.mktemp("model")
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": "llama", "rope_scaling": scaling}))
    save_file(tensors_of(get_model(str(folder))), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory, llama3):
    """One run of the engine over everything, by work."""
    folder = tmp_path_factory.mktemp("llamacpp")
    works = [
        STEP.format(context=70, weight="f32", kv="f32"),
        STEP.format(context=33, weight="bf16", kv="f16"),
        STEP.format(context=29, weight="q4_k", kv="f16") + ",act=int8",
        "prefill:model=tiny,tokens=20,weight=f16,kv=bf16",
        f"step:model={llama3},context=41,weight=f32,kv=f32,cache=prompt",
        "step:model=tiny,context=16",
        "step:model=tiny,context=16,batch=2,cache=prompt",
        "step:model=tiny,context=16,weight=int8,cache=prompt",
        "linear:n=32,k=32",
    ]
    options = ("--quick", "--no-ceilings", "--threads", "1", "--seed", "3", "--json")
    done = membound(installed(PLUGIN, folder), folder, "run", *works, "--backends", "llamacpp:cpu", *options)
    assert done.returncode == 0, done.stderr
    return {row["work"]: row for row in json.loads(done.stdout)}


def one(rows, *parts):
    (row,) = (row for work, row in rows.items() if all(part in work for part in parts))
    return row


@pytest.mark.parametrize(
    ("parts", "largest"),
    [
        (["context=70"], 1e-6),
        (["context=33"], 0.01),
        (["context=29"], 0.05),
        (["prefill"], 0.01),
        (["context=41"], 1e-6),
    ],
    ids=["step f32", "step bf16 over f16", "step q4_k over f16", "prompt f16 over bf16", "scaled RoPE"],
)
def test_the_engine_chooses_the_tokens_of_the_reference(rows, parts, largest):
    row = one(rows, *parts)
    assert row["status"] == "ok", row["reason"]
    assert 0 < row["error"] < min(largest, row["tolerance"])
    assert row["time_s"] > 0


def test_its_file_has_the_matrices_of_the_work_in_super_blocks(tmp_path):
    from gguf import GGMLQuantizationType, GGUFReader, quants

    from membound.backends.llamacpp.gguf_file import write_gguf

    inputs = make_inputs(parse(STEP.format(context=9, weight="q4_k", kv="f16") + ",act=int8"), 1)
    path = write_gguf(tmp_path / "model.gguf", inputs, 64)
    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    kinds = {name: tensor.tensor_type.name for name, tensor in found.items()}
    assert (kinds["token_embd.weight"], kinds["output_norm.weight"]) == ("F32", "F32")
    assert {kind for name, kind in kinds.items() if name.startswith("blk") and "norm" not in name} == {"Q4_K"}
    layer = inputs.layer(1).matrices
    for name, weight in (
        ("output", inputs.lm_head()),
        ("blk.1.attn_v", layer["v"]),
        ("blk.1.ffn_down", layer["down"]),
    ):
        meant = quants.dequantize(found[f"{name}.weight"].data, GGMLQuantizationType.Q4_K)
        assert np.allclose(meant, dequantize(weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (["context=16", "bf16,kv=bf16,act=float"], "ask for cache=prompt"),
        (["batch=2"], "requests of one sequence only"),
        (["weight=int8"], "weight must be one of f32, f16, bf16, q8_0, q4_0, q4_k"),
        (["linear"], "whole steps and prompts only"),
    ],
)
def test_what_it_cannot_do_is_told(rows, parts, reason):
    found = [r for w, r in rows.items() if all(part in w for part in parts) and r["status"] == "unsupported"]
    assert any(reason in row["reason"] for row in found), found


COUNTED = """
import sys
sys.path.insert(0, sys.argv[1])
from membound_llamacpp import LlamaCpp
from membound.errors import BackendUnavailable
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

backend, work = LlamaCpp(), parse(sys.argv[2])
backend.open("cpu", 2)
try:
    backend.prepare(work, make_inputs(work, 1))
except BackendUnavailable as error:
    print(error.reason)
else:
    print("all")
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU has no second thread")
@pytest.mark.parametrize(("limit", "words"), [("", "all"), ("1", "llama.cpp works with 1 of 2 threads here")])
def test_threads_that_openmp_keeps_back_are_missed(limit, words):
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(PLUGIN), STEP.format(context=24, weight="f32", kv="f32")],
        env={name: value for name, value in os.environ.items() if name != "OMP_THREAD_LIMIT"}
        | ({"OMP_THREAD_LIMIT": limit} if limit else {}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stdout.strip()) == (0, words), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["f32", "f16"])
def test_its_tokens_are_those_of_the_kernels(tmp_path, kv):
    """float16 is the cache that llama.cpp keeps unless told otherwise."""
    work = STEP.format(context=24, weight=kv, kv=kv)
    options = ("--quick", "--no-ceilings", "--threads", "1", "--out", str(tmp_path))
    names = "llamacpp:cpu,numba:cpu"
    done = membound(installed(PLUGIN, tmp_path), tmp_path, "run", work, "--backends", names, *options)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.jsonl")
    stored = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["status"] for row in stored} == {"ok"}
    tokens = {row["backend"]: row["config"]["greedy_tokens"] for row in stored}
    assert tokens["llamacpp:cpu"] == tokens["numba:cpu"]
