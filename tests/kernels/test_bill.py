"""Bytes and FLOPs of models with experts and latent attention: worked examples."""

from __future__ import annotations

import pytest
from routed_models import routed_models

from membound.kernels.work import SpecError, parse

__all__ = ["routed_models"]


def line(spec: str, name: str) -> tuple[int, int, int]:
    """(count, bytes of weights, FLOPs) of a line of a bill."""
    (one,) = (o for o in parse(spec).operations if o.name == name)
    return one.count, one.traffic.weights_bytes, one.flops


def test_experts_of_qwen3() -> None:
    router = 128 * 2048
    assert line("step:model=qwen3-30b-a3b,layers=2", "experts") == (
        2,
        8 * 9_437_184 + 4 * router,
        75_497_472 + 2 * router,
    )
    assert line("step:model=qwen3-30b-a3b,layers=2,batch=8", "experts")[1] == 52 * 9_437_184 + 4 * router
    assert (
        line("step:model=qwen3-30b-a3b,layers=2,batch=8,distinct=8", "experts")[1]
        == 8 * 9_437_184 + 4 * router
    )


def test_an_expert_of_gpt_oss_has_biases_beside_it() -> None:
    work = parse("step:model=gpt-oss-20b,weight=mxfp4,layers=2")
    (one,) = (o for o in work.operations if o.name == "experts")
    numbers = 3 * 2880 * 2880
    assert one.traffic.weights_bytes == 4 * (numbers // 2 + 4 * 3 * 2880) + 4 * 32 * 2880
    assert one.traffic.scales_bytes == 4 * numbers // 32


def test_latent_attention_of_deepseek_v3() -> None:
    spec = "step:model=deepseek-v3,layers=4,context=8192"
    (one,) = (o for o in parse(spec).operations if o.name == "attention")
    assert (one.count, one.traffic.kv_read_bytes, one.flops) == (4, 9_437_184, 2_281_979_904)
    assert line(spec, "kv_up")[1:] == (2 * 16_777_216, 2 * 16_777_216)
    assert line(spec, "gate")[0] == 3
    assert line(spec, "shared.gate")[0] == 1
    assert line(spec, "shared.gate")[1] * 3 == 2 * 44_040_192


def test_bytes_are_those_of_the_model_s_parts() -> None:
    for name in ("qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite"):
        work = parse(f"step:model={name},batch=1")
        matrices = sum(o.count * o.traffic.weights_bytes for o in work.operations if "norm" not in o.name)
        routers = sum(
            2 * count * layer.mlp.count * work.shape.hidden
            for layer, count in work.shape.decoder.kinds.items()
            if hasattr(layer.mlp, "count")
        )
        assert matrices - routers == 2 * work.shape.decoder.token_weights


def test_memory_holds_experts_that_no_row_takes() -> None:
    few, many = (parse(f"step:model=qwen3-30b-a3b,layers=2,batch=8,distinct={u}") for u in (8, 64))
    assert few.footprint_bytes == many.footprint_bytes > 2 * 128 * 9_437_184


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("step:model=tiny,distinct=3", "step: distinct=3 goes with a mixture of experts; tiny is dense"),
        ("step:model=mixtral-8x7b,distinct=1", r"step: distinct=1 must be from 2, which a row takes, to 2,"),
        ("step:model=mixtral-8x7b,batch=3,distinct=7", r"to 6, the fewer of all 8 experts and 2 a row"),
        ("step:model=qwen3-30b-a3b,distinct=-1", "distinct=-1 must be a whole number"),
        ("step:model=gpt-oss-20b,weight=int4g128", "hidden 2880, not a multiple of 128"),
        ("step:model=deepseek-v3,layers=3", "layers=3 must be 4 at least, so that each occurs"),
    ],
)
def test_what_does_not_go_is_named(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(spec)


def test_the_filled_in_number_stands_in_the_spec() -> None:
    assert parse("step:model=qwen3-30b-a3b,batch=8").spec == (
        "step:model=qwen3-30b-a3b,batch=8,context=1024,weight=bf16,kv=bf16,act=float,distinct=52"
    )
    assert "distinct" not in parse("step:model=tiny").spec


@pytest.mark.parametrize(
    "model", ["deepseek-v3", "deepseek-v3.2", "glm-5", "dose-index", "qwen3.5-9b", "nemotron-3-nano-30b-a3b"]
)
def test_a_prompt_s_bill_has_all_that_its_tokens_do_with_each_other(model: str) -> None:
    work = parse(f"prefill:model={model},tokens=3000,batch=2")
    of_tokens = [o for o in work.operations if o.name.partition(" ")[0] in ("attention", "index", "state")]
    assert sum(o.count * o.flops for o in of_tokens) == 2 * work.shape.decoder.prompt_attention_flops(3000)


def test_keys_of_an_index_are_written_and_read_once_by_a_prompt() -> None:
    """DeepSeek-V3.2: 61 layers, a key of 128 numbers for each token, 64 heads, whose scores are weighted."""
    work = parse("prefill:model=deepseek-v3.2,tokens=100,kv=bf16")
    lines = [o for o in work.operations if o.name == "index"]
    assert sum(o.count for o in lines) == 61
    assert {(o.traffic.kv_read_bytes, o.traffic.kv_written_bytes) for o in lines} == {(25_600, 25_600)}
    assert {o.flops for o in lines} == {5050 * 2 * 64 * (128 + 1)}
