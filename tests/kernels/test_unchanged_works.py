"""Works of earlier versions: their text, bytes, FLOPs, random bits and reference values are what they were.

Stored by ``python tests/kernels/test_unchanged_works.py`` when models were flat records, before they became layers of parts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from membound.kernels.models import MODELS
from membound.kernels.reference import compute
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

DATA = Path(__file__).parent / "data/unchanged_works.json"
COUNTED = [
    f"{kind}:model={name},{rest}"
    for name in MODELS
    for kind, rest in (
        ("step", "batch=3,context=1000,weight=bf16,kv=bf16"),
        ("step", "context=77,weight=int8,kv=int8,act=int8,layers=1"),
        ("prefill", "batch=2,tokens=65,weight=f16,kv=f32"),
    )
]
COMPUTED = [
    "step:model=tiny,batch=2,context=33,weight=f32,kv=f32",
    "step:model=tiny,batch=2,context=33,weight=bf16,kv=bf16,layers=1",
    "step:model=tiny,context=9,weight=int4g32,kv=int8,act=int8",
    "step:model=tiny,context=12,weight=f32,kv=f16,cache=prompt",
    "prefill:model=tiny,batch=2,tokens=9,weight=f16,kv=bf16",
    "step:model=qwen2.5-0.5b,context=8,weight=bf16,kv=bf16,layers=1",
]


def counted(spec: str) -> dict[str, Any]:
    """What a work is: its text, its bytes by kind, its FLOPs and its bill."""
    work: Any = parse(spec)
    bill = [[one.name, one.count, one.traffic.total_bytes, one.flops] for one in work.operations]
    return {"spec": work.spec, "traffic": asdict(work.traffic), "flops": work.flops, "bill": bill}


def computed(spec: str) -> dict[str, Any]:
    """A hash of all that a work runs on, and three numbers of what comes out."""
    inputs: Any = make_inputs(parse(spec), seed=11)
    digest = hashlib.sha256(inputs.x.tobytes())
    for index in range(inputs.model.layers):
        layer = inputs.layer(index)
        for weight in layer.matrices.values():
            digest.update(weight.values.tobytes())
        for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm", "q_bias", "k_bias", "v_bias"):
            values = getattr(layer, name)
            digest.update(b"" if values is None else values.tobytes())
        if (
            spec.startswith("step") and inputs.prompt_caches is None
        ):  # a prompt's cache rests on the sums of a BLAS
            digest.update(inputs.cache(index).k.tobytes() + inputs.cache(index).v.tobytes())
    digest.update(inputs.final_norm().tobytes() + inputs.lm_head().values.tobytes())
    y = compute(inputs, 0)
    return {"bits": digest.hexdigest(), "y": [float(y[0, 0]), float(y.sum()), float(np.linalg.norm(y))]}


STORED = json.loads(DATA.read_text("utf-8")) if DATA.exists() else {}


@pytest.mark.parametrize("spec", COUNTED)
def test_text_bytes_and_flops_are_what_they_were(spec: str) -> None:
    assert counted(spec) == STORED[spec]


@pytest.mark.parametrize(
    "spec",
    [pytest.param(spec, marks=[pytest.mark.slow] if "qwen" in spec else []) for spec in COMPUTED],
)
def test_bits_and_reference_values_are_what_they_were(spec: str) -> None:
    now, then = computed(spec), STORED[spec]
    assert now["bits"] == then["bits"]
    assert now["y"] == pytest.approx(then["y"], rel=1e-9)


if __name__ == "__main__":
    made = {spec: counted(spec) for spec in COUNTED} | {spec: computed(spec) for spec in COMPUTED}
    DATA.write_text(json.dumps(made, indent=0, sort_keys=True) + "\n", "utf-8")
