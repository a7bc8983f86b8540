"""A small model's config.json and weights, under the names of Hugging Face."""

import numpy as np

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
