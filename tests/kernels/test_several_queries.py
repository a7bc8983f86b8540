"""Steps of several new tokens a sequence: the reference, the bill, and the CPU's kernels."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from beyond_llama import BEYOND, windowed_models
from routed_models import routed_models

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels import models
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.steps import Step
from membound.kernels.work import SpecError, parse

__all__ = ["routed_models", "windowed_models"]
F32 = "weight=f32,kv=f32"


def logits(spec: str) -> Any:
    return compute(make_inputs(parse(spec), seed=5), 0)


@pytest.mark.parametrize("bend", ["", "window", "chunk", "sinks"])
def test_several_queries_are_the_steps_that_would_follow_each_other(
    bend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "tiny"
    if bend:
        model = "bent"
        monkeypatch.setitem(models.MODELS, model, BEYOND[bend])
    several = logits(f"step:model={model},context=14,queries=4,cache=prompt,{F32}")
    each = [logits(f"step:model={model},context={14 + i},cache=prompt,{F32}")[0] for i in range(4)]
    # the first tokens of 14 and of 17 seeded ones are the same, and so are those that are fed
    np.testing.assert_allclose(several, np.stack(each), rtol=0, atol=2e-5)


@pytest.mark.usefixtures("routed_models")
@pytest.mark.parametrize("model", ["tiny", "tiny-gpt-oss", "tiny-lite"])
def test_a_query_sees_no_token_behind_its_own(model: str) -> None:
    inputs = make_inputs(parse(f"step:model={model},batch=2,context=6,queries=3,{F32}"), seed=5)
    before = compute(inputs, 0)
    inputs.x[2] += 1  # type: ignore[union-attr]  # the first sequence's last token
    after = compute(inputs, 0)
    same = np.isclose(before, after, rtol=0, atol=1e-12).all(1)
    assert same.tolist() == [True, True, False, True, True, True]


def test_the_bill_of_verifying_four_tokens() -> None:
    """Of grouped attention: the cache is read once for all queries, products take a row each."""
    one, four = (parse(f"step:model=llama-3-8b,context=8192,queries={s}") for s in (1, 4))
    (attention,) = (o for o in four.operations if o.name == "attention")
    assert attention.count == 32
    assert attention.traffic.kv_read_bytes == 33_554_432
    assert attention.flops == 537_034_752
    (append,) = (o for o in four.operations if o.name == "cache append")
    assert append.traffic.kv_written_bytes == 4 * 2 * 8 * 128 * 2
    assert four.traffic.weights_bytes == one.traffic.weights_bytes
    (head,) = (o for o in four.operations if o.name == "lm_head")
    assert head.flops == 2 * 4 * 128256 * 4096


def test_a_window_reads_what_its_first_query_sees() -> None:
    work = parse("step:model=gpt-oss-20b,context=1000,queries=3,layers=2,weight=mxfp4")
    windowed, full = (o for o in work.operations if o.name.startswith("attention"))
    if windowed.name == "attention":
        windowed, full = full, windowed
    token = 2 * 8 * 64 * 2
    assert windowed.traffic.kv_read_bytes == 127 * token
    assert windowed.flops == 4 * 64 * 64 * (3 * 128)
    assert full.traffic.kv_read_bytes == 1000 * token
    assert full.flops == 4 * 64 * 64 * (1001 + 1002 + 1003)


def test_latent_attention_and_experts_of_several_queries() -> None:
    work = parse("step:model=deepseek-v2-lite,layers=2,context=100,queries=4,batch=2,weight=bf16,kv=bf16")
    (attention,) = (o for o in work.operations if o.name == "attention")
    assert attention.traffic.kv_read_bytes == 2 * 100 * 576 * 2
    assert attention.flops == 2 * 2 * 16 * (101 + 102 + 103 + 104) * (576 + 512)
    assert work.distinct == parse("step:model=deepseek-v2-lite,layers=2,batch=8").distinct == 35


def test_the_spec_leaves_one_query_out() -> None:
    assert "queries" not in parse("step:model=tiny,queries=1").spec
    several = parse("step:queries=3,model=tiny,batch=2")
    assert several.spec == "step:model=tiny,batch=2,context=1024,weight=bf16,kv=bf16,act=float,queries=3"
    assert parse(several.spec) == several


@pytest.mark.parametrize("queries", ["0", "2000000000"])
def test_a_number_of_queries_that_is_none(queries: str) -> None:
    with pytest.raises(SpecError, match="queries"):
        parse(f"step:model=tiny,queries={queries},batch=2")


@pytest.mark.parametrize("model", ["qwen3.5-9b", "nemotron-h-8b"])
def test_states_take_one_token_at_a_time(model: str) -> None:
    with pytest.raises(SpecError, match=f"queries=2 goes with caches .*; {model} has states"):
        parse(f"step:model={model},queries=2")


def numba_error(spec: str) -> float:
    work, backend = parse(spec), NumbaCpu()
    inputs = make_inputs(work, seed=7)
    backend.open("cpu", 2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):  # the second finds what the first has written
        backend.launch(0)
    return relative_error(backend.output(), compute(inputs, 0))


@pytest.mark.slow
@pytest.mark.usefixtures("routed_models")
@pytest.mark.parametrize(
    "spec",
    [
        f"step:model=tiny,batch=3,context=13,queries=3,{F32}",
        f"step:model=tiny,context=1,queries=5,cache=prompt,{F32}",
        f"step:model=tiny-lite,batch=3,context=13,queries=3,{F32}",
        f"step:model=tiny-qwen,context=7,queries=3,cache=prompt,{F32}",
    ],
)
def test_the_kernels_in_float32(spec: str) -> None:
    assert numba_error(spec) < 2e-5


@pytest.mark.slow
def test_the_kernels_over_a_rounded_cache() -> None:
    spec = "step:model=tiny,batch=2,context=33,queries=3,weight=int8,kv=bf16,act=int8"
    assert numba_error(spec) < tolerance(parse(spec))


SHAPES = ((2, 4), (4, 2), (8, 1))
"""(queries, batch), which one kernel takes."""


@pytest.mark.slow
@pytest.mark.instruction_set
@pytest.mark.parametrize("bend", ["window", "chunk", "softcap", "sinks", "scale"])
def test_what_bounds_each_query(bend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 9 tokens and chunks of 16, before, at and behind their ends."""
    monkeypatch.setitem(models.MODELS, "bent", BEYOND[bend])
    for queries, batch in SHAPES:
        for context in (1, 6, 8, 9, 10, 14, 16, 37):
            spec = f"step:model=bent,batch={batch},context={context},queries={queries},{F32}"
            assert numba_error(spec) < 2e-5, spec


@pytest.mark.slow
@pytest.mark.usefixtures("routed_models", "windowed_models")
@pytest.mark.parametrize(
    "model", ["tiny-gemma-2", "tiny-gemma-3", "tiny-mistral", "tiny-gpt-oss", "tiny-on-input"]
)
def test_families_with_bounds(model: str) -> None:
    for queries, batch in SHAPES:
        for context in (3, 8, 9, 37):
            spec = f"step:model={model},batch={batch},context={context},queries={queries},{F32}"
            assert numba_error(spec) < 2e-5, spec


@pytest.mark.slow
@pytest.mark.usefixtures("routed_models", "windowed_models")
@pytest.mark.parametrize("kv", ["bf16", "f16", "int8"])
@pytest.mark.parametrize("model", ["tiny-gemma-2", "tiny-gpt-oss"])
def test_bounds_over_a_rounded_cache(model: str, kv: str) -> None:
    for context in (3, 9, 37):
        spec = f"step:model={model},context={context},queries=3,weight=bf16,kv={kv}"
        assert numba_error(spec) < tolerance(parse(spec)), spec


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("step:model=tiny,batch=33,queries=2", "up to 64 rows, not 66"),
        ("step:model=gemma-2-2b,context=13,queries=65", "up to 64 rows, not 65"),
    ],
)
def test_what_the_kernels_refuse(spec: str, reason: str) -> None:
    work = parse(spec)
    assert isinstance(work, Step)
    refusal = NumbaCpu().supports(work)
    assert refusal is not None
    assert re.search(reason, refusal)
