"""The file and the server of `membound_llamacpp`: a work's own weights as GGUF, and llama.cpp set up for them."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import xllamacpp
from gguf import GGMLQuantizationType, GGUFWriter

from membound.kernels.reference import rope_frequencies

FORMATS = ("f32", "f16", "bf16")
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
SPARE_TOKENS = 32
QUIET = -1


def unsupported(work):
    """None, or what keeps the server from running the work as it stands."""
    if work.kind not in ("step", "prefill"):
        return "an engine runs whole steps and prompts only"
    if work.kind == "step" and work.cache != "prompt":
        return "an engine holds only what it computed itself: ask for cache=prompt"
    if work.batch > 1:
        return "requests of one sequence only"
    if work.weight not in FORMATS or work.kv not in FORMATS:
        return f"weight and kv must be one of {', '.join(FORMATS)}"
    model = work.shape
    if model.qkv_bias or model.qk_norm or not model.gated:
        return "only models of the architecture llama"
    return None


def write_gguf(path, inputs):
    """Write the model of `inputs` to `path`, with a vocabulary of placeholders; returns the path."""
    model, file = inputs.model, GGUFWriter(path, "llama")
    tokens = inputs.tokens.shape[1]
    file.add_context_length(tokens + SPARE_TOKENS)
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
    file.add_tokenizer_model("llama")
    file.add_token_list([f"<{number}>" for number in range(model.vocab)])
    file.add_token_scores([0.0] * model.vocab)
    file.add_token_types([1] * model.vocab)
    file.add_add_bos_token(False)
    _add_tensors(file, inputs)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def _add_tensors(file, inputs):
    model = inputs.model
    file.add_tensor("token_embd.weight", inputs.source.embedding(np.arange(model.vocab)))
    file.add_tensor("output_norm.weight", inputs.final_norm())
    _add_matrix(file, "output", inputs.lm_head())
    if model.rope_scaling:
        plain = rope_frequencies(replace(model, rope_scaling=()))
        file.add_tensor("rope_freqs.weight", (plain / rope_frequencies(model)).astype(np.float32))
    for index in range(model.layers):
        layer = inputs.layer(index)
        for name, weight in layer.matrices.items():
            heads = {"q": model.q_heads, "k": model.kv_heads}.get(name, 0)
            _add_matrix(file, f"blk.{index}.{NAMES[name]}", weight, heads)
        file.add_tensor(f"blk.{index}.attn_norm.weight", layer.attention_norm)
        file.add_tensor(f"blk.{index}.ffn_norm.weight", layer.mlp_norm)


def _add_matrix(file, name, weight, heads=0):
    """A weight as it is stored. GGUF's "llama" rotates pairs (2i, 2i + 1) of a head, membound (i, i + d/2)."""
    values = weight.values
    if heads:
        pairs = values.reshape(heads, 2, weight.n // heads // 2, weight.k)
        values = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.n, weight.k)
    if weight.format == "bf16":
        file.add_tensor(f"{name}.weight", values.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)
    else:
        file.add_tensor(f"{name}.weight", values)


def serve(inputs, threads):
    """llama.cpp's server with the model and for the prompt of `inputs`, the cache in the format of the work."""
    with tempfile.TemporaryDirectory() as folder:  # the server maps the file, so the name may go
        params = _params(inputs.work.kv, inputs.tokens.shape[1], threads)
        params.model.path = str(write_gguf(Path(folder) / "model.gguf", inputs))
        return xllamacpp.Server(params)


def _params(kv, tokens, threads):
    params = xllamacpp.CommonParams()
    params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = tokens + SPARE_TOKENS, 1, 512, 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kv.upper()}")
    # flash attention multiplies a float32 cache in float16
    kind = "DISABLED" if kv == "f32" else "ENABLED"
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{kind}")
    params.warmup, params.verbosity = False, QUIET
    return params
