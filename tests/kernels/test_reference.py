from math import cos, exp, inf, nan, pi, sin, sqrt

import numpy as np
import pytest

from membound.kernels import attention_reference, forward, products, reference
from membound.kernels.forward import gelu, rms_norm, silu
from membound.kernels.models import get_model
from membound.kernels.reference import (
    append,
    causal_attention,
    compute,
    decode_attention,
    linear,
    prefill,
    quantize_rows,
    relative_error,
    rope_frequencies,
    step,
    store_cache,
    tolerance,
    typical_size,
)
from membound.kernels.rope import Rope, rope
from membound.kernels.seeded import make_inputs
from membound.kernels.weights import fp8
from membound.kernels.weights.formats import (
    FORMATS,
    INTEGER_FORMATS,
    KV_FORMATS,
    KVCache,
    dequantize,
    from_bf16,
    to_bf16,
)
from membound.kernels.weights.generate import random_weight
from membound.kernels.work import parse


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("fmt", FORMATS)
def test_linear_in_chunks_is_the_product(fmt, rng, monkeypatch):
    weight = random_weight(fmt, 37, 256, 4)
    x = rng.standard_normal((3, 256)).astype(np.float32)
    expected = x.astype(np.float64) @ dequantize(weight).astype(np.float64).T
    monkeypatch.setattr(products, "CHUNK_ELEMENTS", 5 * 256)
    assert relative_error(linear(x, weight, "float"), expected) < 1e-7


def test_rows_are_quantised_as_defined():
    q, scales = quantize_rows(np.array([[1.0, -2.54, 0.026], [0.0, 0.0, 0.0]]))
    assert q.tolist() == [[50, -127, 1], [0, 0, 0]]
    assert scales[:, 0] == pytest.approx([0.02, 0])


@pytest.mark.parametrize("fmt", INTEGER_FORMATS)
def test_int8_activations(fmt, rng):
    weight = random_weight(fmt, 9, 256, 4)
    x = rng.standard_normal((3, 256)).astype(np.float32)
    x[1] = 0
    scale = np.abs(x.astype(np.float64)).max(1, keepdims=True) / 127
    rounded = np.rint(x / np.where(scale == 0, 1, scale)) * scale
    y = linear(x, weight, "int8")
    assert relative_error(y, rounded @ dequantize(weight).astype(np.float64).T) < 1e-7
    assert not y[1].any()
    assert 0.002 < relative_error(linear(x, weight, "float"), y) < 0.02


def attend(q, k, v):
    """One head by loops."""
    scores = [exp(sum(a * b for a, b in zip(q, row, strict=True)) / sqrt(len(q))) for row in k]
    return [sum(s * row[i] for s, row in zip(scores, v, strict=True)) / sum(scores) for i in range(len(q))]


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize(("q_heads", "kv_heads"), [(6, 2), (3, 3), (4, 1)])
def test_decode_attention_by_loops(kv, q_heads, kv_heads):
    inputs = make_inputs(
        parse(f"attention:context=5,batch=2,q_heads={q_heads},kv_heads={kv_heads},head_dim=6,kv={kv}"), 1
    )
    cache = inputs.cache(0)
    k, v = cache.k, cache.v
    if kv == "bf16":
        k, v = from_bf16(k), from_bf16(v)
    if kv == "fp8":
        k, v = fp8.decode(k), fp8.decode(v)
    if kv == "int8":
        k = k * cache.k_scales[..., None].astype(np.float64)
        v = v * cache.v_scales[..., None].astype(np.float64)
    y = compute(inputs, 0)
    for b, h in np.ndindex(2, q_heads):
        group = h // (q_heads // kv_heads)
        one = attend(*(a.astype(np.float64).tolist() for a in (inputs.q[b, h], k[b, group], v[b, group])))
        assert y[b, h] == pytest.approx(one, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kv", ["f32", "int8"])
def test_several_queries_by_loops(kv):
    inputs = make_inputs(
        parse(f"attention:context=5,queries=3,batch=2,q_heads=4,kv_heads=2,head_dim=6,kv={kv}"), 1
    )
    cache, (new_k, new_v) = inputs.cache(0), inputs.new_tokens(0)
    assert new_k.shape == (2, 2, 3, 6)
    assert not np.array_equal(new_k, inputs.new_tokens(1)[0])
    k, v = cache.k.astype(np.float64), cache.v.astype(np.float64)
    if kv == "int8":
        k, v = k * cache.k_scales[..., None], v * cache.v_scales[..., None]
        new_k, new_v = (
            np.rint(a / (s := abs(a).max(-1, keepdims=True) / np.float32(127))) * s for a in (new_k, new_v)
        )
    k, v = np.concatenate([k, new_k], axis=2), np.concatenate([v, new_v], axis=2)
    y = compute(inputs, 0)
    assert y.shape == (2, 3, 4, 6)
    for b, i, h in np.ndindex(2, 3, 4):
        seen = 5 + i + 1
        one = attend(
            *(
                a.astype(np.float64).tolist()
                for a in (inputs.q[b, i, h], k[b, h // 2, :seen], v[b, h // 2, :seen])
            )
        )
        assert y[b, i, h] == pytest.approx(one, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kv", ["bf16", "int8"])
def test_latent_attention_by_loops(kv):
    inputs = make_inputs(parse(f"mla:context=4,batch=2,q_heads=3,kv={kv}"), 1)
    cache = inputs.cache(0)
    k = from_bf16(cache.k) if kv == "bf16" else cache.k * cache.k_scales[..., None].astype(np.float64)
    y = compute(inputs, 0)
    assert y.shape == (2, 3, 512)
    for b, h in np.ndindex(2, 3):
        rows = k[b, 0].astype(np.float64)
        q = inputs.q[b, h].astype(np.float64) * sqrt(576 / 192)  # `attend` divides by sqrt(576)
        one = attend(q.tolist(), rows.tolist(), rows.tolist())
        assert y[b, h] == pytest.approx(one[:512], rel=1e-6, abs=1e-9)


def test_causal_attention_is_decode_attention_of_each_prefix(rng, monkeypatch):
    monkeypatch.setattr(attention_reference, "QUERY_BLOCK", 3)
    q = rng.standard_normal((2, 4, 7, 8))
    cache = store_cache(rng.standard_normal((2, 2, 7, 8)), rng.standard_normal((2, 2, 7, 8)), "int8")
    y = causal_attention(q, cache)
    for t in range(7):
        seen = slice(0, t + 1)
        prefix = KVCache(
            "int8",
            *(a[:, :, seen] for a in (cache.k, cache.v, cache.k_scales, cache.v_scales)),
        )
        assert np.allclose(y[:, :, t], decode_attention(q[:, :, t], prefix), rtol=1e-12)


def test_the_cache_stores_as_its_format_says(rng):
    k, v = rng.standard_normal((2, 1, 2, 3, 4))
    k[0, 0, 0] = 0
    f32, bf16, f16, int8, e4m3 = (store_cache(k, v, kv) for kv in KV_FORMATS)
    assert np.array_equal(f16.k, k.astype(np.float16))
    assert np.array_equal(e4m3.v, fp8.encode(v))
    assert np.array_equal(f32.k, k.astype(np.float32))
    assert np.array_equal(bf16.v, to_bf16(v.astype(np.float32)))
    assert int8.k_scales.shape == (1, 2, 3)
    assert int8.k_scales[0, 0, 0] == 0
    assert int8.v_scales == pytest.approx(np.abs(v).max(-1) / 127)
    assert np.abs(int8.v).max(-1).tolist() == [[[127] * 3] * 2]
    assert np.abs(int8.v * int8.v_scales[..., None] - v).max() <= int8.v_scales.max() / 2 * 1.001
    longer = append(int8, int8)
    assert longer.k.shape == (1, 2, 6, 4)
    assert longer.v_scales.shape == (1, 2, 6)
    assert append(bf16, bf16).k_scales is None


def test_rope_turns_pairs_half_a_head_apart():
    x = np.array([[1.0, 2.0, 3.0, 4.0]])
    y = rope(x, np.array([3]), Rope(theta=100.0), 4)
    assert y[0] == pytest.approx(
        [cos(3) - 3 * sin(3), 2 * cos(0.3) - 4 * sin(0.3), 3 * cos(3) + sin(3), 4 * cos(0.3) + 2 * sin(0.3)]
    )


def test_rope_depends_on_distance_alone(rng):
    turning = get_model("llama-3.2-1b").decoder.layers[0].mixer.rope
    q, k = rng.standard_normal((2, 1, 64))
    near = rope(q, np.array([7]), turning, 8) @ rope(k, np.array([3]), turning, 8).T
    far = rope(q, np.array([1007]), turning, 1008) @ rope(k, np.array([1003]), turning, 1008).T
    assert near == pytest.approx(far)


def test_plain_frequencies():
    assert rope_frequencies(get_model("tiny"))[[0, 8, 15]] == pytest.approx([1, 0.01, 10000 ** (-15 / 16)])


def test_llama3_frequencies_are_those_of_transformers():
    model = get_model("llama-3.2-1b")
    scaled = rope_frequencies(model)
    for i, found in enumerate(scaled):
        # The branches of `_compute_llama3_parameters`, one frequency at a time.
        frequency = 500000.0 ** (-2 * i / 64)
        wavelength = 2 * pi / frequency
        if wavelength > 8192 / 1:
            frequency /= 32
        elif wavelength >= 8192 / 4:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            frequency = (1 - smooth) * frequency / 32 + smooth * frequency
        assert found == pytest.approx(frequency, rel=1e-12)
    plain = 500000.0 ** (-np.arange(32) / 32)
    ratio = scaled / plain
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(1 / 32)
    assert ((ratio > 0.04) & (ratio < 0.99)).any()


def test_activations():
    x = np.array([-800.0, -1.0, 0.0, 2.0, 800.0])
    assert silu(x) == pytest.approx([0, -1 / (1 + exp(1)), 0, 2 / (1 + exp(-2)), 800])
    # Exact GELU is x·Φ(x); the tanh form stays within 5e-4 of it.
    assert gelu(x) == pytest.approx([0, -0.158655, 0, 1.954500, 800], abs=5e-4)
    assert rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 2.0]), 0.0)[0] == pytest.approx(
        [3 / sqrt(12.5), 8 / sqrt(12.5)]
    )


def in_torch(inputs, tokens, positions, causal):
    """The model in PyTorch float64: other code for norms, RoPE (complex), attention and MLP."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional

    def tensor(a):
        return None if a is None else torch.tensor(np.asarray(a, np.float64))

    def matrix(weight):
        return tensor(dequantize(weight))

    model = inputs.model
    x = tensor(inputs.x)
    turns = torch.polar(
        torch.ones(1, dtype=torch.float64), tensor(np.outer(positions, rope_frequencies(model)))
    )

    def heads(normed, layer, name, bias, rotate):
        y = f.linear(normed, matrix(layer.matrices[name]), tensor(bias))
        y = y.view(-1, tokens, y.shape[1] // model.head_dim, model.head_dim).transpose(1, 2)
        if not rotate:
            return y
        z = torch.complex(*y.chunk(2, -1)) * turns
        return torch.cat([z.real, z.imag], -1)

    for i in range(model.layers):
        layer = inputs.layer(i)
        normed = f.rms_norm(x, (model.hidden,), tensor(layer.attention_norm), model.norm_eps)
        q = heads(normed, layer, "q", layer.q_bias, True)
        k = heads(normed, layer, "k", layer.k_bias, True)
        v = heads(normed, layer, "v", layer.v_bias, False)
        if not causal:
            cache = inputs.cache(i)
            k, v = torch.cat([tensor(cache.k), k], 2), torch.cat([tensor(cache.v), v], 2)
        y = f.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        y = y.transpose(1, 2).reshape(len(x), model.q_dim)
        x = x + f.linear(y, matrix(layer.matrices["o"]))
        normed = f.rms_norm(x, (model.hidden,), tensor(layer.mlp_norm), model.norm_eps)
        up = f.linear(normed, matrix(layer.matrices["up"]))
        if model.gated:
            hidden = f.silu(f.linear(normed, matrix(layer.matrices["gate"]))) * up
        else:
            hidden = f.gelu(up, approximate="tanh")
        x = x + f.linear(hidden, matrix(layer.matrices["down"]))
    last = x[tokens - 1 :: tokens]
    last = f.rms_norm(last, (model.hidden,), tensor(inputs.final_norm()), model.norm_eps)
    return f.linear(last, matrix(inputs.lm_head())).numpy()


@pytest.mark.parametrize(
    "spec",
    [
        "step:model=tiny,context=9,batch=3,weight=f32,kv=f32",
        "step:model=tiny,context=1,weight=int4g32,kv=f32",
        "prefill:model=tiny,tokens=11,batch=3,weight=bf16,kv=f32",
        "prefill:model=tiny,tokens=1,weight=int8,kv=f32",
    ],
)
@pytest.mark.parametrize("shape", ["as it is", "biased", "ungated"])
def test_whole_models_agree_with_torch(spec, shape, monkeypatch):
    from dataclasses import replace

    from membound.kernels import models

    tiny = models.MODELS["tiny"]
    changed = {
        "as it is": tiny,
        "biased": replace(tiny, qkv_bias=True, rope_scaling=(8.0, 1.0, 4.0, 64.0)),
        "ungated": replace(tiny, gated=False, rope_theta=5e5),
    }[shape]
    monkeypatch.setitem(models.MODELS, "tiny", changed)
    try:
        inputs = make_inputs(parse(spec), 5)
        causal = inputs.work.kind == "prefill"
        tokens = inputs.work.tokens if causal else 1
        positions = np.arange(tokens) if causal else np.array([inputs.work.context])
        # The new keys and values pass through the float32 cache in the reference alone: 6e-8.
        assert relative_error(compute(inputs, 0), in_torch(inputs, tokens, positions, causal)) < 1e-6
    finally:
        monkeypatch.undo()


def test_qk_norm_is_applied_before_rope(monkeypatch):
    inputs = make_inputs(parse("prefill:model=tiny,tokens=3,kv=f32,layers=1"), 1)
    layer = inputs.layer(0)
    from dataclasses import replace

    gain = np.linspace(0.5, 2, 32, dtype=np.float32)
    kind = inputs.model.decoder.layers[0]
    with_norms = replace(kind, mixer=replace(kind.mixer, head_norm="head"))
    normed = replace(layer, vectors={**layer.vectors, "q_norm": gain, "k_norm": gain})
    x = inputs.x.astype(np.float64)
    q, held = reference.project(inputs, with_norms, normed, x, np.arange(3))
    plain, plain_held = reference.project(inputs, kind, layer, x, np.zeros(3))
    expected = rope(rms_norm(plain, gain, 1e-5), np.arange(3), kind.mixer.rope, 3)
    assert np.allclose(q, expected)
    assert np.array_equal(held.v, plain_held.v)
    assert not np.array_equal(held.k, plain_held.k)


def test_relative_error():
    ones = np.ones((2, 3))
    assert relative_error(np.full((2, 3), 1.5, np.float32), ones) == pytest.approx(0.5)
    assert relative_error(np.ones((3, 2), np.float32), ones) == inf
    assert relative_error(np.array([[1, nan, 1], [1, 1, 1]]), ones) == inf
    assert relative_error(np.array([[1, inf, 1], [1, 1, 1]]), ones) == inf
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.ones(3), np.zeros(3)) == inf


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("linear:n=96,k=64,m=4,weight=int8,act=int8", 384),
        ("linear:n=96,k=64,m=4,weight=bf16", 384),
        ("attention:context=40,q_heads=8,kv_heads=2,head_dim=64,kv=int8", 512),
        ("experts:hidden=128,width=64,count=9,chosen=2,batch=3,weight=bf16", 384),
    ],
)
def test_the_typical_size_is_that_of_many_outputs(spec, count):
    inputs = make_inputs(parse(spec), 5)
    expected = compute(inputs, 0)
    assert expected.size == count
    assert 0.8 < np.linalg.norm(expected) / typical_size(inputs, 0) < 1.25
    assert typical_size(make_inputs(parse("step:model=tiny,context=8,layers=1"), 5), 0) == 0


def test_the_typical_size_counts_for_at_least():
    assert relative_error(np.array([0.3]), np.array([0.1]), 2.0) == pytest.approx(0.1)
    assert relative_error(np.array([3.3]), np.array([3.0]), 2.0) == pytest.approx(0.1)
    assert relative_error(np.array([0.0]), np.array([0.0]), 2.0) == 0


@pytest.mark.parametrize("beyond", [inf, nan])
def test_nothing_is_right_where_the_reference_itself_is_not_finite(beyond):
    """A cache in f16 overflows beyond 65504: an error of NaN would be below every tolerance."""
    assert relative_error(np.ones(3), np.array([1, beyond, 1])) == inf


# What a correct runtime may do, and what a wrong one might: both held against `tolerance`.


def to_16_bits(x):
    return from_bf16(to_bf16(x.astype(np.float32))).astype(np.float64)


def rounding(monkeypatch):
    """Every operation with inputs and outputs in bfloat16."""
    for name in ("linear", "decode_attention", "causal_attention"):
        exact = getattr(reference, name)
        monkeypatch.setattr(
            reference,
            name,
            lambda x, *rest, exact=exact, **more: to_16_bits(exact(to_16_bits(x), *rest, **more)),
        )


def int8_by_block(monkeypatch):
    """Activations quantised in blocks of 32, and queries to int8."""
    exact, attention = reference.linear, reference.decode_attention

    def block_linear(x, weight, act, power=1):
        q, scales = quantize_rows(x.astype(np.float64).reshape(-1, 32))
        return exact((q * scales).reshape(x.shape), weight, "float", power)

    def int8_attention(q, cache):
        rows, scales = quantize_rows(q.astype(np.float64).reshape(-1, q.shape[-1]))
        return attention((rows * scales).reshape(q.shape), cache)

    monkeypatch.setattr(reference, "linear", block_linear)
    monkeypatch.setattr(reference, "decode_attention", int8_attention)


def error_with(change, spec, seed, monkeypatch):
    inputs = make_inputs(parse(spec), seed)
    expected = compute(inputs, 0)
    with monkeypatch.context() as patch:
        change(patch)
        return relative_error(compute(inputs, 0), expected) / tolerance(inputs.work)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("change", "spec"),
    [
        (rounding, "linear:n=200,k=2048,m=3,weight=bf16"),
        (rounding, "linear:n=200,k=2048,m=3,weight=int4g128"),
        (rounding, "attention:context=1000,kv=bf16"),
        (rounding, "attention:context=77,kv=int8,batch=2"),
        (rounding, "experts:hidden=512,width=256,count=16,chosen=4,batch=3,weight=bf16"),
        (int8_by_block, "experts:hidden=512,width=256,count=16,chosen=4,batch=3,weight=int8,act=int8"),
        (rounding, "step:model=tiny,context=1000"),
        (rounding, "step:model=tiny,context=7,batch=4,weight=int8,kv=int8"),
        (rounding, "prefill:model=tiny,tokens=50"),
        (int8_by_block, "linear:n=200,k=2048,m=3,weight=int8,act=int8"),
        (int8_by_block, "attention:context=1000,kv=int8"),
        (int8_by_block, "step:model=tiny,context=500,batch=2,weight=int8,act=int8,kv=int8"),
    ],
)
def test_rounding_of_runtimes_passes(change, spec, seed, monkeypatch):
    assert 0.02 < error_with(change, spec, seed, monkeypatch) < 0.9


def without_last_token(patch):
    exact = reference.decode_attention

    def short(q, cache):
        cut = [
            None if a is None else a[:, :, :-1] for a in (cache.k, cache.v, cache.k_scales, cache.v_scales)
        ]
        return exact(q, KVCache(cache.format, *cut))

    patch.setattr(reference, "decode_attention", short)


def one_wrong_head(patch):
    exact = reference.decode_attention

    def wrong(q, cache):
        y = exact(q, cache)
        y[:, 0] = y[:, -1]
        return y

    patch.setattr(reference, "decode_attention", wrong)


def heads_interleaved(patch):
    """Query head h reads KV head h mod Hkv: the wrong grouping."""
    exact = reference.decode_attention

    def wrong(q, cache):
        kv_heads = cache.k.shape[1]
        order = np.arange(q.shape[1]).reshape(-1, kv_heads).T.reshape(-1)
        y = np.empty(q.shape)
        y[:, order] = exact(q[:, order], cache)
        return y

    patch.setattr(reference, "decode_attention", wrong)


def rope_interleaved(patch):
    """Pairs of neighbours (the GPT-J layout) instead of halves."""
    exact = reference.rope
    patch.setattr(
        reference,
        "rope",
        lambda x, p, *how: (
            exact(np.concatenate([x[..., ::2], x[..., 1::2]], -1), p, *how)
            .reshape(*x.shape[:-1], 2, -1)
            .swapaxes(-1, -2)
            .reshape(x.shape)
        ),
    )


def rope_backwards(patch):
    exact = reference.rope
    patch.setattr(reference, "rope", lambda x, p, *how: exact(x, -p, *how))


def rope_one_off(patch):
    exact = reference.rope
    patch.setattr(reference, "rope", lambda x, p, *how: exact(x, p + 1, *how))


def no_norm_gain(patch):
    exact = reference.rms_norm
    patch.setattr(reference, "rms_norm", lambda x, gain, eps: exact(x, np.ones(1), eps))


def no_activation(patch):
    patch.setitem(forward.ACTIVATIONS, "silu", lambda x: x)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("fault", [without_last_token, one_wrong_head, heads_interleaved])
@pytest.mark.parametrize("context", [50, 1000])
def test_faulty_attention_fails(context, fault, kv, seed, monkeypatch):
    assert error_with(fault, f"attention:context={context},kv={kv}", seed, monkeypatch) > 2


@pytest.mark.parametrize("context", [50, 1000])
def test_faulty_latent_attention_fails(context):
    inputs = make_inputs(parse(f"mla:context={context},q_heads=16"), 1)
    cache, y = inputs.cache(0), compute(inputs, 0)
    shorter = KVCache("bf16", cache.k[:, :, :-1], cache.v[:, :, :-1])
    wrong = (
        reference.latent_attention(inputs.q, shorter),
        reference.latent_attention(inputs.q * np.float32(sqrt(192 / 576)), cache),  # divided by sqrt(576)
        np.roll(y, 1, axis=1),
    )
    assert min(relative_error(one, y) for one in wrong) > 2 * tolerance(inputs.work)


STEP_FAULTS = [
    without_last_token,
    one_wrong_head,
    heads_interleaved,
    rope_interleaved,
    rope_backwards,
    rope_one_off,
    no_norm_gain,
    no_activation,
]


@pytest.mark.parametrize("fault", STEP_FAULTS)
@pytest.mark.parametrize("formats", ["weight=f32,kv=f32", "weight=bf16,kv=bf16", "weight=int8,kv=bf16"])
def test_faulty_steps_fail(fault, formats, monkeypatch):
    assert error_with(fault, f"step:model=tiny,context=1000,batch=4,{formats}", 3, monkeypatch) > 2


@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_faulty_steps_fail_with_int8_activations(fault, monkeypatch):
    spec = "step:model=tiny,context=100,batch=4,weight=int8,act=int8"
    assert error_with(fault, spec, 3, monkeypatch) > 1.2


def test_a_wrong_scale_or_row_fails_a_linear():
    work = parse("linear:n=64,k=4096,m=2,weight=int8,act=int8")
    y = compute(make_inputs(work, 1), 0)
    one_row_lost = y.copy()
    one_row_lost[:, 17] = 0
    assert relative_error(one_row_lost, y) > tolerance(work)
    assert relative_error(y * 1.05, y) > tolerance(work)


def test_tolerance_grows_with_layers_alone():
    assert tolerance(parse("linear:n=8,k=32,weight=f32")) == 1e-4
    assert tolerance(parse("step:model=tiny,weight=f32,kv=f32,layers=1")) == pytest.approx(1e-4 * sqrt(2))
    one, two = (tolerance(parse(f"step:model=tiny,layers={n}")) for n in (1, 2))
    assert two / one == pytest.approx(sqrt(3 / 2))
    assert tolerance(parse("prefill:model=tiny")) == two


def test_steps_and_prompts_are_told_apart():
    one_step = make_inputs(parse("step:model=tiny,context=3,batch=2"), 1)
    prompt = make_inputs(parse("prefill:model=tiny,tokens=3,batch=2"), 1)
    assert np.array_equal(compute(one_step, 0), step(one_step))
    assert np.array_equal(compute(prompt, 0), prefill(prompt))
    assert prefill(prompt).shape == (2, 1000)
