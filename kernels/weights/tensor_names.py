"""What Hugging Face's checkpoints call a model's tensors, family by family.

>>> from membound.kernels.models import get_model
>>> names = TensorNames(get_model("/models/phi-4"))
>>> names.matrix(0, "k")
Place(tensor='model.layers.0.self_attn.qkv_proj.weight', first=5120, stored=7680)

Several matrices may be stored as one, row on row; norms of Gemma are stored less one. Sources: huggingface/transformers,
models/*/modeling_*.py, version 5.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from membound.kernels.layer_tensors import matrices_of
from membound.kernels.model import Model
from membound.kernels.parts import Experts, Latent
from membound.kernels.weights.hybrid_names import GRANITE, NEMOTRON, blocks_of, rows_of, vector_of

MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "q_down": "self_attn.q_a_proj",
    "q_up": "self_attn.q_b_proj",
    "kv_down": "self_attn.kv_a_proj_with_mqa",
    "kv_up": "self_attn.kv_b_proj",
    "index_q": "self_attn.indexer.wq_b",
    "index_k": "self_attn.indexer.wk",
    "index_weights": "self_attn.indexer.weights_proj",
}
VECTORS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "kv_norm": "self_attn.kv_a_layernorm",
    "index_k_norm": "self_attn.indexer.k_norm",
}
LATENT_QUERIES = "self_attn.q_a_layernorm"
"""The norm of queries in latent attention."""
_QKV, _GATE_UP = ("self_attn.qkv_proj", ("q", "k", "v")), ("mlp.gate_up_proj", ("gate", "up"))
_SHARED_INTO = "shared_mlp.input_linear"
"""Granite's gate and up, of an MLP that all tokens take, alone or beside experts."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a family differs: matrices that are one tensor, what others are called, the names of norms, what is added to a stored norm."""

    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    matrices: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, str] = field(default_factory=dict)
    plus: float = 0.0


_GEMMA = Stored(
    vectors={
        "attention_out_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_out_norm": "post_feedforward_layernorm",
    },
    plus=1.0,
)
GEMMA_4 = "gemma4_text"
_GEMMA_4 = {
    "shared_out_norm": "post_feedforward_layernorm_1",
    "experts_norm": "pre_feedforward_layernorm_2",
    "experts_out_norm": "post_feedforward_layernorm_2",
}
OWN_TENSORS = {
    "router_norm": "router.scale",
    "expert_gain": "router.per_expert_scale",
    "layer_gain": "layer_scalar",
}
"""Vectors of Gemma 4 that are no module's weight or bias."""
FAMILIES = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    GEMMA_4: Stored(vectors={**_GEMMA.vectors, **_GEMMA_4}),
    "glm": Stored(fused=(_GATE_UP,)),
    "glm4": Stored(
        fused=(_GATE_UP,),
        vectors={"attention_out_norm": "post_self_attn_layernorm", "mlp_out_norm": "post_mlp_layernorm"},
    ),
    **dict.fromkeys(
        (GRANITE, "granitemoeshared"),
        Stored(
            fused=tuple((_SHARED_INTO, names) for names in (("gate", "up"), ("shared.gate", "shared.up"))),
            matrices=dict.fromkeys(("down", "shared.down"), "shared_mlp.output_linear"),
        ),
    ),
    "olmo2": Stored(
        vectors={
            "attention_out_norm": "post_attention_layernorm",
            "mlp_out_norm": "post_feedforward_layernorm",
        }
    ),
    "phi3": Stored(fused=(_QKV, _GATE_UP)),
    "qwen3_5_moe_text": Stored(plus=1.0),
    "qwen3_5_text": Stored(plus=1.0),
    "qwen3_next": Stored(plus=1.0),
}
"""By model_type; others store as Llama does."""


WITHIN = ("model.language_model.", "language_model.model.")
"""Where a model that sees or hears keeps what others keep in `model.`."""
BACKBONE = "backbone."
"""What Nemotron-H's published files have for `model.`."""
PREDICTED = ("mtp.", "model.mtp_layers.")
"""Where Qwen's and MiMo's files keep layers that guess tokens ahead, which a step does not take."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What a family calls its router and experts, in the order in which names are looked for: files have those of the published
    models, or those of Transformers' own modules, which stack experts.

    correction: what corrects the choice. apart: an expert's gate, up and down where each is a tensor. stacked: gate and up, and down, of all experts as one each.
    columns: stacked ones are [count, k, n]. in_turns: rows of gate and up take turns, else gate comes first.
    """

    blocks: tuple[str, ...] = ("mlp",)
    routers: tuple[str, ...] = ("gate",)
    apart: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    stacked: tuple[tuple[str, str], ...] = (("experts.gate_up_proj", "experts.down_proj"),)
    shared: tuple[str, ...] = ("shared_experts", "shared_expert")
    columns: bool = False
    in_turns: bool = False
    correction: str = "gate.e_score_correction_bias"


ROUTED = {
    GEMMA_4: Routed(blocks=("",), routers=("router.proj",), shared=("mlp",)),
    "gpt_oss": Routed(routers=("router",), columns=True, in_turns=True),
    **dict.fromkeys(
        ("granitemoe", GRANITE, "granitemoeshared"),
        Routed(
            blocks=("block_sparse_moe",),
            routers=("router.layer", "router"),
            stacked=(
                ("input_linear.weight", "output_linear.weight"),
                ("experts.gate_up_proj", "experts.down_proj"),
            ),
        ),
    ),
    "llama4_text": Routed(blocks=("feed_forward",), routers=("router",), columns=True),
    "minimax_m2": Routed(
        blocks=("block_sparse_moe", "mlp"), apart=("w1", "w3", "w2"), correction="e_score_correction_bias"
    ),
    NEMOTRON: Routed(
        blocks=("mixer",),
        apart=("", "up_proj", "down_proj"),
        stacked=(("experts.up_proj", "experts.down_proj"),),
    ),
    "mixtral": Routed(blocks=("block_sparse_moe", "mlp"), apart=("w1", "w3", "w2")),
}
"""By model_type; others have Qwen's and DeepSeek's names."""


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of a tensor from `first` on; it holds `stored` rows in all.

    Runs of `run` rows lie `period` apart; 0: they lie one behind the other.
    """

    tensor: str
    first: int
    stored: int
    run: int = 0
    period: int = 0

    def slices(self, start: int, end: int) -> Iterator[slice]:
        """Where the matrix' rows from start to end lie in the tensor, one piece after the other."""
        run = self.run or max(end, 1)
        while start < end:
            number, within = divmod(start, run)
            count = min(run - within, end - start)
            at = self.first + number * self.period + within
            yield slice(at, at + count)
            start += count


class TensorNames:
    """Where the numbers of a model's parts stand in its files."""

    def __init__(self, model: Model, there: Collection[str] = (), family: str = "") -> None:
        """Names of the model's own family, or of another, where `there` are those of a folder."""
        self._model = model
        self._family = family or model.decoder.family
        self._stored = FAMILIES.get(self._family, Stored())
        self._nemotron = self._family == NEMOTRON
        self._blocks = blocks_of(model.decoder.layers, self._family)
        within = WITHIN if model.decoder.left_out else (BACKBONE,) if self._nemotron else ()
        self._inner = next((one for one in within if any(name.startswith(one) for name in there)), "model.")
        outer = "language_model." if self._inner == "language_model.model." else ""
        self.embedding = f"{self._inner}{'embeddings' if self._nemotron else 'embed_tokens'}.weight"
        self.final_norm = f"{self._inner}{'norm_f' if self._nemotron else 'norm'}.weight"
        self.final_bias = f"{self._inner}norm.bias"
        self.lm_head = f"{outer}lm_head.weight"
        self.routed = ROUTED.get(self._family, Routed())
        first = next((i for i, one in enumerate(model.decoder.layers) if isinstance(one.mlp, Experts)), 0)
        self.block = _found(self.routed.blocks, self._layer(first, 1), there)
        within_block = f"{self._layer(first, 1)}{self._in_block('')}"
        self._router = _found(self.routed.routers, within_block, there)
        self._shared = _found(self.routed.shared, within_block, there)

    def layer_of(self, tensor: str) -> int | None:
        """The layer that a tensor is of."""
        found = re.match(rf"{re.escape(self._inner)}layers\.(\d+)\.", tensor)
        if found is None:
            return None
        block = int(found[1])
        return next(
            (index for index, blocks in enumerate(self._blocks) if block in blocks), len(self._blocks)
        )

    def writes(self, tensor: str) -> bool:
        """Whether a tensor is of the part that writes text, in a folder of a model that does more."""
        return (tensor.startswith(self._inner) and ".visual." not in tensor) or tensor == self.lm_head

    def _layer(self, index: int, half: int = 0) -> str:
        """How the names of tensors of a layer's first or second half begin."""
        return f"{self._inner}layers.{self._blocks[index][half]}."

    def added(self, name: str) -> float:
        """What is added to a stored vector: norms' gains may be stored less one, that of a state never is."""
        return self._stored.plus if name.endswith("_norm") and name != "state_norm" else 0.0

    def matrix(self, index: int, name: str) -> Place:
        """A matrix of layer `index`."""
        shapes = matrices_of(self._model.decoder.layers[index], self._model.hidden)
        for tensor, names in self._stored.fused:
            if name in names:
                rows = [shapes[one][0] for one in names]
                return Place(
                    f"{self._layer(index)}{tensor}.weight", sum(rows[: names.index(name)]), sum(rows)
                )
        mixer, n = self._model.decoder.layers[index].mixer, shapes[name][0]
        found = rows_of(mixer, self._family, name) if name in mixer.matrices(1) else None
        if found is not None and not found.stored:
            return Place(f"{self._layer(index)}{found.module}.weight", 0, n)
        if found is not None:
            run, period = (0, 0) if found.run == n else (found.run, found.period)
            return Place(f"{self._layer(index)}{found.module}.weight", found.first, found.stored, run, period)
        half = int(MATRICES[name.removeprefix("shared.")].startswith("mlp."))
        return Place(f"{self._layer(index, half)}{self._module(name)}.weight", 0, n)

    def _module(self, name: str) -> str:
        """What a matrix is called within its layer."""
        if name in self._stored.matrices:
            return self._stored.matrices[name]
        own = name.removeprefix("shared.")
        module = MATRICES[own].removeprefix("mlp.")
        if own != name:
            return self._in_block(f"{self._shared}.{module}")
        if self._nemotron:
            return f"mixer.{MATRICES[own].rpartition('.')[2]}"
        dense = "feed_forward" if self.block == "feed_forward" else "mlp"  # Llama 4 calls both so
        return f"{dense}.{module}" if module != MATRICES[own] else module

    def router(self, index: int) -> str:
        """The router's matrix in layer `index`."""
        return self.in_block(index, f"{self._router}.weight")

    def in_block(self, index: int, name: str) -> str:
        """A tensor of the half of layer `index` that routes."""
        return f"{self._layer(index, 1)}{self._in_block(name)}"

    def _in_block(self, name: str) -> str:
        """A name within the block that routes, which a layer of Gemma 4 is itself."""
        return f"{self.block}.{name}" if self.block else name

    def vector(self, index: int, name: str) -> str:
        """A norm's gain or bias, or the bias of a matrix, of layer `index`."""
        if name == "sinks":
            return f"{self._layer(index)}self_attn.sinks"
        if name in OWN_TENSORS:
            return f"{self._layer(index)}{OWN_TENSORS[name]}"
        mixer = self._model.decoder.layers[index].mixer
        if (own := vector_of(mixer, self._family, name)) is not None:
            return f"{self._layer(index)}{own}"
        if self._nemotron and name in ("attention_norm", "mlp_norm"):
            return f"{self._layer(index, int(name == 'mlp_norm'))}norm.weight"
        routed = {
            "router_bias": f"{self._router}.bias",
            "correction": self.routed.correction,
            "shared_gate": "shared_expert_gate.weight",
        }
        if name in routed:
            return self.in_block(index, routed[name])
        if isinstance(mixer, Latent) and name == "q_norm":
            return f"{self._layer(index)}{LATENT_QUERIES}.weight"
        of = name.removesuffix("_bias")
        kind = "bias" if of != name else "weight"
        if of.removeprefix("shared.") in MATRICES and (self._nemotron or of.startswith("shared.")):
            half = int(MATRICES[of.removeprefix("shared.")].startswith("mlp."))
            return f"{self._layer(index, half)}{self._module(of)}.{kind}"
        module = {**MATRICES, **VECTORS, **self._stored.vectors}[of]
        return f"{self._layer(index)}{module}.{kind}"

    def vectors(self, index: int) -> Iterator[tuple[str, str, int]]:
        """(name, tensor, width) of each vector of layer `index`."""
        decoder = self._model.decoder
        for name, width in decoder.vector_widths(decoder.layers[index]).items():
            yield name, self.vector(index, name), width


def _found(names: tuple[str, ...], before: str, there: Collection[str]) -> str:
    """The first of the names that stands behind `before` in a tensor's name; the first of all if none does."""
    return next(
        (name for name in names if any(tensor.startswith(f"{before}{name}.") for tensor in there)), names[0]
    )
