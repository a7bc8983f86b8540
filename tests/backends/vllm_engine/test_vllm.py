"""The real engine in its environment: the same tokens as the reference and as every other backend.

    membound env create vllm && pytest -m vllm

A missing environment is a failure, not a reason to skip: these tests run only where they are asked for.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from membound.bench.environments.build import interpreters, states
from membound.bench.measure.rounds import Pace
from membound.bench.planning.plan import Options, make_plan
from membound.bench.planning.probe import probe
from membound.bench.run.execute import execute
from membound.bench.run.progress import Silent
from membound.kernels import reference
from membound.kernels.export import export_model
from membound.kernels.inputs import ModelInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse
from membound.results.row import Row
from membound.results.store import RunWriter

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SEED = 5
STEP = "step:model=tiny,batch=3,context=37,weight={0},kv={0},cache=prompt"
SPECS = (STEP.format("f32"), STEP.format("bf16"), "prefill:model=tiny,batch=2,tokens=21,weight=f32,kv=f32")
BACKENDS = ("numba:cpu", "vllm:cpu", "vllm:cpu+f32")
PACE = Pace(rounds=2, seconds=1.0, least=2)


@pytest.fixture(scope="session")
def python() -> str:
    """The environment's interpreter."""
    (state,) = [state for state in states() if state.recipe.name == "vllm"]
    if state.problem or not state.made:
        pytest.fail(f"there is no environment to run vLLM in: {state.problem or 'not made'}; {state.remedy}")
    return interpreters()["vllm"]


@pytest.fixture(scope="session")
def rows(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Row]:
    """One run of all backends; a row for each backend and spec."""
    folder = tmp_path_factory.mktemp("run")
    options = Options(
        threads=2,
        replicates=1,
        seed=SEED,
        pace=PACE,
        pythons={"vllm": python},
        ceilings=False,
        quick=True,
        out=folder,
        reference_dir=folder / "reference",
    )
    plan = make_plan(BACKENDS, SPECS, options, 4 << 30)
    with RunWriter(folder / "run.jsonl") as writer:
        done = execute(plan, writer, Silent())
    return {(row.backend, row.work): row for row in done}


def row_of(rows: dict[tuple[str, str], Row], backend: str, spec: str) -> Row:
    return rows[backend, parse(spec).spec]


@pytest.mark.parametrize("spec", SPECS)
def test_the_engine_gives_the_tokens_of_the_reference(rows: dict[tuple[str, str], Row], spec: str) -> None:
    row = row_of(rows, "vllm:cpu", spec)
    assert (row.status, row.reason) == ("ok", "")
    assert row.error is not None
    assert row.tolerance is not None
    assert 0 < row.error <= row.tolerance
    if "f32" in spec:  # bfloat16 may choose otherwise between two tokens that are nearly as likely
        expected = reference.compute(make_inputs(parse(spec), SEED), 0).argmax(-1)
        assert row.config["greedy_tokens"] == expected.tolist()


@pytest.mark.parametrize("spec", SPECS[:2])
def test_the_engine_and_the_kernels_here_choose_alike(rows: dict[tuple[str, str], Row], spec: str) -> None:
    engine, kernels = row_of(rows, "vllm:cpu", spec), row_of(rows, "numba:cpu", spec)
    assert (engine.status, kernels.status) == ("ok", "ok")
    assert (engine.bytes, engine.flops, engine.seed) == (kernels.bytes, kernels.flops, kernels.seed)
    same = np.array(engine.config["greedy_tokens"]) == np.array(kernels.config["greedy_tokens"])
    assert same.all() if "f32" in spec else same.sum() >= 2


def test_what_the_engine_was_set_to_is_in_the_row(rows: dict[tuple[str, str], Row]) -> None:
    row = row_of(rows, "vllm:cpu", SPECS[1])
    launches = 1 + row.launches * len(row.turns)
    assert row.config["weights_stored"] == "bf16"
    assert row.config["dtype_computed"] == "bfloat16"
    assert row.config["eager"] is True
    assert row.config["prefix_cache"] is False
    assert row.config["block_size"] > 0
    assert row.config["context_first"] == 37
    assert row.config["context_last"] >= 37 + launches - 1
    assert row.stored_bytes is None
    assert {"torch", "numpy", "transformers"} <= set(row.versions)
    assert any(name.startswith("vllm") for name in row.versions)


def test_the_wide_variant_is_another_row(rows: dict[tuple[str, str], Row]) -> None:
    row = row_of(rows, "vllm:cpu+f32", SPECS[1])
    assert row.status == "ok"
    assert row.config["dtype_computed"] == "float32"
    assert row.stored_bytes == parse(SPECS[0]).traffic.total_bytes
    narrow = row_of(rows, "vllm:cpu", SPECS[1])
    assert row.error is not None
    assert narrow.error is not None
    assert row.error < narrow.error  # the same weights, summed more exactly
    assert row_of(rows, "vllm:cpu+f32", SPECS[0]).status == "unsupported"


def test_the_engine_is_found_in_its_environment(python: str) -> None:
    found = {device.id: device for device in probe(["vllm"], 2, {"vllm": python})}
    assert set(found) == {"vllm:cpu", "vllm:cpu+f32"}
    assert all(device.available for device in found.values()), found


READ_BY_TRANSFORMERS = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, tokens = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
words = AutoTokenizer.from_pretrained(folder)("</s>'")["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor(tokens)).logits[:, -1]
print(json.dumps({"logits": logits.tolist(), "words": words, "kind": type(model).__name__}))
"""


@pytest.mark.parametrize(("model", "kind"), [("tiny", "LlamaForCausalLM"), ("biased", "Qwen2ForCausalLM")])
def test_another_library_reads_the_exported_folder_as_the_same_model(
    python: str, tmp_path: Path, model: str, kind: str
) -> None:
    inputs = make_inputs(parse("prefill:model=tiny,batch=2,tokens=11,weight=f32,kv=f32"), SEED)
    assert isinstance(inputs, ModelInputs)
    if model == "biased":
        shape = replace(
            inputs.model, tied=False, qkv_bias=True, rope_theta=5e5, rope_scaling=(8.0, 1.0, 4.0, 64.0)
        )
        inputs = replace(inputs, model=shape, source=replace(inputs.source, model=shape))
        assert inputs.tokens is not None
        inputs = replace(inputs, x=inputs.source.embedding(inputs.tokens.reshape(-1)))
    export_model(inputs, tmp_path)
    assert inputs.tokens is not None
    command = [python, "-c", READ_BY_TRANSFORMERS, str(tmp_path), json.dumps(inputs.tokens.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert read["kind"] == kind
    if model == "tiny":  # of a Qwen2 Transformers takes its own tokenizer, whatever the folder holds
        assert read["words"] == [2, 4 + ord("'")]
    assert reference.relative_error(np.array(read["logits"]), reference.compute(inputs, 0)) < 1e-5
