"""Routed experts in torch: one grouped product over all experts, or a loop over those that were chosen.

>>> experts = ExpertLayer(inputs, weight_set=0, loop=False, compiled=False, background=background)
>>> y = experts.run(x, router)         # x [rows, hidden] and router [count, hidden] float32 -> y [rows, hidden] float32
>>> experts.form, experts.ids.shape
('grouped_mm', torch.Size([2, 8]))

`grouped_mm` is what Transformers runs experts with; it takes floats whose rows begin at multiples of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from membound.backends.background import Background
from membound.backends.pytorch.linear import (
    FLOATS,
    FloatLinear,
    FormatLinear,
    as_tensor,
    linear_unsupported,
    make_linear,
)
from membound.backends.pytorch.variants import Variants
from membound.kernels.forward import CLAMP, CLAMP_SLOPE
from membound.kernels.inputs import ExpertInputs, Weight
from membound.kernels.work import RoutedExperts

GROUPED = {"f32": torch.float32, "bf16": torch.bfloat16}
"""Formats in which torch has grouped products on CPUs; in float16 it would multiply in a plain loop."""
ALIGNED_BYTES = 16
"""Rows of the matrices of `grouped_mm` begin at multiples of this."""


def relu2(x: Tensor) -> Tensor:
    """The square of relu(x)."""
    return functional.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its approximation."""
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": gelu_tanh,
    "relu2": relu2,
}
"""By `Mlp`'s names."""
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [rows, hidden], ids, shares [rows, chosen]) -> y [rows, hidden] float32."""
OneExpert = Callable[[int], tuple[Weight, ...]]
"""The number of an expert -> its gate, where it has one, up and down."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How many experts there are, which activation they have (as `Mlp` names it), whether it is a gate's, and whether shares multiply what goes in.

    into_bias [count, 2 · width or width] and down_bias [count, hidden]: of gate and up, and of down; None where there are none.
    """

    count: int
    activation: str = "silu"
    on_input: bool = False
    into_bias: Tensor | None = None
    down_bias: Tensor | None = None
    gated: bool = True

    def activate(self, both: Tensor, ids: Tensor) -> Tensor:
        """Gate and up [rows, 2 · width], or up alone, of experts `ids` [rows] -> [rows, width], of the same dtype."""
        if self.into_bias is not None:
            both = both + self.into_bias[ids].to(both.dtype)
        if not self.gated:
            return ACTIVATIONS[self.activation](both)
        gate, up = both.chunk(2, -1)
        if self.activation == "clamped":
            gate, up = gate.clamp(max=CLAMP), up.clamp(-CLAMP, CLAMP)
            return (up + 1) * gate * torch.sigmoid(CLAMP_SLOPE * gate)
        return ACTIVATIONS[self.activation](gate) * up

    def finish(self, y: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
        """What comes out of experts `ids` [rows], with its bias, times shares [rows, 1] unless they went in: float32."""
        y = y.float()
        if self.down_bias is not None:
            y = y + self.down_bias[ids]
        return y if self.on_input else y * shares


def takes_floats(weight: str, widths: tuple[int, int]) -> bool:
    """Whether torch's grouped product takes experts of that format, whose rows are that long."""
    return weight in GROUPED and all(
        width * GROUPED[weight].itemsize % ALIGNED_BYTES == 0 for width in widths
    )


def takes_grouped(work: RoutedExperts) -> bool:
    """Whether torch's grouped product takes these experts."""
    return takes_floats(work.weight, (work.hidden, work.width))


def experts_unsupported(work: RoutedExperts, variants: Variants, device: str) -> str | None:
    """Why torch does not run these experts on that device as that variant, or None."""
    if device != "cpu":
        return "routed experts are built from torch's operators for CPUs"
    if variants.form != "grouped":
        return f"the variant {variants.form} changes decode attention only"
    grouped = takes_grouped(work)
    if variants.loop and not grouped:
        return "a loop is what runs these experts without the variant loop, too"
    if variants.compiled and not grouped:
        return "torch.compile cannot trace a loop over the experts that were chosen"
    if variants.compiled and work.weight != "bf16":
        return "torch.compile takes grouped products in bfloat16 alone"
    return linear_unsupported(work.weight, work.act, (work.hidden, work.width), device)


class ExpertLayer:
    """A set of experts. `form`: how they run; `stored_bytes`: bytes of one expert; `ids` [rows, chosen]: the last choice."""

    def __init__(
        self, inputs: ExpertInputs, weight_set: int, loop: bool, compiled: bool, background: Background
    ) -> None:
        work = inputs.work
        grouped = takes_grouped(work) and not loop
        self.form = "grouped_mm" if grouped else "loop"
        self.ids: Tensor | None = None
        rows = -(-work.batch * work.chosen // work.distinct)
        mix, self.stored_bytes = make_mix(
            lambda number: inputs.expert(weight_set, number),
            Kind(work.count),
            work.act,
            rows,
            grouped,
            background,
        )

        def function(x: Tensor, router: Tensor) -> tuple[Tensor, Tensor]:
            ids, shares = choose(x, router, work.chosen)
            return mix(x, ids, shares), ids

        self._function = torch.compile(function, fullgraph=True, dynamic=False) if compiled else function

    def run(self, x: Tensor, router: Tensor) -> Tensor:
        """y [rows, hidden] float32 of x by that router, both float32."""
        y, self.ids = self._function(x, router)
        return y

    def settings(self) -> dict[str, Any]:
        """How they run, and how many different ones the last launch took."""
        return {
            "experts": self.form,
            "experts_read": 0 if self.ids is None else len(set(self.ids.flatten().tolist())),
        }


def make_mix(
    expert: OneExpert, kind: Kind, act: str, rows: int, grouped: bool, background: Background
) -> tuple[Mix, int]:
    """All experts as one function, and the bytes of one of them; `rows`: how many meet an expert at most."""
    if expert(0)[0].format in FLOATS:
        gate_up, down = _stacked(expert, kind.count)
        size = (gate_up.nbytes + down.nbytes) // kind.count
        if grouped:
            return _grouped(gate_up, down, kind), size
        floats: list[tuple[FormatLinear, FormatLinear]] = [
            (FloatLinear(wide, None), FloatLinear(narrow, None))
            for wide, narrow in zip(gate_up, down, strict=True)
        ]
        return _looped(floats, kind), size
    packed = _packed(expert, kind.count, act, rows, background)
    return _looped(packed, kind), sum(module.stored_bytes for module in packed[0])


def _stacked(expert: OneExpert, count: int) -> tuple[Tensor, Tensor]:
    """Gate and up [count, 2 · width, hidden], or up alone, and down [count, hidden, width] of a float format, each in one piece of memory."""
    first, each = expert(0)[0], len(expert(0)) - 1
    gate_up = torch.empty(count, each * first.n, first.k, dtype=FLOATS[first.format])
    down = torch.empty(count, first.k, first.n, dtype=FLOATS[first.format])
    for number in range(count):
        *into, narrow = (as_tensor(w.values, first.format) for w in expert(number))
        for place, part in enumerate(into):
            gate_up[number, place * first.n : (place + 1) * first.n] = part
        down[number] = narrow
    return gate_up, down


def _packed(
    expert: OneExpert, count: int, act: str, rows: int, background: Background
) -> list[tuple[FormatLinear, FormatLinear]]:
    """A module for gate and up and one for down, of each expert, packed for as many rows as it gets at most."""
    made = []
    for number in range(count):
        *into, down = expert(number)
        gate_up, narrow = (
            make_linear(weights, None, act, rows, "cpu", background) for weights in (into, [down])
        )
        made.append((gate_up, narrow))
    return made


def choose(x: Tensor, router: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """ids and shares [rows, chosen] by the router's logits: the largest, and the softmax over them alone."""
    kept, ids = functional.linear(x, router).topk(chosen, dim=-1)
    return ids, kept.softmax(-1)


def _grouped(gate_up: Tensor, down: Tensor, kind: Kind) -> Mix:
    """Rows in the order of their experts, and two grouped products over all of them."""
    numbers = torch.arange(kind.count)
    wide, narrow = gate_up.transpose(-2, -1), down.transpose(-2, -1)

    def run(x: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
        flat = ids.flatten()
        order = flat.argsort(stable=True)
        rows, of, share = order // ids.shape[-1], flat[order], shares.flatten()[order, None]
        ends = (flat[:, None] == numbers).sum(0).cumsum(0).to(torch.int32)
        inner = x[rows] * share if kind.on_input else x[rows]
        both = functional.grouped_mm(inner.to(wide.dtype), wide, offs=ends)
        y = functional.grouped_mm(kind.activate(both, of), narrow, offs=ends)
        return torch.zeros_like(x).index_add_(0, rows, kind.finish(y, of, share))

    return run


def _looped(experts: list[tuple[FormatLinear, FormatLinear]], kind: Kind) -> Mix:
    """One expert after the other, each with the rows that chose it."""

    def run(x: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for number in sorted(set(ids.flatten().tolist())):
            rows, places = torch.where(ids == number)
            gate_up, down = experts[number]
            of, share = ids[rows, places], shares[rows, places, None]
            inner = x[rows] * share if kind.on_input else x[rows]
            hidden = kind.activate(gate_up(inner.to(gate_up.activation)), of)
            y.index_add_(0, rows, kind.finish(down(hidden.to(down.activation)), of, share))
        return y

    return run
