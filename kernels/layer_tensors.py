"""The matrices and vectors of a layer by name, whatever parts it is made of.

>>> from membound.kernels.published import SHAPES
>>> decoder = SHAPES["qwen3-30b-a3b"]
>>> list(matrices_of(decoder.layers[0], decoder.hidden))
['q', 'k', 'v', 'o']
>>> expert_matrices(decoder.layers[0].mlp, decoder.hidden)["gate"]
(768, 2048)

An expert's own are named by its number: ``expert3.gate``, ``expert3.down_bias``. A router is ``router``, float32 in every format.
"""

from __future__ import annotations

from collections.abc import Mapping

from membound.kernels.parts import Decoder, Experts, Layer, Matrices, Mlp

ROUTER = "router"


def matrices_of(layer: Layer, hidden: int) -> dict[str, tuple[int, int]]:
    """What every token is multiplied by, in the order of use, but the router: name -> (n, k)."""
    found = dict(layer.mixer.matrices(hidden))
    if isinstance(layer.mlp, Mlp):
        return found | dict(layer.mlp.matrices(hidden))
    shared = layer.mlp.shared.matrices(hidden) if layer.mlp.shared else {}
    return found | {f"shared.{name}": shape for name, shape in shared.items()}


def expert_matrices(experts: Experts, hidden: int) -> Matrices:
    """Those of one expert, without its number: name -> (n, k)."""
    return experts.matrices(hidden)


def vectors_of(decoder: Decoder, layer: Layer) -> Mapping[str, int]:
    """All vectors of a layer by name with their widths, those of every expert among them."""
    found = dict(decoder.vector_widths(layer))
    if isinstance(layer.mlp, Experts):
        widths = layer.mlp.expert.vector_widths(decoder.hidden)
        for number in range(layer.mlp.count):
            found |= {f"expert{number}.{name}": width for name, width in widths.items()}
    return found


def routed_part(decoder: Decoder) -> Experts | None:
    """The experts of the first layer that has any; None of a dense model."""
    return next((layer.mlp for layer in decoder.kinds if isinstance(layer.mlp, Experts)), None)


def writes_residual(name: str) -> bool:
    """Whether a matrix or a bias is of those whose outputs are added to the hidden state: o and down."""
    return name.removesuffix("_bias").rpartition(".")[2] in ("o", "down")


def row_lengths(decoder: Decoder) -> list[int]:
    """The lengths of the rows of all matrices, a kind of layer after the other; the router's and the LM head's are the hidden width."""
    found = []
    for layer in decoder.kinds:
        found += [k for _, k in matrices_of(layer, decoder.hidden).values()]
        if isinstance(layer.mlp, Experts):
            found += [k for _, k in expert_matrices(layer.mlp, decoder.hidden).values()]
    return found
