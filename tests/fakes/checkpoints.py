"""A small model's config.json and weights, under the names of Hugging Face."""

import json

import numpy as np
from safetensors.numpy import save_file

from membound.kernels.models import get_model
from membound.kernels.weights.formats import to_bf16

CONFIG = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 70,
}


def tensors_of(model, seed=1):
    """Random float32 tensors under the names Hugging Face gives them."""
    rng = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (model.vocab, model.hidden),
        "model.norm.weight": (model.hidden,),
    }
    if not model.tied:
        shapes["lm_head.weight"] = (model.vocab, model.hidden)
    for i in range(model.layers):
        prefix = f"model.layers.{i}."
        shapes[prefix + "input_layernorm.weight"] = (model.hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (model.hidden,)
        for name, (n, k) in model.layer_matrices.items():
            block = "self_attn" if name in "qkvo" else "mlp"
            shapes[f"{prefix}{block}.{name}_proj.weight"] = (n, k)
            if model.qkv_bias and name in "qkv":
                shapes[f"{prefix}{block}.{name}_proj.bias"] = (n,)
        if model.qk_norm:
            shapes[prefix + "self_attn.q_norm.weight"] = (model.head_dim,)
            shapes[prefix + "self_attn.k_norm.weight"] = (model.head_dim,)
    return {
        name: rng.standard_normal(shape).astype(np.float32) / np.float32(8) for name, shape in shapes.items()
    }


def save_bf16(tensors, path):
    """safetensors' layout by hand: NumPy has no bfloat16 to hand to the library."""
    header, data = {}, b""
    for name, values in tensors.items():
        bits = to_bf16(values).tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(bits)],
        }
        data += bits
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def folder_of(path, drop=(), edit=None, dtype=np.float32, **config):
    """A model folder of CONFIG with changes, without the tensors `drop`; `edit` changes them in place. Returns its path."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "llama"} | config))
    tensors = {name: values for name, values in tensors_of(get_model(str(path))).items() if name not in drop}
    if edit:
        edit(tensors)
    if dtype == "bf16":
        save_bf16(tensors, path / "model.safetensors")
    else:
        save_file(
            {name: values.astype(dtype) for name, values in tensors.items()}, path / "model.safetensors"
        )
    return str(path)
