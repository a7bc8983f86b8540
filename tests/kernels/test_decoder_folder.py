"""A config.json of any known family: exactly as many numbers as Transformers' own model of it has, or one line why not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from membound.kernels.decoder_folder import TEXT_TYPES, read_decoder, why_counted
from membound.kernels.families import FAMILIES
from membound.kernels.model import ModelError
from membound.kernels.parts import Attention, Decoder, Experts, Latent
from membound.kernels.rope import ProportionalScaling, Rope

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data/families.jsonl").read_text("utf-8").splitlines()
]
"""Random small configurations with the numbers of all parameters and of buffers that files hold, as Transformers 5.19
builds them (AutoModelForCausalLM.from_config on the meta device; a tied head once)."""


def decoder(folder: Path, **fields: Any) -> Decoder:
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return read_decoder(folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["config"]["model_type"])
def test_a_folder_holds_as_many_numbers_as_transformers_makes(case: dict[str, Any], tmp_path: Path) -> None:
    assert decoder(tmp_path, **case["config"]).parameters == case["parameters"]


def test_every_family_is_compared_twice() -> None:
    counts = Counter(case["config"]["model_type"] for case in CASES)
    assert set(counts) == set(FAMILIES)
    assert min(counts.values()) == 2
    assert set(TEXT_TYPES.values()) <= {*FAMILIES}


def test_a_model_that_sees_counts_as_its_text_part(tmp_path: Path) -> None:
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
    }
    seen = decoder(
        tmp_path,
        model_type="gemma3",
        text_config=text | {"sliding_window": 1024},
        vision_config={"hidden_size": 1152},
    )
    assert seen.left_out == "vision"
    assert seen.tied
    assert seen.parameters / 1e9 == pytest.approx(3.88, rel=0.01)
    windows = [layer.mixer.window for layer in seen.layers if isinstance(layer.mixer, Attention)]
    assert windows[:7] == [1024] * 5 + [0, 1024]


def test_a_flat_file_of_a_model_that_sees(tmp_path: Path) -> None:
    fields = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
    }
    seen = decoder(
        tmp_path,
        model_type="qwen2_5_vl",
        vision_config={"depth": 32},
        num_key_value_heads=4,
        vocab_size=152064,
        **fields,
    )
    assert (seen.left_out, seen.tied) == ("vision", False)
    assert seen.parameters / 1e9 == pytest.approx(7.6, rel=0.01)


def test_a_chunk_is_looked_at_in_families_that_have_one_alone(tmp_path: Path) -> None:
    plain = decoder(tmp_path, **SMALL | {"attention_chunk_size": 8})
    assert [layer.mixer for layer in plain.layers] == [Attention(4, 4, 16)] * 4
    chunked = {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 80}
    found = decoder(tmp_path, **SMALL | chunked | {"model_type": "llama4_text"})
    assert [layer.mixer.chunk for layer in found.layers if isinstance(layer.mixer, Attention)] == [8, 8, 8, 0]


def test_layers_that_share_an_index_read_what_it_selects_and_keep_no_keys(tmp_path: Path) -> None:
    fields = next(case["config"] for case in CASES if case["config"].get("index_topk_freq") == 4)
    found = decoder(tmp_path, **fields)
    shared = [
        layer.mixer.index.shared
        for layer in found.layers
        if isinstance(layer.mixer, Latent) and layer.mixer.index
    ]
    assert shared == [False, False, False, True, True, True, False]
    rows, keys = 7 * (16 + 8), 4 * 16
    assert found.token_numbers == rows + keys
    assert found.cached_numbers(99) == rows * 8 + keys * 100
    pairs = 7 * 2 * 4 * (2 * 16 + 8) * 8 + 4 * 2 * 2 * 17 * 100
    assert found.attention_flops(99) == pairs
    assert why_counted(found) == ""


def test_experts_of_a_narrower_state_and_keys_that_are_values(tmp_path: Path) -> None:
    narrow = next(case["config"] for case in CASES if "moe_latent_size" in case["config"])
    found = decoder(tmp_path, **narrow)
    experts = found.layers[0].mlp
    assert isinstance(experts, Experts)
    assert experts.matrices(64) == {"up": (28, 24), "down": (24, 28)}
    assert experts.always(64) == 6 * 64 + 2 * 36 * 64 + 2 * 24 * 64
    assert "a narrower state" in why_counted(found)
    gemma = next(case["config"] for case in CASES if case["config"].get("attention_k_eq_v"))
    wide = decoder(tmp_path, **gemma).layers[2].mixer
    rope = Rope(1e6, scaling=ProportionalScaling(4))
    assert wide == Attention(
        8, 2, 32, head_norm="head", rope=rope, scale=1.0, keys_are_values=True, value_norm=True
    )
    assert wide.matrices(96) == {"q": (256, 96), "k": (64, 96), "o": (96, 256)}
    assert wide.token_numbers == 2 * 2 * 32


def test_a_published_deepseek_v3(tmp_path: Path) -> None:
    found = decoder(
        tmp_path, model_type="deepseek_v3", hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048,
        num_hidden_layers=61, num_attention_heads=128, num_key_value_heads=128, n_shared_experts=1,
        n_routed_experts=256, q_lora_rank=1536, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128,
        v_head_dim=128, num_experts_per_tok=8, moe_layer_freq=1, first_k_dense_replace=3, vocab_size=129280,
        quantization_config={"quant_method": "fp8"}, num_nextn_predict_layers=1,
    )  # fmt: skip
    assert isinstance(found.layers[2].mixer, Latent)
    assert [isinstance(layer.mlp, Experts) for layer in found.layers[:5]] == [False] * 3 + [True] * 2
    assert found.parameters / 1e9 == pytest.approx(671.03, rel=1e-4)


SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "vocab_size": 300,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model_type": "kimi_linear"},
            "model_type 'kimi_linear' is not supported; supported: arcee, cohere",
        ),
        ({"model_type": ["llama"]}, "model_type ['llama'] is not supported"),
        ({"hidden_size": None}, "hidden_size=None must be a positive whole number"),
        ({"num_attention_heads": 12}, "hidden_size=64 must be a multiple of num_attention_heads=12"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple of num_key_value_heads=3"),
        ({"num_hidden_layers": 2_000_000_000}, "num_hidden_layers=2000000000 must be 4096 at most"),
        ({"text_config": [1]}, "text_config=[1] must be a JSON object"),
        ({"layer_types": ["full_attention"]}, "layer_types=['full_attention'] must be a list with one kind"),
        (
            {"layer_types": ["linear_attention"] * 4},
            "layer_types has 'linear_attention', which is not supported",
        ),
        (
            {"model_type": "qwen3_next", "layer_types": ["sliding_attention"] * 4},
            "layer_types has 'sliding_attention', which is not supported; supported: full_attention, linear_attention",
        ),
        (
            {"model_type": "qwen3_next", "linear_num_value_heads": 24},
            "linear_num_value_heads=24 must be a multiple of linear_num_key_heads=16",
        ),
        (
            {"model_type": "nemotron_h", "hybrid_override_pattern": "M-X*"},
            "hybrid_override_pattern has 'X', which is not supported",
        ),
        (
            {"model_type": "nemotron_h", "hybrid_override_pattern": "M--"},
            "an MLP that stands behind no mixer is not supported",
        ),
        (
            {"model_type": "glm_moe_dsa", "indexer_types": 7},
            "indexer_types=7 must be a list with full or shared for each layer",
        ),
        (
            {"model_type": "glm_moe_dsa", "index_topk_pattern": "SFFF"},
            "index_topk_pattern='SFFF' must be full for the first layer, which has none before it",
        ),
        (
            {"model_type": "gemma4_text", "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 0},
            "num_kv_shared_layers=2 is not supported",
        ),
        ({"model_type": "gemma4_text"}, "hidden_size_per_layer_input=256 is not supported"),
        (
            {"model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "layer_types": ["conv"] * 4},
            "must be a list with sliding_attention or full_attention for each layer",
        ),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["mamba", "mamba", "moe", "mamba"]},
            "layer_types has 'moe', which is not supported; supported: mamba, attention",
        ),
        (
            {"model_type": "granitemoehybrid", "layer_types": [["mamba"]] * 4},
            "must be a list with one kind for each of num_hidden_layers=4",
        ),
        ({"model_type": "granitemoehybrid", "mamba_n_heads": 7}, "mamba_d_head='auto' must be such that"),
        ({"model_type": "stablelm", "qk_layernorm": True}, "qk_layernorm=true is not supported"),
        ({"model_type": "gemma2", "sliding_window": 0}, "sliding_window=0 must be a positive whole number"),
        (
            {"model_type": "mixtral", "num_local_experts": -1},
            "num_local_experts=-1 must be a positive whole number",
        ),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "num_experts_per_tok=9 must be 8 at most"),
        (
            {"model_type": "deepseek_v2", "n_routed_experts": "8"},
            "n_routed_experts='8' must be a positive whole",
        ),
        (
            {"model_type": "glm4_moe_lite", "n_routed_experts": 8, "mlp_layer_types": ["sparse"]},
            "mlp_layer_types=['sparse'] must be a list",
        ),
        ({"model_type": "qwen2_moe", "mlp_only_layers": 3}, "mlp_only_layers=3 must be a list of layers"),
        ({"model_type": "llama4_text", "moe_layers": "all"}, "moe_layers='all' must be a list of layers"),
        (
            {"model_type": "deepseek_v3", "n_routed_experts": 8, "n_shared_experts": -2},
            "n_shared_experts=-2 must be",
        ),
    ],
)
def test_what_is_not_known_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        decoder(tmp_path, **SMALL | change)
    assert str(error.value).startswith(str(tmp_path / "config.json"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_is_predicted_under_its_name(tmp_path: Path) -> None:
    from membound.kernels.served import ServedStep

    decoder(tmp_path, **SMALL | {"model_type": "mixtral", "num_key_value_heads": 2, "num_experts_per_tok": 2})
    work = ServedStep(str(tmp_path), context=10, kv="bf16")
    assert work.cache_bytes == 4 * 2 * 2 * 16 * 11 * 2
    assert work.shape.experts


@pytest.mark.parametrize(
    ("groups", "chosen", "said"),
    [
        (4, 1, "num_experts_per_tok=3 must be 2 at most, which 1 of 4 groups hold"),
        (8, 4, "n_group=8"),
        (4, 2, ""),
        (1, 1, ""),
    ],
)
def test_groups_hold_the_experts_that_a_token_takes(
    groups: int, chosen: int, said: str, tmp_path: Path
) -> None:
    config = next(case["config"] for case in CASES if case["config"]["model_type"] == "deepseek_v3")
    assert (config["n_routed_experts"], config["num_experts_per_tok"]) == (8, 3)
    found = decoder(tmp_path, **config | {"n_group": groups, "topk_group": chosen})
    assert (said in found.not_known) if said else not found.not_known
