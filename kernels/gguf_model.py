"""A GGUF file as a model: what its metadata means, for the architectures that are run here.

>>> read_gguf(Path("llama-3.2-1b-q8_0.gguf")).layers
16

Names and meanings of the fields: ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, src/llama-arch.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from membound.kernels.config_json import MAX_COUNT, MOST_LAYERS
from membound.kernels.gguf_header import Header, read_header
from membound.kernels.model import Model, ModelError, model_of
from membound.kernels.parts import Experts, Mlp, Router
from membound.kernels.rope import Llama3Scaling, Rope
from membound.kernels.weights.stored.gguf import Gguf

CONTENT_DIGITS = 12
EPS, THETA = 1e-5, 10000.0
LLAMA3_ROPES = ((8.0, 1.0, 4.0, 8192.0), (32.0, 1.0, 4.0, 8192.0))
"""Scalings of Llama 3.1, 3.2 and 3.3. A file has only the factors that follow from them, for each pair of columns."""


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What an architecture of llama.cpp's has besides RMSNorm, RoPE, grouped heads and a gated MLP.

    experts: whether it may have them in place of the MLP, Mixtral among Llama's; its router's shares add up to 1.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    experts: bool = False


ARCHITECTURES = {
    "llama": _Architecture(experts=True),
    "qwen2": _Architecture(qkv_bias=True),
    "qwen3": _Architecture(qk_norm=True),
    "qwen3moe": _Architecture(qk_norm=True, experts=True),
}
MOST_EXPERTS = 4096


def read_gguf(path: Path) -> Model:
    """The model that a file holds. Raises ModelError that names the file, the field and what is supported."""
    header = read_header(path)
    name = header.text("general.architecture")
    kind = ARCHITECTURES.get(name)
    if kind is None:
        raise ModelError(
            f"{path}: architecture {name!r:.60} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    _refuse(header, name, kind)
    hidden, heads = header.count(f"{name}.embedding_length"), header.count(f"{name}.attention.head_count")
    head_dim = header.count(f"{name}.attention.key_length", hidden // heads)
    kv_heads = header.count(f"{name}.attention.head_count_kv", heads)
    if heads % kv_heads or head_dim % 2:
        raise ModelError(f"{path}: {heads} query heads of {head_dim} do not go with {kv_heads} KV heads")
    if heads * head_dim > MAX_COUNT:
        raise ModelError(f"{path}: heads of {head_dim} make more than {MAX_COUNT} columns")
    for field, only in (("rope.dimension_count", head_dim), ("attention.value_length", head_dim)):
        if header.count(f"{name}.{field}", only) != only:
            raise ModelError(
                f"{path}: {name}.{field}={header.fields[f'{name}.{field}']} is not supported; supported: {only}"
            )
    table = header.tensors.get("token_embd.weight")
    if table is None:
        raise ModelError(f"{path} has no tensor token_embd.weight")
    if not 1 <= table.shape[0] <= MAX_COUNT:
        raise ModelError(f"{path}: token_embd.weight has {table.shape[0]} rows, which is no vocabulary")
    model = Model(
        name=str(path),
        hidden=hidden,
        layers=header.count(f"{name}.block_count", most=MOST_LAYERS),
        q_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=header.count(f"{name}.feed_forward_length"),
        vocab=table.shape[0],
        rope_theta=header.real(f"{name}.rope.freq_base", THETA),
        norm_eps=header.real(f"{name}.attention.layer_norm_rms_epsilon", EPS),
        tied="output.weight" not in header.tensors,
        qkv_bias=kind.qkv_bias,
        qk_norm=kind.qk_norm,
        folder=str(path),
        scheme=Gguf(name),
        content=header.digest[:CONTENT_DIGITS],
    )
    model = replace(model, rope_scaling=_rope_scaling(header, model))
    experts = _experts(header, name) if header.fields.get(f"{name}.expert_count") else None
    if experts is None:
        return model
    layers = tuple(replace(layer, mlp=experts) for layer in model.decoder.layers)
    whole = model_of(replace(model.decoder, layers=layers), model.content)
    return replace(whole, scheme=model.scheme)


def _experts(header: Header, name: str) -> Experts:
    """The experts that all layers have. Raises ModelError."""
    count = header.count(f"{name}.expert_count", most=MOST_EXPERTS)
    chosen = header.count(f"{name}.expert_used_count", most=count)
    width = header.count(f"{name}.expert_feed_forward_length", header.count(f"{name}.feed_forward_length"))
    return Experts(count, chosen, Mlp(width), router=Router(normalised=True))


def _refuse(header: Header, name: str, kind: _Architecture) -> None:
    """Raises ModelError for metadata that change the arithmetic in a way that is not computed here."""
    only_dense = () if kind.experts else (("expert_count", 0),)
    shared = (("expert_shared_count", 0), ("expert_group_count", 0), ("expert_gating_func", 1))
    others = (("rope.scaling.type", "none"), ("attention.sliding_window", 0))
    for field, only in (*only_dense, *shared, *others):
        value = header.fields.get(f"{name}.{field}", only)
        if value != only:
            raise ModelError(f"{header.path}: {name}.{field}={value!r:.60} is not supported")
    per_layer = header.fields.get(f"{name}.attention.head_count_kv")
    if isinstance(per_layer, list):
        raise ModelError(
            f"{header.path}: {name}.attention.head_count_kv differs from layer to layer, which is not supported"
        )


def _rope_scaling(header: Header, model: Model) -> tuple[float, ...]:
    """Llama 3's four numbers, recognised by the factors that a file has of them, or ()."""
    entry = header.tensors.get("rope_freqs.weight")
    if entry is None:
        return ()
    if entry.number != 0 or entry.shape != (model.head_dim // 2,):
        raise ModelError(f"{header.path}: rope_freqs.weight must be {model.head_dim // 2} float32 numbers")
    factors = np.fromfile(header.path, "<f4", entry.shape[0], offset=entry.offset)
    plain = Rope(model.rope_theta).frequencies(model.head_dim, 1)
    for scaling in LLAMA3_ROPES:
        scaled = Rope(model.rope_theta, scaling=Llama3Scaling(*scaling))
        expected = plain / scaled.frequencies(model.head_dim, 1)
        if np.allclose(factors, expected, rtol=1e-5):
            return scaling
    raise ModelError(
        f"{header.path}: the factors in rope_freqs.weight are not those of Llama 3.1 or 3.2, which are supported"
    )
