"""Routed experts as ONNX Runtime has them: MoE for floats, QMoE for int8 and int4, with the router before them.

>>> graph = experts_graph(inputs, weight_set=0)      # x [rows, hidden], router [hidden, count] -> y, logits

Both take the router's logits, choose and normalise by themselves, and share experts out between threads by their numbers.
The router is an input, since each input set has its own and all share the experts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from membound.backends.onnx_runtime.graph import ACCURACY_LEVEL, CONTRIB, Graph
from membound.kernels.forward import CLAMP, CLAMP_SLOPE
from membound.kernels.inputs import ExpertInputs
from membound.kernels.weights.formats import F32, FORMATS, Weight, dequantize
from membound.kernels.work import RoutedExperts

OneExpert = Callable[[int], tuple[Weight, Weight, Weight]]
"""The number of an expert -> its gate, up and down."""
ExpertBiases = tuple[F32, F32]
"""Of all experts: gate and up in turn [count, 2 · width], and down [count, hidden]."""
ACTIVATIONS: dict[str, dict[str, float]] = {
    "silu": {"activation_alpha": 1.0, "activation_beta": 0.0},
    "clamped": {"activation_alpha": CLAMP_SLOPE, "activation_beta": 1.0, "swiglu_limit": CLAMP},
}
"""What `swiglu` computes: (up + beta) · gate · σ(alpha · gate), gate and up bounded by the limit."""
ZERO = 128
"""What is added to int8: QMoE takes unsigned bytes."""
SCALE_BYTES = 4


def experts_graph(inputs: ExpertInputs, weight_set: int) -> Graph:
    """The experts of one set. `extra_bytes`: what a launch reads beyond what the format asks for."""
    work = inputs.work
    graph = Graph()
    graph.declare_input("x", (work.batch, work.hidden))
    graph.declare_input("router", (work.hidden, work.count))
    graph.declare_output("y", (work.batch, work.hidden))
    graph.declare_output("logits", (work.batch, work.count))
    graph.node("MatMul", ["x", "router"], ["logits"])
    add_experts(graph, "", work, lambda number: inputs.expert(weight_set, number), "x", "y")
    return graph


def add_experts(
    graph: Graph,
    here: str,
    work: RoutedExperts,
    expert: OneExpert,
    x: str,
    y: str,
    activation: str = "silu",
    biases: ExpertBiases | None = None,
) -> None:
    """The experts behind their router: x and `here`logits -> y."""
    group, quantized = FORMATS[work.weight].group, work.weight.startswith("int")
    wide: list[list[npt.NDArray[np.generic]]] = []
    narrow: list[list[npt.NDArray[np.generic]]] = []
    arrays = _quantized if quantized else _widened
    for number in range(work.count):
        gate, up, down = expert(number)
        pairs = zip(arrays(gate), arrays(up), strict=True)
        wide.append([_interleaved(*pair) for pair in pairs])
        narrow.append(arrays(down))
    stacks = [[np.stack(parts) for parts in zip(*each, strict=True)] for each in (wide, narrow)]
    stored = sum(array.nbytes for parts in stacks for array in parts) // work.count
    graph.extra_bytes += work.distinct * (stored - work.expert_bytes)
    first, second = (
        [graph.array(f"{here}{name}.{i}", array) for i, array in enumerate(parts)]
        for name, parts in zip(("gate_up", "down"), stacks, strict=True)
    )
    common: dict[str, object] = {
        "k": work.chosen,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "normalize_routing_weights": 1,
    } | ACTIVATIONS[activation]
    bias = ["", ""]
    if biases is not None:
        names = ("gate_up_bias", "down_bias")
        bias = [graph.array(f"{here}{name}", values) for name, values in zip(names, biases, strict=True)]
    if not quantized:
        wires = [x, f"{here}logits", first[0], bias[0], second[0], bias[1]]
        graph.node("MoE", wires, [y], CONTRIB, **common)
        return
    more = {"block_size": group} if group else {}
    if work.act == "int8":
        more["accuracy_level"] = ACCURACY_LEVEL[work.act]
    graph.node(
        "QMoE",
        [x, f"{here}logits", *first, bias[0], *second, bias[1]],
        [y],
        CONTRIB,
        expert_weight_bits=FORMATS[work.weight].bits,
        **common,
        **more,
    )


def _widened(weight: Weight) -> list[npt.NDArray[np.generic]]:
    """The matrix as float32."""
    return [dequantize(weight)]


def _quantized(weight: Weight) -> list[npt.NDArray[np.generic]]:
    """Unsigned values and float32 scales, [n, k / values a byte] and [n] or [n, groups]."""
    if weight.scales is None:
        raise AssertionError("no weight.scales")
    values = weight.values
    if weight.format == "int8":
        values = (values.view(np.int8).astype(np.int16) + ZERO).astype(np.uint8)
    return [values.view(np.uint8), weight.scales.astype(np.float32)]


def _interleaved(gate: npt.NDArray[np.generic], up: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Rows of gate and up in turn, as the operators want them."""
    both: npt.NDArray[np.generic] = np.stack([gate, up], 1).reshape(2 * len(gate), *gate.shape[1:])
    return both
