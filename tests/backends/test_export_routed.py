"""Models with experts and latent attention as folders: config.json says the same model, and every number is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routed_models import EVERY, routed_models
from safetensors.numpy import load_file

from membound.kernels import export
from membound.kernels.decoder_folder import read_decoder
from membound.kernels.export import ExportError, export_model
from membound.kernels.export_routed import architecture_of
from membound.kernels.published import SHAPES
from membound.kernels.routing import CODE
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("routed_models")
__all__ = ["routed_models"]
WRITTEN = ("tiny-qwen", "tiny-gpt-oss", "tiny-lite", "tiny-deepseek")


def exported(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    inputs: Any = make_inputs(parse(f"step:model={name},batch=2,context=3,weight=f32,kv=f32,cache=prompt"), 2)
    export_model(inputs, folder)
    return inputs, load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", WRITTEN)
def test_the_config_says_what_the_parts_compute(name: str, tmp_path: Path) -> None:
    inputs, _ = exported(name, tmp_path)
    read, own = read_decoder(tmp_path), inputs.model.decoder
    assert read.not_known == ""
    for found, wanted in zip(read.layers, own.layers, strict=True):
        scale = getattr(wanted.mixer, "scale", 0.0) or getattr(found.mixer, "scale", 0.0)
        assert getattr(found.mixer, "scale", 0.0) == pytest.approx(scale)
        assert replace(found, mixer=replace(found.mixer, scale=wanted.mixer.scale)) == wanted
    assert (read.eps, read.hidden, read.vocab, read.tied) == (own.eps, own.hidden, own.vocab, False)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_number_is_there(name: str, tmp_path: Path) -> None:
    inputs, tensors = exported(name, tmp_path)
    written = sum(values.size for values in tensors.values())
    assert written == inputs.model.decoder.parameters
    embedding = tensors["model.embed_tokens.weight"]
    codes = inputs.plan.codes
    assert (embedding[np.arange(300), 128 - codes + np.arange(300) % codes] == CODE).all()
    layer, last = inputs.layer(1), "model.layers.1."
    assert np.array_equal(
        tensors[f"{last}mlp_norm.weight".replace("mlp_norm", "post_attention_layernorm")],
        layer.vectors["mlp_norm"],
    )
    router = tensors[f"{last}mlp.{'router' if 'gpt' in name else 'gate'}.weight"]
    assert np.array_equal(router, layer.matrices["router"].values)
    if "gpt" in name:
        both = tensors[f"{last}mlp.experts.gate_up_proj"][3]
        assert np.array_equal(both[:, 0::2].T, layer.matrices["expert3.gate"].values)
        assert np.array_equal(both[:, 1::2].T, layer.matrices["expert3.up"].values)
        assert np.array_equal(
            tensors[f"{last}mlp.experts.down_proj"][3].T, layer.matrices["expert3.down"].values
        )
        assert np.array_equal(
            tensors[f"{last}mlp.experts.gate_up_proj_bias"][3][1::2], layer.vectors["expert3.up_bias"]
        )
    else:
        down = tensors[f"{last}mlp.experts.3.down_proj.weight"]
        assert np.array_equal(down, layer.matrices["expert3.down"].values)
        assert not down[128 - codes :].any()


def test_published_models_have_their_own_architecture() -> None:
    found = {name: architecture_of(one) for name, one in SHAPES.items() if name not in EVERY}
    assert {name: one.model_type for name, one in found.items() if one} == {
        "mixtral-8x7b": "mixtral",
        "mixtral-8x22b": "mixtral",
        "qwen3-30b-a3b": "qwen3_moe",
        "qwen3-235b-a22b": "qwen3_moe",
        "gpt-oss-20b": "gpt_oss",
        "gpt-oss-120b": "gpt_oss",
        "deepseek-v2-lite": "deepseek_v2",
        "deepseek-v2": "deepseek_v2",
        "deepseek-v3": "deepseek_v3",
        "kimi-k2": "deepseek_v3",
        "glm-4.7-flash": "deepseek_v3",  # what it computes is that, from its weights to its router
    }


def test_what_has_no_architecture_is_named(tmp_path: Path) -> None:
    inputs: Any = make_inputs(parse("step:model=tiny-granite,context=3,weight=f32,kv=f32,cache=prompt"), 2)
    with pytest.raises(
        ExportError, match=r"tiny-granite has .*gains of residuals, experts.* which is not exported"
    ):
        export_model(inputs, tmp_path / "model")
    assert "experts" in (export.refusal(inputs.model, 4) or "")
