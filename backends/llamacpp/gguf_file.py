"""A work's model as a GGUF file of the architecture "llama", with the weights that every backend gets.

>>> write_gguf(Path("model.gguf"), inputs, context=4096)
PosixPath('model.gguf')
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from membound.kernels.features import missing
from membound.kernels.inputs import ModelInputs, Weight
from membound.kernels.reference import rope_frequencies
from membound.kernels.rope import Rope
from membound.kernels.tokenizer import CHAT, SPECIAL, byte_pairs
from membound.kernels.weights.ggml import blocks
from membound.kernels.work import Prefill, Step

ASCII = 128
FORMATS = ("f32", "f16", "bf16")
QUANTIZED = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_k": "Q4_K"}
"""ggml's own types, by the names of works."""
NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
"""Matrices of a layer, by the names of GGUF's architecture "llama"."""


def model_refusal(work: Step | Prefill) -> str | None:
    """None, or why no GGUF file can hold the work's model as it is."""
    model = work.shape
    if work.weight not in (*FORMATS, *QUANTIZED):
        return f"weight must be one of {', '.join((*FORMATS, *QUANTIZED))}"
    if work.kv not in FORMATS:
        return f"kv must be one of {', '.join(FORMATS)}"
    if work.weight in QUANTIZED and work.act != "int8":
        return f"llama.cpp multiplies {work.weight} weights by activations in int8: ask for act=int8"
    if isinstance(work, Step) and work.queries > 1:
        return f"a server steps by one token a sequence, not {work.queries}"
    if model.qkv_bias or model.qk_norm or not model.gated:
        return "only models of the architecture llama"
    if reason := missing(work):
        return f"the architecture llama: {reason}"
    return None


def write_gguf(path: Path, inputs: ModelInputs, context: int) -> Path:
    """Write the model of `inputs`, for sequences of `context` tokens; returns the path."""
    from gguf import GGUFWriter

    model, file = inputs.model, GGUFWriter(path, "llama")
    file.add_context_length(context)
    file.add_embedding_length(model.hidden)
    file.add_block_count(model.layers)
    file.add_feed_forward_length(model.intermediate)
    file.add_head_count(model.q_heads)
    file.add_head_count_kv(model.kv_heads)
    file.add_key_length(model.head_dim)
    file.add_value_length(model.head_dim)
    file.add_layer_norm_rms_eps(model.norm_eps)
    file.add_rope_dimension_count(model.head_dim)
    file.add_rope_freq_base(model.rope_theta)
    _add_tokenizer(file, model.vocab)
    _add_tensors(file, inputs)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def _add_tokenizer(file: Any, size: int) -> None:
    """Every token has a text of its own: the server keeps back what is no whole letter yet.

    A vocabulary that is too small for ASCII, without which llama.cpp does not start, has placeholders.
    """
    from gguf import TokenType

    file.add_add_bos_token(False)
    if size < len(SPECIAL) + ASCII:
        file.add_tokenizer_model("llama")
        file.add_token_list([f"<{number}>" for number in range(size)])
        file.add_token_scores([0.0] * size)
        file.add_token_types([int(TokenType.NORMAL)] * size)
        return
    made = byte_pairs(size, whole_letters=True)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(made.tokens)
    kinds = [TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in made.tokens]
    file.add_token_types([int(kind) for kind in kinds])
    file.add_token_merges([" ".join(pair) for pair in made.merges])
    file.add_bos_token_id(SPECIAL.index("<s>"))
    file.add_eos_token_id(SPECIAL.index("</s>"))
    file.add_chat_template(CHAT)


def _add_tensors(file: Any, inputs: ModelInputs) -> None:
    model = inputs.model
    file.add_tensor("token_embd.weight", inputs.source.embedding(np.arange(model.vocab)))
    file.add_tensor("output_norm.weight", inputs.final_norm())
    _add_matrix(file, "output", inputs.lm_head())
    if model.rope_scaling:
        plain = Rope(model.rope_theta).frequencies(model.head_dim, 1)
        file.add_tensor("rope_freqs.weight", (plain / rope_frequencies(model)).astype(np.float32))
    for index in range(model.layers):
        layer = inputs.layer(index)
        for name, weight in layer.matrices.items():
            heads = {"q": model.q_heads, "k": model.kv_heads}.get(name, 0)
            _add_matrix(file, f"blk.{index}.{NAMES[name]}", weight, heads)
        file.add_tensor(f"blk.{index}.attn_norm.weight", layer.attention_norm)
        file.add_tensor(f"blk.{index}.ffn_norm.weight", layer.mlp_norm)


def _add_matrix(file: Any, name: str, weight: Weight, heads: int = 0) -> None:
    """A weight as it is stored. GGUF's "llama" rotates pairs (2i, 2i + 1) of a head, membound (i, i + d/2)."""
    from gguf import GGMLQuantizationType

    kind = QUANTIZED.get(weight.format, "BF16" if weight.format == "bf16" else "")
    values = weight.values
    if weight.format in QUANTIZED and weight.scales is not None:
        values = blocks(values, weight.scales)
    if heads:
        pairs = values.reshape(heads, 2, weight.n // heads // 2, -1)
        values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.n, -1)
    if kind:
        file.add_tensor(f"{name}.weight", values.view(np.uint8), raw_dtype=GGMLQuantizationType[kind])
    else:
        file.add_tensor(f"{name}.weight", values)
