"""What a runtime does not take is `unsupported` with a reason, before or while it prepares; never an error, never wrong."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import folder_of

from membound.backends import registry
from membound.errors import Unsupported
from membound.kernels import reference
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

BACKENDS = ("numba:cpu", "onnxruntime:cpu", "torch:cpu", "numpy:cpu")
NEEDS = {"onnxruntime:cpu": "onnxruntime", "torch:cpu": "torch"}
ATTENTION = "attention:context=33,q_heads=4,kv_heads=2"
LINEAR = "linear:n=5,k=32"
ODD_HEADS = [f"{ATTENTION},head_dim={d},kv={kv}" for d in (8, 24, 65, 100, 264) for kv in ("f32", "f16")]
WORKS = (
    *ODD_HEADS,
    "attention:context=1,q_heads=71,kv_heads=1,head_dim=64,kv=f32,batch=3",
    "attention:context=33,q_heads=9,kv_heads=3,head_dim=64,kv=bf16",
    *(f"{LINEAR},m={m},weight={w}" for m in (1, 65) for w in ("f32", "bf16", "f16", "int8", "int4g32")),
    *(f"{LINEAR},m=2,weight={w},act=int8" for w in ("int8", "int4g32")),
)
COMPILED = "numba:cpu"
LEFT_OUT = [
    *ODD_HEADS[1::4],
    *ODD_HEADS[2::4],
    *(f"{LINEAR},m=65,weight={weight}" for weight in ("bf16", "f16", "int8")),
]
"""Of its kernels, which take seconds each to compile: each size of heads in one of the two formats, and 65 rows in those
that test_linear.py has with 17 to 100."""
HEADS = {
    "8": {"head_dim": 8},
    "24": {"head_dim": 24, "model_type": "qwen3"},
    "100": {"head_dim": 100, "num_attention_heads": 2, "num_key_value_heads": 1},
    "2": {"head_dim": 2, "num_attention_heads": 3, "num_key_value_heads": 3},
    "264": {"head_dim": 264, "num_attention_heads": 1, "num_key_value_heads": 1},
}


@pytest.fixture(params=[pytest.param(b, marks=[pytest.mark.slow] * (b == COMPILED)) for b in BACKENDS])
def name(request):
    return request.param


@pytest.fixture
def backend(name):
    pytest.importorskip(NEEDS.get(name, "numpy"))
    one = registry.create(name)
    one.open("cpu", 1)
    yield one
    one.close()


def outcome(backend, spec):
    """The reason why not, or "ok" after a right launch; whatever else is raised is a fault."""
    work = parse(spec)
    if (reason := backend.supports(work)) is not None:
        return reason
    inputs = make_inputs(work, 1, 2 if work.kind in ("linear", "attention") else 1)
    try:
        backend.prepare(work, inputs)
        backend.launch(0)
    except Unsupported as error:
        return str(error)
    output = np.asarray(backend.output())
    assert reference.relative_error(output, reference.compute(inputs, 0)) <= reference.tolerance(work), spec
    return "ok"


def test_single_operations_of_odd_shapes_run_or_have_a_reason(backend, name):
    for spec in WORKS:
        if name == COMPILED and spec in LEFT_OUT:
            continue
        assert outcome(backend, spec), spec


@pytest.mark.parametrize("heads", HEADS)
def test_models_with_odd_heads_run_or_have_a_reason(backend, name, tmp_path, heads):
    folder = folder_of(tmp_path, num_hidden_layers=1, **HEADS[heads])
    for spec, format_of_one in (
        ("step:model={},context=9,batch=2", "f32"),
        ("prefill:model={},tokens=5", "f16"),
    ):
        for fmt in [format_of_one] if name == COMPILED else ["f32", "f16"]:
            assert outcome(backend, f"{spec.format(folder)},weight={fmt},kv={fmt}")


@pytest.mark.parametrize(
    ("dim", "reason"),
    [
        (100, "GroupQueryAttention takes heads of a multiple of 8, not 100"),
        (65, "GroupQueryAttention takes heads of a multiple of 8, not 65"),
        (8, "ok"),
    ],
)
def test_onnx_runtime_says_which_heads_it_takes(dim, reason):
    pytest.importorskip("onnxruntime")
    one = registry.create("onnxruntime:cpu")
    one.open("cpu", 1)
    assert outcome(one, f"{ATTENTION},head_dim={dim},kv=f32") == reason
    one.close()


def test_a_limit_that_shows_only_in_the_first_launch_is_a_reason_too(monkeypatch):
    """GroupQueryAttention builds a session for heads of 100 and fails when it runs."""
    pytest.importorskip("onnxruntime")
    one = registry.create("onnxruntime:cpu")
    one.open("cpu", 1)
    monkeypatch.setattr(one, "supports", lambda work: None)
    assert outcome(one, f"{ATTENTION},head_dim=100,kv=f32").startswith("ONNX Runtime refuses the graph: ")
    one.close()
