"""The half of a layer that routes rows to experts, as ONNX nodes: the router by the model's rule, experts, the shared MLP.

>>> y = routed_half(graph, inputs, index=0, part=layer.mlp, weights=inputs.layer(0), normed="layer0.mlp_norm")

MoE and QMoE choose the largest logits and mix by the softmax over them alone. Of any other rule they are given the logarithms of
the shares of the experts that it chooses, and far less for all others: they choose the same, and what is left of the rule, the sum
of the shares and a factor, multiplies what comes out. The rule itself is `membound.kernels.forward.routes`, node by node.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from membound.backends.onnx_runtime.experts import ExpertBiases, add_experts
from membound.backends.onnx_runtime.graph import Graph, stack
from membound.kernels.bill import routed_experts
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import ROUTER
from membound.kernels.parts import Experts, Router
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.layers import I64, LayerWeights

NOT_CHOSEN = np.float32(-1e4)
"""The logit of an expert that the rule did not choose: of those that it chose shares are logarithms, some −20 at the least."""
AWAY = np.float32(-1e9)
"""What is added to the wishes of groups that are not looked at."""


def routed_half(
    graph: Graph, inputs: ModelInputs, index: int, part: Experts, weights: LayerWeights, normed: str
) -> str:
    """From the normed hidden state to what experts and shared MLP add to it; the name of that [rows, hidden].

    The logits that the operator chooses from are an output of the graph.
    """
    here, rows = f"layer{index}.", len(inputs.x)
    graph.declare_output(f"{here}logits", (rows, part.count))
    given = None if inputs.plan is not None else inputs.routes(index)
    plain = given is None and _is_plain(part.router)
    scores = f"{here}logits" if plain else f"{here}router_logits"
    _router(graph, here, weights, normed, scores)
    total = None if plain else _by_rule(graph, here, part, weights.vectors, scores, rows, given)

    def expert(number: int) -> tuple[Weight, Weight, Weight]:
        gate, up, down = (weights.matrices[f"expert{number}.{name}"] for name in ("gate", "up", "down"))
        return gate, up, down

    work = routed_experts(inputs.work, part, rows)
    biases = _biases(part, weights.vectors) if part.expert.bias else None
    y = f"{here}mixed"
    add_experts(graph, here, work, expert, normed, y, part.expert.activation, biases)
    if total is not None:
        graph.node("Mul", [y, total], [f"{y}.total"])
        y = f"{y}.total"
    if part.shared is None:
        return y
    graph.node("Add", [y, _shared(graph, inputs, here, part, weights, normed)], [f"{here}routed"])
    return f"{here}routed"


def _is_plain(router: Router) -> bool:
    """Whether the rule is the operators' own: the largest logits, and the softmax over them."""
    return (
        router.score == "softmax"
        and router.normalised
        and not router.correction
        and router.groups == 1
        and router.factor == 1
    )


def _router(graph: Graph, here: str, weights: LayerWeights, normed: str, y: str) -> None:
    """Y [rows, count]: the router's logits."""
    matrix = graph.array(f"{here}router", np.ascontiguousarray(weights.matrices[ROUTER].values.T))
    bias = weights.vectors.get("router_bias")
    product = y if bias is None else f"{y}.product"
    graph.node("MatMul", [normed, matrix], [product])
    if bias is not None:
        graph.node("Add", [product, graph.array(f"{here}router_bias", bias)], [y])


def _by_rule(
    graph: Graph,
    here: str,
    part: Experts,
    vectors: Mapping[str, F32],
    logits: str,
    rows: int,
    given: I64 | None,
) -> str | None:
    """The operator's logits by the rule; the name of what multiplies its output [rows, 1], None where nothing does.

    `given` [rows, chosen]: the choice where it is made already.
    """
    router, score = part.router, f"{here}score"
    if router.score == "sigmoid":
        graph.node("Sigmoid", [logits], [score])
    else:
        graph.node("Softmax", [logits], [score], axis=-1)
    ids, shares = f"{here}ids", f"{here}shares_of_chosen"
    if given is not None:
        graph.array(ids, given)
    else:
        _top(graph, _wish(graph, here, part, rows, vectors, score), part.chosen, f"{here}wished", ids)
    graph.node("GatherElements", [score, ids], [shares], axis=1)
    graph.node("Log", [shares], [f"{here}log_shares"])
    nothing = graph.array(f"{here}not_chosen", np.full((rows, part.count), NOT_CHOSEN))
    graph.node("ScatterElements", [nothing, ids, f"{here}log_shares"], [f"{here}logits"], axis=1)
    factor = None
    if router.factor != 1:
        factor = graph.array(f"{here}factor", np.full((1, 1), router.factor, np.float32))
    if router.normalised:
        return factor
    total = f"{here}total_share"
    graph.node("ReduceSum", [shares, graph.array(f"{here}last_axis", np.array([1]))], [total], keepdims=1)
    if factor is not None:
        graph.node("Mul", [total, factor], [f"{total}.scaled"])
        return f"{total}.scaled"
    return total


def _wish(graph: Graph, here: str, part: Experts, rows: int, vectors: Mapping[str, F32], score: str) -> str:
    """What the choice goes by: the score with its correction, within the best groups."""
    wish = score
    if part.router.correction:
        wish = f"{here}wish"
        graph.node("Add", [score, graph.array(f"{here}correction", vectors["correction"])], [wish])
    return _in_groups(graph, here, part, rows, wish) if part.router.groups > 1 else wish


def _in_groups(graph: Graph, here: str, part: Experts, rows: int, wish: str) -> str:
    """The wishes with those of groups that are not among the best far below; the name of that."""
    router = part.router
    shape = np.array([rows, router.groups, part.count // router.groups])
    grouped, best, taken = (f"{here}{name}" for name in ("grouped", "group_best", "groups_taken"))
    graph.node("Reshape", [wish, graph.array(f"{here}grouped_shape", shape)], [grouped])
    _top(graph, grouped, router.group_best, f"{best}.values", f"{best}.places")
    axis = graph.array(f"{here}group_axis", np.array([2]))
    graph.node("ReduceSum", [f"{best}.values", axis], [best], keepdims=0)
    _top(graph, best, router.groups_chosen, f"{taken}.values", taken)
    away = graph.array(f"{here}away", np.full((rows, router.groups), AWAY))
    none = graph.array(f"{here}not_away", np.zeros((rows, router.groups_chosen), np.float32))
    graph.node("ScatterElements", [away, taken, none], [f"{here}away_groups"], axis=1)
    graph.node("Unsqueeze", [f"{here}away_groups", axis], [f"{here}away_experts"])
    graph.node("Add", [grouped, f"{here}away_experts"], [f"{here}wish_in_groups"])
    flat = graph.array(f"{here}wish_shape", np.array([rows, part.count]))
    graph.node("Reshape", [f"{here}wish_in_groups", flat], [f"{here}wish_of_groups"])
    return f"{here}wish_of_groups"


def _top(graph: Graph, x: str, count: int, values: str, places: str) -> None:
    """The `count` largest of the last axis, and where they stand."""
    number = graph.array(f"{places}.count", np.array([count]))
    graph.node("TopK", [x, number], [values, places], axis=-1)


def _biases(part: Experts, vectors: Mapping[str, F32]) -> ExpertBiases:
    """Biases of gate and up, interleaved as the operators want them [count, 2 · width], and of down [count, hidden]."""
    wide, narrow = [], []
    for number in range(part.count):
        gate, up, down = (vectors[f"expert{number}.{name}_bias"] for name in ("gate", "up", "down"))
        wide.append(np.stack([gate, up], 1).reshape(-1))
        narrow.append(down)
    return np.stack(wide), np.stack(narrow)


def _shared(
    graph: Graph, inputs: ModelInputs, here: str, part: Experts, weights: LayerWeights, normed: str
) -> str:
    """The MLP that every row takes, under its gate where it has one."""
    matrices, act = weights.matrices, inputs.work.act
    pair = stack([matrices["shared.gate"], matrices["shared.up"]])
    graph.linear(normed, f"{here}shared_up", pair, act)
    activated = silu_gated(graph, f"{here}shared_", f"{here}shared_up")
    graph.linear(activated, f"{here}shared_down", matrices["shared.down"], act)
    if not part.shared_gate:
        return f"{here}shared_down"
    column = graph.array(f"{here}shared_gate", weights.vectors["shared_gate"][:, None])
    graph.node("MatMul", [normed, column], [f"{here}shared_logit"])
    graph.node("Sigmoid", [f"{here}shared_logit"], [f"{here}shared_share"])
    graph.node("Mul", [f"{here}shared_down", f"{here}shared_share"], [f"{here}shared"])
    return f"{here}shared"


def silu_gated(graph: Graph, here: str, both: str) -> str:
    """SwiGLU of stacked gate and up [rows, 2 · width]."""
    gate, up, sigmoid, gated, y = (
        f"{here}{name}" for name in ("gate_half", "up_half", "sigmoid", "gated", "hidden")
    )
    graph.node("Split", [both], [gate, up], axis=1, num_outputs=2)
    graph.node("Sigmoid", [gate], [sigmoid])
    graph.node("Mul", [gate, sigmoid], [gated])
    graph.node("Mul", [gated, up], [y])
    return y
