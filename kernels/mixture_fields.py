"""The experts of a layer as a config.json describes them, by family.

>>> qwen(shared=False)(Config(path, fields), index=0).count
128

`families` says which of them a model_type has. Sources: huggingface/transformers, models/*/modeling_*.py, version 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from membound.kernels.config_json import Config
from membound.kernels.parts import Experts, Mlp, Router

Mixture = Callable[[Config, int], Experts | None]
"""Makes the experts of a layer from a config.json; None where the layer is dense."""
PLAIN, CORRECTED = Router(), Router(correction=True)
"""Routers without numbers besides their matrix, and with one an expert that corrects the choice."""


def mixture_of(
    config: Config, count: str, chosen: str, expert: Mlp, shared: Mlp | None = None, **more: Any
) -> Experts:
    """Experts of the fields that say how many there are and how many a token takes."""
    there = config.count(count)
    if config.count(chosen) > there:
        raise config.bad(chosen, f"{there} at most, which is {count}")
    return Experts(there, config.count(chosen), expert, shared, **more)


def shared_of(config: Config, count: str, width: int) -> Mlp | None:
    """The MLPs that every token takes, as one that is as wide as all of them."""
    shared = config.count(count, 0) if config.fields.get(count) is not None else 0
    return Mlp(shared * width) if shared else None


def listed(config: Config, name: str) -> list[int] | None:
    """A list of layers, where the file has one."""
    value = config.fields.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, int) for one in value)):
        raise config.bad(name, "a list of layers")
    return value


def every_layer(
    width: str, count: str, shared: str = "", bias: bool = False, router: Router = PLAIN
) -> Mixture:
    """A mixture in every layer, as Mixtral has it. `shared`: the field with the width of the MLP that all tokens take."""

    def mixture(config: Config, index: int) -> Experts:
        wide = config.count(shared) if shared and config.fields.get(shared) else 0
        expert = Mlp(config.count(width), bias=bias)
        common = Mlp(wide) if wide else None
        return mixture_of(config, count, "num_experts_per_tok", expert, common, router=router)

    return mixture


def qwen(shared: bool) -> Mixture:
    """Qwen's: some layers may be dense. `shared`: an MLP that all tokens take, with a gate of its own."""

    def mixture(config: Config, index: int) -> Experts | None:
        dense = index in (listed(config, "mlp_only_layers") or ())
        if dense or (index + 1) % config.count("decoder_sparse_step"):
            return None
        wide = "shared_expert_intermediate_size"
        common = Mlp(config.count(wide)) if shared and config.fields.get(wide) else None
        expert = Mlp(config.count("moe_intermediate_size"))
        return mixture_of(
            config, "num_experts", "num_experts_per_tok", expert, common, shared_gate=common is not None
        )

    return mixture


def deepseek(router: Router, dense: bool = True) -> Mixture:
    """DeepSeek's and GLM's, with experts that every token takes. `dense`: the first layers are, or those that mlp_layer_types names."""

    def mixture(config: Config, index: int) -> Experts | None:
        if not config.fields.get("n_routed_experts") or (dense and not is_routed(config, index)):
            return None
        width = config.count("moe_intermediate_size")
        shared = shared_of(config, "n_shared_experts", width)
        count, chosen = "n_routed_experts", "num_experts_per_tok"
        return mixture_of(config, count, chosen, Mlp(width), shared, router=router)

    return mixture


def is_routed(config: Config, index: int) -> bool:
    """Whether a layer has experts: as mlp_layer_types says, else by the first dense ones and their interval."""
    kinds = config.fields.get("mlp_layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != config.count("num_hidden_layers"):
            raise config.bad("mlp_layer_types", "a list with one kind for each layer")
        return bool(kinds[index] == "sparse")
    every = config.count("moe_layer_freq") if config.fields.get("moe_layer_freq") is not None else 1
    return index >= config.count("first_k_dense_replace", 0) and not index % every


def llama4(config: Config, index: int) -> Experts | None:
    """Every interleave_moe_layer_step-th layer, or those that are listed; with one expert that every token takes."""
    named = listed(config, "moe_layers")
    if named is None and (index + 1) % config.count("interleave_moe_layer_step"):
        return None
    if named is not None and index not in named:
        return None
    expert = Mlp(config.count("intermediate_size"))
    return mixture_of(config, "num_local_experts", "num_experts_per_tok", expert, expert)


def ernie(config: Config, index: int) -> Experts | None:
    """Between two layers, every moe_layer_interval-th."""
    last, first = config.fields.get("moe_layer_end_index"), config.count("moe_layer_start_index", 0)
    if last is not None and last != -1:
        last = config.count("moe_layer_end_index", 0)
    inside = first <= index <= (config.count("num_hidden_layers") - 1 if last in (None, -1) else last)
    if not inside or (index + 1) % config.count("moe_layer_interval"):
        return None
    width = config.count("moe_intermediate_size")
    shared = shared_of(config, "moe_num_shared_experts", width)
    return mixture_of(config, "moe_num_experts", "moe_k", Mlp(width), shared, router=CORRECTED)
