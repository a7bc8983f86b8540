"""GGUF files written byte by byte as ggml's docs/gguf.md says.

>>> write_gguf(path, fields, {"output_norm.weight": (0, norm)})      # type F32 and the array, or (type, shape, bytes)
"""

import struct

import numpy as np
from checkpoints import CONFIG

F32, F16, Q4_0, Q8_0, Q4_K, Q6_K, BF16 = 0, 1, 2, 8, 12, 14, 30
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}


def fields_of(architecture="llama", **more):
    """The metadata of CONFIG."""
    fields = {
        "block_count": CONFIG["num_hidden_layers"],
        "embedding_length": CONFIG["hidden_size"],
        "feed_forward_length": CONFIG["intermediate_size"],
        "attention.head_count": CONFIG["num_attention_heads"],
        "attention.head_count_kv": CONFIG["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
    }
    return {"general.architecture": architecture} | {
        f"{architecture}.{name}": v for name, v in (fields | more).items()
    }


def name_of(name):
    """llama.cpp's name of a tensor that Hugging Face calls `name`."""
    if name in NAMES:
        return NAMES[name]
    _, _, index, part = name.split(".", 3)
    part, _, end = part.rpartition(".")
    return f"blk.{index}.{NAMES[part]}.{end}"


def in_pairs(values, heads):
    """Rows of q or k as the architecture "llama" has them: i and i + d/2 of a head become 2i and 2i + 1."""
    each = len(values) // heads
    order = [
        h * each + half * (each // 2) + i for h in range(heads) for i in range(each // 2) for half in (0, 1)
    ]
    return values[order]


def random_blocks(rng, kind, n, k):
    """Rows of super-blocks of Q4_K or Q6_K [n, bytes of a row], with scales that make small numbers."""
    size, scales = {Q4_K: (144, (0, 2)), Q6_K: (210, (208,))}[kind]
    rows = rng.integers(0, 256, (n * k // 256, size), np.uint8)
    for at in scales:
        drawn = (0.0002 + 0.0004 * rng.random(len(rows))).astype(np.float16)
        rows[:, at : at + 2] = drawn[:, None].view(np.uint8)
    return rows.reshape(n, -1)


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(one):
    if isinstance(one, str):
        return struct.pack("<I", 8) + text(one)
    if isinstance(one, list):
        return struct.pack("<IIQ", 9, 8, len(one)) + b"".join(text(each) for each in one)
    return struct.pack("<If", 6, one) if isinstance(one, float) else struct.pack("<II", 4, one)


def gguf(fields, tensors, version=3):
    """The bytes of a file. A tensor: (type, array), or (type, shape, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    head += b"".join(text(name) + value(one) for name, one in fields.items())
    at, data = 0, b""
    for name, (kind, *rest) in tensors.items():
        shape, content = (rest[0].shape, rest[0].tobytes()) if len(rest) == 1 else rest
        head += (
            text(name)
            + struct.pack("<I", len(shape))
            + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        )
        head += struct.pack("<IQ", kind, at)
        data += content + bytes(-len(content) % 32)
        at = len(data)
    return head + bytes(-len(head) % 32) + data


def write_gguf(path, fields, tensors):
    """Write a file; returns its path as text."""
    path.write_bytes(gguf(fields, tensors))
    return str(path)


def floats(array, kind):
    """An array as a tensor of floats."""
    if kind == BF16:
        return kind, array.shape, (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return kind, array.astype({F32: np.float32, F16: np.float16}[kind])
