"""Fields that a config.json leaves out: as many numbers, and the same windows, as Transformers has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from membound.kernels.decoder_folder import read_decoder
from membound.kernels.families import FAMILIES
from membound.kernels.family_defaults import DEFAULTS
from membound.kernels.model import ModelError
from membound.kernels.parts import Attention, Experts

SILENT = [
    json.loads(line) for line in (Path(__file__).parent / "data/silent.jsonl").read_text("utf-8").splitlines()
]
"""The fewest fields with which Transformers 5.24 makes a model of each family, and how many parameters that has."""
SIZES = {"hidden_size": 512, "intermediate_size": 96, "num_attention_heads": 32, "vocab_size": 300}
ROUTED = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def windows(folder: Path, **fields: Any) -> list[int]:
    (folder / "config.json").write_text(json.dumps(SIZES | {"num_hidden_layers": 4} | fields), "utf-8")
    layers = read_decoder(folder).layers
    return [layer.mixer.window for layer in layers if isinstance(layer.mixer, Attention)]


@pytest.mark.parametrize("case", SILENT, ids=lambda case: case["config"]["model_type"])
def test_a_silent_folder_holds_as_many_numbers_as_transformers_makes(
    case: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(case["config"]), "utf-8")
    assert read_decoder(tmp_path).parameters == case["parameters"]


def test_every_family_and_every_default_is_compared() -> None:
    given = {case["config"]["model_type"]: case["config"] for case in SILENT}
    assert {*FAMILIES} <= {*given}
    for kind, fields in DEFAULTS.items():
        if kind != "qwen2_vl_text":  # the same as qwen2_5_vl_text
            assert len({*fields} - {*given[kind]}) > len(fields) / 2, kind


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "qwen3_moe", "use_sliding_window": True} | ROUTED, [4096] * 4),
        ({"model_type": "qwen3_moe", "use_sliding_window": False, "sliding_window": 9} | ROUTED, [0] * 4),
        ({"model_type": "qwen2_moe", "use_sliding_window": True, "sliding_window": 9}, [9, 0, 9, 0]),
        ({"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 9}, [0, 0, 0, 9]),
        (
            {"model_type": "qwen2", "sliding_window": 9, "layer_types": ["sliding_attention"] * 4},
            [0] * 4,
        ),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "sliding_window": 9,
                "layer_types": ["sliding_attention", *["full_attention"] * 3],
            },
            [9, 0, 0, 0],
        ),
        ({"model_type": "smollm3", "sliding_window": 9}, [0] * 4),
        (
            {"model_type": "ministral", "layer_types": ["full_attention", *["sliding_attention"] * 3]},
            [0, *[4096] * 3],
        ),
        ({"model_type": "ministral"}, [4096] * 4),
        ({"model_type": "exaone4"}, [4096, 4096, 4096, 0]),
        ({"model_type": "gemma2", "sliding_window_pattern": 3}, [4096, 0, 4096, 0]),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, [4096, 4096, 0, 4096]),
        ({"model_type": "dots1", "max_window_layers": 2}, [0, 0, 4096, 4096]),
    ],
    ids=str,
)
def test_layers_slide_where_those_of_transformers_do(
    fields: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    assert windows(tmp_path, **fields) == expected


@pytest.mark.parametrize("kind", ["olmo2", "granite", "minimax_m2"])
def test_a_window_that_a_family_has_not_is_refused(kind: str, tmp_path: Path) -> None:
    listed = ["sliding_attention"] * 4
    with pytest.raises(ModelError, match="layer_types has sliding_attention, which its model_type has not"):
        windows(tmp_path, model_type=kind, layer_types=listed)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("qwen3_moe", "num_local_experts"), ("deepseek_v3", "num_local_experts"), ("mixtral", "num_experts")],
)
def test_a_count_of_experts_is_read_under_its_other_name(kind: str, name: str, tmp_path: Path) -> None:
    """Transformers 5 saves Qwen3-MoE's num_experts as num_local_experts."""
    fields = SIZES | {
        "model_type": kind,
        "num_hidden_layers": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields | {name: 10}), "utf-8")
    mlp = read_decoder(tmp_path).layers[-1].mlp
    assert isinstance(mlp, Experts)
    assert mlp.count == 10


@pytest.mark.parametrize("above", [True, False])
def test_the_head_of_a_text_part_is_tied_as_is_said_above_it(above: bool, tmp_path: Path) -> None:
    """Of Mistral 3 and Qwen3-VL-MoE, Transformers 5 saves the opposite within the text part."""
    text = SIZES | {"model_type": "mistral", "num_hidden_layers": 4, "tie_word_embeddings": not above}
    nested = {"model_type": "mistral3", "text_config": text, "tie_word_embeddings": above}
    (tmp_path / "config.json").write_text(json.dumps(nested), "utf-8")
    assert read_decoder(tmp_path).tied is above
