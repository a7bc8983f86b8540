"""Layers of parts: what they hold and read, by hand, and by the numbers that were published of whole models."""

from __future__ import annotations

from itertools import pairwise

import pytest

from membound.kernels.parts import Attention, Experts, Latent, Layer, Mlp
from membound.kernels.shapes import SHAPES, shape_of


def test_an_expert_and_the_distinct_ones_of_a_batch() -> None:
    mixture = Experts(128, 8, Mlp(768))
    layer = Layer(Attention(32, 4, 128), mixture)
    one = layer.streamed(2048, 1) - mixture.always(2048) - 2 * 2048 * (32 + 4) * 128
    assert 2 * one == pytest.approx(75_497_472)  # eight experts of 9 437 184 bytes in bf16
    assert [round(mixture.distinct(tokens), 2) for tokens in (2, 4, 8, 32)] == [15.5, 29.12, 51.62, 111.77]
    assert mixture.distinct(1) == pytest.approx(8)
    assert Experts(8, 2, Mlp(1)).distinct(8) == pytest.approx(7.2, abs=0.01)


def test_a_layer_of_deepseek_v3() -> None:
    routed, latent = SHAPES["deepseek-v3"].layers[-1], Latent(128, 1536)
    assert isinstance(routed.mlp, Experts)
    assert routed.mlp.shared is not None
    shared = sum(n * k for n, k in routed.mlp.shared.matrices(7168).values())
    assert shared == 44_040_192
    assert routed.mlp.always(7168) - shared == 256 * 7168
    assert 2 * latent.token_numbers * 8192 == 9_437_184
    assert latent.pair_flops * 8193 == 2_281_979_904
    assert latent.matrices(7168)["kv_up"] == (128 * 256, 512)


def test_windows_and_chunks_bound_what_is_seen() -> None:
    gemma = shape_of("gemma-3-27b")
    seen = 2 * (gemma.cached_numbers(32768) - gemma.token_numbers)
    assert seen == 3_120_136_192
    assert 2 * gemma.token_numbers * 32768 == 16_642_998_272
    chunked = Attention(40, 8, 128, chunk=8192)
    assert (chunked.seen(32768), chunked.seen(32767)) == (0, 8191)
    windowed = Attention(8, 8, 64, window=4)
    assert [windowed.seen(position) for position in range(6)] == [0, 1, 2, 3, 3, 3]


@pytest.mark.parametrize(
    "mixer", [Attention(8, 2, 64), Attention(8, 2, 64, window=4), Attention(8, 2, 64, chunk=3), Latent(8, 0)]
)
def test_the_pairs_of_a_prompt_are_those_of_its_tokens(mixer: Attention | Latent) -> None:
    for tokens in range(12):
        assert mixer.pairs(tokens) == sum(mixer.seen(position) + 1 for position in range(tokens))


def test_vectors_are_biases_gains_and_sinks() -> None:
    assert Attention(64, 8, 64, biases="qkvo", sinks=True).vectors(2880) == 4096 + 512 + 512 + 2880 + 64
    assert Attention(8, 2, 16, head_norm="head").vectors(64) == 32
    assert Attention(8, 2, 16, head_norm="all").vectors(64) == 128 + 32
    assert Mlp(96, gated=False, bias=True).vectors(64) == 96 + 64
    assert Latent(4, 20, 24, rope_dim=8, biases=True).vectors(64) == 20 + 24 + 20 + 24 + 8 + 64


PUBLISHED = {
    "deepseek-v2": (236, 21),
    "deepseek-v2-lite": (15.7, 2.66),
    "deepseek-v3": (671, 37),
    "gemma-2-2b": (2.61, 2.61),
    "gemma-2-9b": (9.24, 9.24),
    "gemma-2-27b": (27.2, 27.2),
    "gemma-3-1b": (1.0, 1.0),
    "glm-4-9b-0414": (9.4, 9.4),
    "gpt-oss-20b": (20.9, 3.6),
    "gpt-oss-120b": (116.8, 5.1),
    "kimi-k2": (1026.4, 32),
    "llama-3.1-405b": (405.9, 405.9),
    "llama-3.2-3b": (3.21, 3.21),
    "llama-4-maverick": (400, 17),
    "minimax-m2": (229, 10.4),
    "mistral-7b": (7.25, 7.25),
    "mixtral-8x22b": (141, 39),
    "mixtral-8x7b": (46.7, 12.9),
    "olmo-2-7b": (7.3, 7.3),
    "phi-3.5-mini": (3.82, 3.82),
    "phi-4": (14.7, 14.7),
    "phi-4-mini": (3.84, 3.84),
    "qwen2.5-3b": (3.09, 3.09),
    "qwen2.5-14b": (14.8, 14.8),
    "qwen2.5-32b": (32.8, 32.8),
    "qwen2.5-72b": (72.7, 72.7),
    "qwen3-0.6b": (0.6, 0.6),
    "qwen3-1.7b": (1.72, 1.72),
    "qwen3-4b": (4.02, 4.02),
    "qwen3-8b": (8.19, 8.19),
    "qwen3-14b": (14.8, 14.8),
    "qwen3-32b": (32.8, 32.8),
    "qwen3-30b-a3b": (30.5, 3.3),
    "qwen3-235b-a22b": (235.1, 22),
    "smollm2-1.7b": (1.71, 1.71),
    "smollm3-3b": (3.08, 3.08),
}
"""Parameters in 10⁹ as published: all, and those a token uses (cards count the embedding, of which a step reads a row)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_the_parameters_that_were_published(name: str) -> None:
    total, active = PUBLISHED[name]
    shape = shape_of(name)
    assert shape.parameters / 1e9 == pytest.approx(total, rel=0.01)
    embedding = shape.vocab * shape.hidden / 1e9
    assert active - embedding - 0.1 <= shape.token_weights / 1e9 <= active * 1.02


@pytest.mark.parametrize("name", SHAPES)
def test_equal_layers_are_one_object_and_few_kinds_make_a_model(name: str) -> None:
    shape = SHAPES[name]
    assert 1 <= len(shape.kinds) <= 3
    assert len({id(layer) for layer in shape.layers}) == len(shape.kinds)
    counts = [shape.streamed_weights(tokens) for tokens in (1, 2, 8, 10_000)]
    assert all(less <= more for less, more in pairwise(counts))
    assert counts[-1] <= shape.stored_weights * 1.0001
