"""The stored cases of tests/fakes/transformers_cases.py: as folders, and as inputs of a work over their tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from named_tensors import named_tensor
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
    return family.mixture is None and not family.latent


def numbers(case: dict[str, Any]) -> dict[str, F32]:
    plus = 1.0 if case["config"]["model_type"].startswith("gemma") else 0.0
    return {name: named_tensor(name, tuple(shape), plus) for name, shape in case["tensors"].items()}


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
