"""The stored cases of tests/fakes/transformers_cases.py: as folders, and as inputs of a work over their tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from named_tensors import named_tensor, plus_of
from safetensors.numpy import save_file

from membound.kernels.families import FAMILIES
from membound.kernels.inputs import ModelInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import F32
from membound.kernels.work import parse

DATA = Path(__file__).parents[1] / "kernels/data/forward.jsonl"
CASES = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
"""Made by tests/fakes/transformers_cases.py."""


def dense(case: dict[str, Any]) -> bool:
    family = FAMILIES[case["config"]["model_type"]]
    return family.mixture is None and not family.latent and family.state is None and family.layers is None


def holds_states(case: dict[str, Any]) -> bool:
    """Of a family some of whose layers are recurrent."""
    family = FAMILIES[case["config"]["model_type"]]
    return family.state is not None or (family.layers is not None and not has_wide_heads(case))


def has_wide_heads(case: dict[str, Any]) -> bool:
    """Of Gemma 4, whose layers that see all have wider heads."""
    return case["config"]["model_type"] == "gemma4_text"


def numbers(case: dict[str, Any]) -> dict[str, F32]:
    kind = case["config"]["model_type"]
    return {
        name: named_tensor(name, tuple(shape), plus_of(kind, name)) for name, shape in case["tensors"].items()
    }


def folder_of(case: dict[str, Any], path: Path) -> str:
    (path / "config.json").write_text(json.dumps(case["config"]), "utf-8")
    save_file(numbers(case), path / "model.safetensors")
    return str(path)


def inputs_of(spec: str, case: dict[str, Any]) -> ModelInputs:
    """Of a step or a prompt over the tokens of the case."""
    inputs = make_inputs(parse(spec), seed=1)
    assert isinstance(inputs, ModelInputs)
    tokens = np.array([case["tokens"]])
    fed = tokens if spec.startswith("prefill") else tokens[:, -1]
    return replace(inputs, tokens=tokens, x=inputs.embedded(fed))


def published(case: dict[str, Any]) -> dict[str, F32]:
    """The numbers of a case with experts under the names of published files; Transformers' own modules stack experts."""
    tensors: dict[str, F32] = {}
    for name, values in numbers(case).items():
        tensors |= _as_published(case["config"]["model_type"], name, values)
    return tensors


def _as_published(kind: str, name: str, values: F32) -> dict[str, F32]:
    layer, _, part = name.partition(".experts.")
    if kind == "nemotron_h":
        inner = layer.replace("model.", "backbone.", 1)
        if not part:
            return {inner: values}
        return {f"{inner}.experts.{n}.{part}.weight": np.ascontiguousarray(v) for n, v in enumerate(values)}
    if kind in ("mixtral", "minimax_m2"):
        layer, name = (text.replace(".mlp", ".block_sparse_moe") for text in (layer, name))
    if kind in ("granitemoe", "granitemoehybrid", "granitemoeshared"):
        names = {"gate_up_proj": "input_linear", "down_proj": "output_linear"}
        return {f"{layer}.{names[part]}.weight" if part else name.replace("router", "router.layer"): values}
    if not part or kind in ("gemma4_text", "gpt_oss", "llama4_text"):
        return {name: values}
    gate, up, down = (
        ("w1", "w3", "w2") if kind in ("mixtral", "minimax_m2") else ("gate_proj", "up_proj", "down_proj")
    )
    apart: dict[str, F32] = {}
    for number, one in enumerate(values):
        of = f"{layer}.experts.{number}."
        if part == "down_proj":
            apart[f"{of}{down}.weight"] = one
        else:
            apart[f"{of}{gate}.weight"], apart[f"{of}{up}.weight"] = np.split(one, 2)
    return {name: np.ascontiguousarray(one) for name, one in apart.items()}


def routed_folder(case: dict[str, Any], path: Path, edit: Any = None) -> str:
    """A folder as models with experts are published; `edit` changes its tensors in place."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(case["config"]), "utf-8")
    tensors = published(case)
    if edit:
        edit(tensors)
    save_file(tensors, path / "model.safetensors")
    return str(path)
